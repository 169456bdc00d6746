"""LIST and WATCH together: what is told is exactly what is there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from apiserver import watch
from apiserver.cache import Offer, Shelf, bucket_of_namespace, bucket_of_node, bucket_of_object, storage_bytes
from tests.fakes.store import MemoryStore
from tests.unit.apiserver.calls import Calls, serving

NS = "/api/v1/namespaces/default"
CMS = f"{NS}/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@pytest.fixture
async def api() -> AsyncIterator[Calls]:
    async with serving() as calls:
        yield calls


async def put(api: Calls, name: str, **labels: str) -> str:
    """Creates or relabels a ConfigMap; its resource version."""
    body = {"metadata": {"name": name, "labels": labels}}
    answer = await api.post(CMS, body)
    if answer.code == 409:
        answer = await api.call("PUT", f"{CMS}/{name}", body)
    return str(answer.json["metadata"]["resourceVersion"])


def names(answer: Any) -> list[str]:
    return [item["metadata"]["name"] for item in answer.json["items"]]


async def test_a_watch_without_version_begins_with_what_is_there(api: Calls) -> None:
    await put(api, "a")
    watching = await api.watch(f"{CMS}?watch=true")
    assert await watching.brief() == ("ADDED", "a")
    await put(api, "b")
    assert await watching.brief() == ("ADDED", "b")
    await put(api, "a", x="y")
    assert await watching.brief() == ("MODIFIED", "a")
    await api.call("DELETE", f"{CMS}/a")
    frame = await watching.next()
    assert (frame["type"], frame["object"]["metadata"]["labels"]) == ("DELETED", {"x": "y"})
    assert int(frame["object"]["metadata"]["resourceVersion"]) == api.cache.rv
    await watching.close()


async def test_a_watch_from_a_version_continues_after_it(api: Calls) -> None:
    rv = await put(api, "a")
    await put(api, "b")
    watching = await api.watch(f"{CMS}?watch=1&resourceVersion={rv}")
    assert await watching.brief() == ("ADDED", "b")
    await watching.close()


async def test_a_version_that_is_too_old_or_not_yet_there() -> None:
    async with serving(ring=3) as api:
        old = await put(api, "a")
        for n in range(6):
            await put(api, f"b{n}")
        refused = await api.get(f"{CMS}?watch=true&resourceVersion={old}")
        assert (refused.code, refused.json["reason"]) == (410, "Expired")
        assert refused.json["message"].startswith(f"too old resource version: {old} (")
        exact = await api.get(f"{CMS}?resourceVersion={old}&resourceVersionMatch=Exact")
        assert exact.code == 410


async def test_selectors_turn_changes_into_arrivals_and_departures(api: Calls) -> None:
    rv = await put(api, "z")
    watching = await api.watch(f"{CMS}?watch=true&labelSelector=on&resourceVersion={rv}")
    await put(api, "a")
    await put(api, "a", on="1")
    assert await watching.brief() == ("ADDED", "a")
    await put(api, "a", on="2")
    assert await watching.brief() == ("MODIFIED", "a")
    left = await put(api, "a")
    frame = await watching.next()
    assert (frame["type"], frame["object"]["metadata"]["labels"]) == ("DELETED", {"on": "2"})
    assert frame["object"]["metadata"]["resourceVersion"] == left
    await watching.close()


async def test_field_selectors_use_their_index_and_their_negation(api: Calls) -> None:
    for name, node in (("a", "n1"), ("b", "n2"), ("c", "")):
        spec = {"containers": [{"name": "c", "image": "i"}]} | ({"nodeName": node} if node else {})
        await api.post(f"{NS}/pods", {"metadata": {"name": name}, "spec": spec})
    assert names(await api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")) == ["a"]
    assert names(await api.get("/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1")) == ["b", "c"]
    assert names(await api.get("/api/v1/pods?fieldSelector=spec.nodeName%3D")) == ["c"]
    assert names(await api.get(f"{NS}/pods?fieldSelector=metadata.name%3Db,status.phase%3DPending")) == ["b"]
    assert names(await api.get("/api/v1/services?fieldSelector=spec.clusterIP!%3DNone")) == ["kubernetes"]
    refused = await api.get("/api/v1/pods?fieldSelector=foo%3Dbar")
    assert (refused.code, refused.json["message"]) == (400, "field label not supported: foo")


async def test_pages_are_of_one_moment(api: Calls) -> None:
    for n in range(7):
        await put(api, f"a{n}")
    first = await api.get(f"{CMS}?limit=3")
    assert names(first) == ["a0", "a1", "a2"]
    assert first.json["metadata"]["remainingItemCount"] == 4
    await put(api, "a35")
    await api.call("DELETE", f"{CMS}/a4")
    second = await api.get(f"{CMS}?limit=3&continue={first.json['metadata']['continue']}")
    assert names(second) == ["a3", "a4", "a5"]
    assert second.json["metadata"]["resourceVersion"] == first.json["metadata"]["resourceVersion"]
    third = await api.get(f"{CMS}?limit=3&continue={second.json['metadata']['continue']}")
    assert names(third) == ["a6"]
    assert "continue" not in third.json["metadata"]
    assert names(await api.get(f"{CMS}?limit=3&resourceVersion=0"))[-1] == "a6"
    assert (await api.get(f"{CMS}?continue=nonsense")).code == 400


async def test_a_page_of_a_forgotten_moment_can_go_on_inconsistently() -> None:
    async with serving(ring=3) as api:
        for n in range(4):
            await put(api, f"a{n}")
        token = (await api.get(f"{CMS}?limit=2")).json["metadata"]["continue"]
        for n in range(5):
            await put(api, f"a{n}", x=str(n))
        expired = await api.get(f"{CMS}?limit=2&continue={token}")
        assert (expired.code, expired.json["reason"]) == (410, "Expired")
        again = await api.get(f"{CMS}?limit=2&continue={expired.json['metadata']['continue']}")
        assert names(again) == ["a2", "a3"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=1&resourceVersionMatch=Sometimes", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("watch=true&resourceVersion=1&resourceVersionMatch=Exact", 422),
        ("watch=true&sendInitialEvents=true", 422),
        ("sendInitialEvents=true", 422),
        ("resourceVersion=abc", 422),
        ("limit=abc", 400),
        ("watch=perhaps", 400),
        ("labelSelector=%3D%3D", 400),
        ("resourceVersion=128&resourceVersionMatch=NotOlderThan", 200),
        ("watch=false", 200),
    ],
)
async def test_list_options_are_checked(api: Calls, query: str, code: int) -> None:
    assert (await api.get(f"{CMS}?{query}")).code == code


async def test_a_version_from_the_future_is_waited_for(api: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    future = api.cache.rv + 128
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(api.get(f"{CMS}?resourceVersion={future}"))
        await put(api, "a")
    assert names(waiting.result()) == ["a"]
    monkeypatch.setattr("apiserver.listing.FRESH_WAIT", 0.01)
    late = await api.get(f"{CMS}?resourceVersion={future + 12800}")
    assert (late.code, late.json["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")


async def test_streaming_lists_end_with_their_bookmark(api: Calls) -> None:
    await put(api, "a")
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watching = await api.watch(f"{CMS}?{query}")
    assert await watching.brief() == ("ADDED", "a")
    end = await watching.next()
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(end["object"]["metadata"]["resourceVersion"]) == api.cache.rv
    await put(api, "b")
    assert await watching.brief() == ("ADDED", "b")
    await watching.close()


async def test_bookmarks_come_only_to_who_asked_and_before_the_end() -> None:
    async with serving(bookmark_every=0.02) as api:
        watching = await api.watch(f"{CMS}?watch=true&resourceVersion={api.cache.rv}&allowWatchBookmarks=true")
        frame = await watching.next()
        assert (frame["type"], frame["object"]["kind"]) == ("BOOKMARK", "ConfigMap")
        await watching.close()
        plain = await api.watch(f"{CMS}?watch=true&resourceVersion={api.cache.rv}&timeoutSeconds=1")
        assert await plain.rest() == []


async def test_a_table_watch_sends_columns_once(api: Calls) -> None:
    await put(api, "a")
    await put(api, "b")
    watching = await api.watch(f"{CMS}?watch=true", Accept=TABLE)
    first, second = await watching.next(), await watching.next()
    assert first["object"]["kind"] == "Table"
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert second["object"]["columnDefinitions"] is None
    assert second["object"]["rows"][0]["object"]["metadata"]["name"] == "b"
    await watching.close()


async def test_metadata_only(api: Calls) -> None:
    await put(api, "a")
    answer = await api.get(CMS, Accept=METADATA)
    assert (answer.json["kind"], answer.json["items"][0]["kind"]) == (
        "PartialObjectMetadataList",
        "PartialObjectMetadata",
    )
    assert "data" not in answer.json["items"][0]
    watching = await api.watch(f"{CMS}?watch=true", Accept=METADATA)
    assert (await watching.next())["object"]["kind"] == "PartialObjectMetadata"
    await watching.close()


async def test_watching_one_object(api: Calls) -> None:
    await put(api, "a")
    await put(api, "b")
    watching = await api.watch(f"{CMS}/b?watch=true")
    assert await watching.brief() == ("ADDED", "b")
    await watching.close()


async def test_a_slow_watcher_is_closed_and_can_resume(api: Calls) -> None:
    rv = await put(api, "a")
    watching = await api.watch(f"{CMS}?watch=true")
    assert await watching.brief() == ("ADDED", "a")
    rv = await put(api, "a", now="live")
    assert await watching.brief() == ("MODIFIED", "a")
    watching.unsent = watch.MAX_BYTES + 1
    for n in range(10):
        await put(api, f"b{n}")
    assert [frame["object"]["metadata"]["name"] for frame in await watching.rest()] == ["b0"]
    assert not api.watches.open
    resumed = await api.watch(f"{CMS}?watch=true&resourceVersion={rv}")
    assert [await resumed.brief() for _ in range(10)] == [("ADDED", f"b{n}") for n in range(10)]
    await resumed.close()


async def test_watchers_share_one_rendering(api: Calls) -> None:
    watchings = [await api.watch(f"{CMS}?watch=true&resourceVersion={api.cache.rv}") for _ in range(3)]
    while len(api.watches.open) < 3:
        await asyncio.sleep(0)
    await put(api, "a")
    for watching in watchings:
        assert await watching.brief() == ("ADDED", "a")
        assert watching.pieces[0] is watchings[0].pieces[0]
        await watching.close()


async def test_ending_the_server_ends_watches(api: Calls) -> None:
    watching = await api.watch(f"{CMS}?watch=true&resourceVersion={api.cache.rv}")
    async with asyncio.TaskGroup() as group:
        rest = group.create_task(watching.rest())
        while not api.watches.open:
            await asyncio.sleep(0)
        api.watches.close()
    assert rest.result() == []


async def test_a_restart_keeps_the_history_for_those_who_come_back() -> None:
    store = MemoryStore()
    async with serving(store) as api:
        rv = await put(api, "a")
        await put(api, "a", x="1")
        await api.call("DELETE", f"{CMS}/a")
    async with serving(store) as api:
        watching = await api.watch(f"{CMS}?watch=true&resourceVersion={rv}")
        assert [await watching.brief() for _ in range(2)] == [("MODIFIED", "a"), ("DELETED", "a")]
        await watching.close()


class Copy:
    """A client's copy of the selected ConfigMaps, kept by applying what the watch tells."""

    def __init__(self, selector: str) -> None:
        self.selector = selector
        self.objects: dict[str, Any] = {}
        self.rv = ""

    async def start(self, api: Calls) -> None:
        answer = await api.get(f"{CMS}?labelSelector={self.selector}")
        self.objects = {item["metadata"]["name"]: item for item in answer.json["items"]}
        self.rv = answer.json["metadata"]["resourceVersion"]

    def apply(self, frame: dict[str, Any]) -> None:
        obj = frame["object"]
        name, self.rv = obj["metadata"].get("name"), obj["metadata"]["resourceVersion"]
        match frame["type"]:
            case "ADDED":
                assert name not in self.objects
                self.objects[name] = obj
            case "MODIFIED":
                assert name in self.objects
                self.objects[name] = obj
            case "DELETED":
                del self.objects[name]

    async def check(self, api: Calls) -> None:
        query = f"labelSelector={self.selector}&resourceVersion={self.rv}&resourceVersionMatch=Exact"
        answer = await api.get(f"{CMS}?{query}")
        assert list(self.objects.values()) == [] or answer.code == 200
        assert {item["metadata"]["name"]: item for item in answer.json["items"]} == self.objects


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("selector", ["", "on", "on%3D1", "!on"])
async def test_a_copy_equals_the_list_at_every_bookmark_whenever_it_reconnects(seed: int, selector: str) -> None:
    rng = random.Random(f"{seed}{selector}")
    async with serving(bookmark_every=0.003) as api:

        async def writes() -> None:
            for _ in range(120):
                name = f"c{rng.randrange(6)}"
                if rng.random() < 0.25:
                    await api.call("DELETE", f"{CMS}/{name}")
                else:
                    await put(api, name, **({"on": str(rng.randrange(3))} if rng.random() < 0.6 else {}))
                await asyncio.sleep(rng.choice((0, 0, 0.001)))

        copy, checked, seen = Copy(selector), 0, {""}
        await copy.start(api)
        states = {copy.rv: dict(copy.objects)}
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(writes())
            while not writing.done() or int(copy.rv) < api.cache.rv:
                query = f"labelSelector={selector}&resourceVersion={copy.rv}&allowWatchBookmarks=true"
                watching = await api.watch(f"{CMS}?watch=true&{query}")
                for _ in range(rng.randrange(1, 12)):
                    frame = await watching.next()
                    copy.apply(frame)
                    seen.add(copy.rv)
                    if frame["type"] == "BOOKMARK":
                        await copy.check(api)
                        checked += 1
                    states[copy.rv] = dict(copy.objects)
                await watching.close()
                if rng.random() < 0.3:  # a client that lost its last steps and resumes from an older version
                    copy.rv = rng.choice(list(states))
                    copy.objects = dict(states[copy.rv])
        assert checked


async def test_a_watcher_hears_only_of_its_bucket() -> None:
    """What others do costs a watcher of one object, node or namespace nothing."""
    shelf = Shelf(lambda obj: {"spec.nodeName": obj.get("node", "")}, 0)
    heard: dict[str, list[int]] = {}

    def offer(name: str) -> Offer:
        return lambda event, _: heard.setdefault(name, []).append(event.rv)

    with (
        shelf.watched(offer("all")),
        shelf.watched(offer("namespace"), bucket_of_namespace("x")),
        shelf.watched(offer("object"), bucket_of_object("x", "a")),
        shelf.watched(offer("node"), bucket_of_node("n")),
    ):
        for rv, key, node in ((1, ("x", "a"), ""), (2, ("x", "b"), "n"), (3, ("y", "a"), "m"), (4, ("x", "b"), "m")):
            shelf.apply(key, storage_bytes({"kind": "K", "apiVersion": "v1", "metadata": {}, "node": node}), rv)
        shelf.apply(("x", "b"), None, 5)
    shelf.apply(("x", "a"), None, 6)
    assert heard == {"all": [1, 2, 3, 4, 5], "namespace": [1, 2, 4, 5], "object": [1], "node": [2, 4]}
    assert not shelf._watchers
