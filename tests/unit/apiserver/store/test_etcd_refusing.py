"""An etcd that answers with a gRPC code of its own: what becomes of it, and that the store goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from apiserver.store import Op, StoreAway, StoreFailed
from apiserver.store.etcd import EtcdStore, open_store
from kube.etcd import Access

UNKNOWN = (grpc.StatusCode.INTERNAL, "a bug of etcd's")
BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


class Refusing(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers emptily, but with what `says` has for a method."""

    def __init__(self) -> None:
        self.says: dict[str, tuple[grpc.StatusCode, str]] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.rpartition("/")[2]

        async def answer(_request: bytes, context: Any) -> bytes:
            if method in self.says:
                await context.abort(*self.says[method])
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[Refusing, str]]:
    handler = Refusing()
    server = grpc.aio.server(handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def store() -> AsyncIterator[tuple[Refusing, EtcdStore]]:
    async with refusing() as (etcd, endpoint), open_store(Access((endpoint,)), "/p", compact_every=None) as opened:
        yield etcd, opened


@pytest.mark.parametrize("says", [UNKNOWN, BUSY])
async def test_a_read_that_is_refused_does_not_end_the_store(says: tuple[grpc.StatusCode, str]) -> None:
    async with store() as (etcd, opened):
        etcd.says["Range"] = says
        with pytest.raises(StoreFailed, match=says[1]):
            await opened.current()
        with pytest.raises(StoreFailed, match=says[1]):
            await opened.health()
        etcd.says.clear()
        await opened.current()


async def test_an_alarm_that_cannot_be_asked_for_is_a_failure_of_the_store() -> None:
    async with store() as (etcd, opened):
        etcd.says |= {"Range": BUSY, "Alarm": UNKNOWN}
        with pytest.raises(StoreAway):
            await opened.current()
        assert opened.trouble()
        del etcd.says["Range"]
        with pytest.raises(StoreFailed, match=UNKNOWN[1]):
            await opened.health()
        etcd.says.clear()
        await opened.health()
        assert opened.trouble() is None


async def test_an_etcd_that_is_refusing_opens_no_store() -> None:
    async with refusing() as (etcd, endpoint):
        etcd.says["Range"] = UNKNOWN
        with pytest.raises(StoreFailed, match=UNKNOWN[1]):
            async with open_store(Access((endpoint,)), "/p"):
                pass


async def test_too_many_requests_are_a_matter_of_a_moment() -> None:
    async with store() as (etcd, opened):
        etcd.says["Txn"] = BUSY
        with pytest.raises(StoreAway, match=BUSY[1]):
            await opened.txn([Op("/registry/a", b"x")])
        etcd.says["Txn"] = UNKNOWN
        with pytest.raises(StoreFailed, match=UNKNOWN[1]) as failed:
            await opened.txn([Op("/registry/a", b"x")])
        assert not isinstance(failed.value, StoreAway)
