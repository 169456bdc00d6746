"""componentstatuses: what the parts of the centre say when they are asked."""

from __future__ import annotations

import socket
from typing import Any

import orjson
import pytest

from apiserver import schema
from apiserver.authentication import ANONYMOUS
from apiserver.errors import StatusError
from apiserver.http.components import COMPONENTS, WARNING, Components, asking
from apiserver.http.exchange import Answer, Request
from apiserver.http.routes import parse
from apiserver.outward import Outward

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


async def fine() -> str | None:
    return None


async def sad() -> str | None:
    return "disk full"


COMPONENT_STATUSES = Components({"scheduler": fine, "etcd-0": sad})


async def get(path: str, accept: str = "application/json", method: str = "GET") -> Any:
    async def body() -> bytes:
        return b""

    route = parse(path)
    assert route is not None
    request = Request(method, path, {}, "", {"Accept": accept}, body, ANONYMOUS)
    answer = await COMPONENT_STATUSES.handle(route, request)
    assert isinstance(answer, Answer)
    assert answer.warnings == (WARNING,)
    return orjson.loads(answer.body)


async def test_the_list_says_how_each_is() -> None:
    found = await get("/api/v1/componentstatuses")
    assert found["kind"] == "ComponentStatusList"
    said = {one["metadata"]["name"]: one["conditions"][0] for one in found["items"]}
    assert said == {
        "etcd-0": {"type": "Healthy", "status": "False", "message": "disk full"},
        "scheduler": {"type": "Healthy", "status": "True", "message": "ok"},
    }
    rows = (await get("/api/v1/componentstatuses", TABLE))["rows"]
    assert [row["cells"][:3] for row in rows] == [["etcd-0", "Unhealthy", "disk full"], ["scheduler", "Healthy", "ok"]]


async def test_one_of_them_and_none() -> None:
    assert (await get("/api/v1/componentstatuses/scheduler"))["kind"] == "ComponentStatus"
    for path, method, code in (
        ("/api/v1/componentstatuses/nobody", "GET", 404),
        ("/api/v1/namespaces/default/componentstatuses", "GET", 404),
        ("/api/v1/componentstatuses", "POST", 405),
    ):
        with pytest.raises(StatusError) as caught:
            await get(path, method=method)
        assert caught.value.code == code


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        async with Outward() as session:
            said = await asking(session, taken.getsockname()[1])()
    assert said is not None
    assert "/healthz" in said


def test_it_is_offered_only_where_it_is_answered() -> None:
    everything = tuple(schema.offered(schema.served(), {}, {COMPONENTS}))
    assert next(one for one in everything if one.plural == "componentstatuses").verbs == ("get", "list")
    assert not [one for one in schema.offered(schema.served(), {}, {}) if one.plural == "componentstatuses"]
