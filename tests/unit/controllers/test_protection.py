"""Claims in use: which pods use them, what is read to know it, and which events end the wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import orjson
import pytest

from controllers.observe import World
from controllers.protection import POLL, Protection, claims
from kube.client import Client, Connection
from kube.meta import Typed
from kube.pods import Pod
from kube.resources import Resource
from tests.unit.controllers.paper import decoded
from tests.unit.kube.http import Exchange, Server, serving

CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, Typed)
CLAIM = {
    "metadata": {
        "name": "c", "namespace": "n", "uid": "1", "resourceVersion": "1",
        "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kubernetes.io/pvc-protection"],
    },
}  # fmt: skip
USED = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}


def pod(*volumes: dict[str, Any], name: str = "p", node: str = "w", phase: str = "Running") -> Pod:
    spec = {"nodeName": node, "volumes": volumes}
    obj = {"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec, "status": {"phase": phase}}
    found = decoded(obj, Pod)
    assert isinstance(found, Pod)
    return found


@asynccontextmanager
async def loop(*there: Pod) -> AsyncIterator[tuple[World, Protection, Server]]:
    """`there` is what a list of pods shows; the informer shows what tests put into it."""

    async def script(exchange: Exchange) -> None:
        listed = exchange.target.partition("?")[0].endswith("/pods")
        found = {"metadata": {"resourceVersion": "1"}, "items": [msgspec.to_builtins(one) for one in there]}
        await exchange.answer(orjson.dumps(found if listed else CLAIM))

    async with serving(script) as server, Client(Connection(server.url)) as client:
        world = World(client, [CLAIMS])
        yield world, Protection(world), server


@pytest.mark.parametrize(
    ("one", "used"),
    [
        (pod(USED), {"c"}),
        (pod(USED, {"name": "own", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}), {"c", "p-own"}),
        (pod({"name": "e", "emptyDir": {}}), set()),
        (pod(USED, node=""), set()),
        (pod(USED, phase="Succeeded"), set()),
    ],
)
def test_which_claims_a_pod_uses(one: Pod, used: set[str]) -> None:
    assert claims(one) == used


async def test_while_the_informer_shows_a_user_nothing_is_read() -> None:
    async with loop() as (world, protection, server):
        world.pods._replace("n/p", pod(USED))
        assert await protection.sync("n/c") is None
        assert server.seen == []


async def test_only_the_end_of_a_user_ends_the_wait() -> None:
    async with loop() as (world, protection, server):
        world.pods._replace("n/p", pod(USED))
        await protection.sync("n/c")
        world.pods._replace("n/q", pod({"name": "e", "emptyDir": {}}, name="q"))
        world.pods._replace("n/q", None)
        world.pods._replace("n/p", pod(USED, phase="Pending"))
        assert len(protection.keys) == 0
        world.pods._replace("n/p", pod(USED, phase="Failed"))
        assert await protection.keys.take() == "n/c"
        await protection.sync("n/c")
        assert server.seen[-1].startswith("PATCH /api/v1/namespaces/n/persistentvolumeclaims/c")


async def test_who_is_gone_uses_nothing() -> None:
    async with loop() as (world, protection, _):
        world.pods._replace("n/p", pod(USED))
        await protection.sync("n/c")
        world.pods._replace("n/p", None)
        assert len(protection.keys) == 1


async def test_a_user_that_the_informer_does_not_show_yet_counts() -> None:
    async with loop(pod(USED)) as (_, protection, server):
        assert await protection.sync("n/c") == POLL
        assert not any(one.startswith("PATCH") for one in server.seen)
