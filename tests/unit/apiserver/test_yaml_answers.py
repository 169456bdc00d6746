"""YAML out: the very text that the whole would be, while others are served."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson
import pytest
import yaml

from apiserver import schema
from apiserver.cache import Entry
from apiserver.http import as_yaml
from apiserver.http.exchange import Reply, Request, Stream, json_answer
from apiserver.schema import GVK
from apiserver.views import Objects
from tests.fakes.store import MemoryStore
from tests.unit.apiserver.calls import serving as api
from tests.unit.apiserver.test_http import get, serving

INFO = next(one for one in schema.served() if one.gvk == GVK("", "v1", "ConfigMap"))
ODD = ({}, {"a": "- b\\nc: d\\n", "items: []": ""}, {"\u00e4": "yes", "n": "1", "long": "x y " * 100}, {"t": "\t#"})


def entry(number: int) -> Entry:
    metadata = {"name": f"c{number}", "namespace": "n", "labels": {}, "finalizers": []}
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": ODD[number % len(ODD)]}
    return Entry("n", f"c{number}", number, (orjson.dumps(body),), {}, {})


@pytest.mark.parametrize("count", [0, 1, 2000])
async def test_a_list_written_in_parts_is_the_list(count: int) -> None:
    view, metadata = Objects(INFO), {"resourceVersion": "7", "continue": "items: []"}
    entries = [entry(number) for number in range(count)]
    parts = [part async for part in as_yaml.listed(view, entries, metadata)]
    whole = orjson.loads(b"".join(view.slices(entries, metadata)))
    assert yaml.load(b"".join(parts), yaml.CSafeLoader) == whole
    assert b"".join(parts) == await as_yaml.written(orjson.dumps(whole))
    assert len(parts) > 5 or count < 2000


async def test_what_is_long_is_written_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[Any] = []
    before = as_yaml._dumped
    monkeypatch.setattr(
        as_yaml, "_dumped", lambda value: (threads.append(threading.current_thread()), before(value))[1]
    )

    async def answer(_: Request) -> Reply:
        return json_answer({"a": ["x"] * 5000})

    async with serving(answer) as world:
        found = await world.ask(get("/", "Accept: application/yaml"))
    assert found.header("content-type") == "application/yaml"
    assert yaml.load(found.body, yaml.CSafeLoader) == {"a": ["x"] * 5000}
    assert threads
    assert threading.main_thread() not in threads


def test_a_long_list_is_streamed() -> None:
    async def trial() -> None:
        async with api(MemoryStore()) as calls:
            for number in range(5):
                body = {"metadata": {"name": f"c{number}"}, "data": {"a": "x" * 60_000}}
                assert (await calls.post("/api/v1/namespaces/default/configmaps", body)).code == 201
            reply = await calls.reply("GET", "/api/v1/namespaces/default/configmaps", Accept="application/yaml")
            assert isinstance(reply, Stream)
            assert (reply.content_type, reply.whole) == ("application/yaml", True)
            found = yaml.load(b"".join([part async for part in reply.chunks]), yaml.CSafeLoader)
            assert [item["metadata"]["name"] for item in found["items"]] == [f"c{n}" for n in range(5)]

    asyncio.run(trial())
