"""LIST and WATCH prove each other: a copy that applies what it is told is what LIST shows, at every bookmark.

Writers, watchers with selectors, disconnects, resumed and fresh watches, compactions and restarts of the server come in an
order that hypothesis chooses. A watcher is a client-go informer in small: it remembers the last version it was told, goes on
from there, and lists again when it is told 410.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver import cache
from tests.fakes.store import MemoryStore
from tests.unit.apiserver.calls import Calls, Watching, serving

ALL = "/api/v1/configmaps"
NAMES = ("a", "b", "c", "d")
SELECTORS = (
    "",
    "labelSelector=x%3D1",
    "labelSelector=x+in+(1,2),!y",
    "fieldSelector=metadata.name%3Da",
    "namespace=default",
)
RING = 8

Key = tuple[str, str]


@dataclass
class Reflector:
    """One client. `history` is every version it was told of, which may only grow."""

    selector: str
    streaming: bool
    copy: dict[Key, dict[str, Any]] = field(default_factory=dict)
    rv: str = ""
    watching: Watching | None = None
    marked: int = 0
    relists: int = 0

    def url(self, *query: str) -> str:
        path = "/api/v1/namespaces/default/configmaps" if self.selector.startswith("namespace") else ALL
        wanted = [*query] + ([self.selector] if "Selector" in self.selector else [])
        return f"{path}?{'&'.join(wanted)}"

    async def connect(self, api: Calls) -> None:
        watch = ("watch=true", "allowWatchBookmarks=true")
        if not self.rv and self.streaming:
            self.copy.clear()
            self.marked = 0  # what comes now is a list again, in no order of versions
            initial = ("sendInitialEvents=true", "resourceVersionMatch=NotOlderThan")
            self.watching = await api.watch(self.url(*watch, *initial))
            return
        if not self.rv:
            listed = (await api.get(self.url("limit=500"))).json
            self.copy = {_key(item): item for item in listed["items"]}
            self.rv = listed["metadata"]["resourceVersion"]
        refused = await api.call_or_watch(self.url(*watch, f"resourceVersion={self.rv}"))
        if isinstance(refused, Watching):
            self.watching = refused
            return
        assert (refused.code, refused.json["reason"]) == (410, "Expired")
        self.rv = ""
        self.relists += 1
        await self.connect(api)

    async def disconnect(self) -> None:
        if self.watching is not None:
            for frame in self.watching.seen():
                self.apply(frame)
            await self.watching.close()
            self.watching = None
        if self.streaming and not self.marked:
            self.rv = ""  # cut before the initial events ended: nothing of it counts

    def apply(self, frame: dict[str, Any]) -> None:
        word, obj = frame["type"], frame["object"]
        if word == "ERROR":
            assert obj["code"] == 410
            self.rv = ""
            return
        rv = obj["metadata"]["resourceVersion"]
        initial = self.streaming and not self.marked and word == "ADDED"
        if word != "BOOKMARK":
            assert initial or not self.rv or int(rv) > int(self.rv), "told twice, or out of order"
            known = _key(obj) in self.copy
            assert known == (word != "ADDED"), f"{word} of what the client {'knows' if known else 'does not know'}"
            if word == "DELETED":
                del self.copy[_key(obj)]
            else:
                self.copy[_key(obj)] = obj
        elif "annotations" in obj["metadata"]:
            assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            self.marked += 1
        if not initial:
            self.rv = rv

    async def caught_up(self, api: Calls) -> None:
        """Follows to the newest version, then is what LIST shows."""
        if self.watching is None:
            await self.connect(api)
        assert self.watching is not None
        listed = (await api.get(self.url())).json
        wanted = {_key(item): item for item in listed["items"]}
        async with asyncio.timeout(5):
            while self.watching is not None and (self.copy != wanted or self.watching.has_frames):
                if self.watching.done and not self.watching.has_frames:
                    await self.disconnect()
                    await self.connect(api)
                    continue
                self.apply(await self.watching.next())
        assert self.copy == wanted


def _key(obj: dict[str, Any]) -> Key:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


LABELS = st.sampled_from([{}, {"x": "1"}, {"x": "2"}, {"x": "1", "y": "z"}])
NAMESPACES = st.sampled_from(["default", "kube-system"])
STEPS = st.one_of(
    st.tuples(
        st.just("put"),
        NAMESPACES,
        st.sampled_from(NAMES),
        st.sampled_from([{}, {"x": "1"}, {"x": "2"}, {"x": "1", "y": "z"}]),
    ),
    st.tuples(st.just("delete"), NAMESPACES, st.sampled_from(NAMES)),
    st.tuples(st.just("connect"), st.integers(0, 3)),
    st.tuples(st.just("disconnect"), st.integers(0, 3)),
    st.tuples(st.just("check"), st.integers(0, 3)),
    st.tuples(st.just("yield"), st.integers(1, 5)),
    st.tuples(st.just("restart")),
    st.tuples(st.just("compact")),
    st.tuples(st.just("burst"), NAMESPACES, st.integers(2, 2 * RING)),
)


class World:
    def __init__(self, clients: list[tuple[str, bool]]) -> None:
        self.store = MemoryStore(history=30)
        self.stack = AsyncExitStack()
        self.clients = [Reflector(*one) for one in clients]
        self.number = 0
        self.api: Calls

    async def start(self) -> None:
        self.api = await self.stack.enter_async_context(serving(self.store, ring=RING, bookmark_every=0.001))

    async def restart(self) -> None:
        for client in self.clients:
            await client.disconnect()
        await self.stack.aclose()
        await self.start()

    async def put(self, namespace: str, name: str, labels: dict[str, str]) -> None:
        self.number += 1
        url = f"/api/v1/namespaces/{namespace}/configmaps"
        body = {"metadata": {"name": name, "labels": labels}, "data": {"n": str(self.number)}}
        if (await self.api.post(url, body)).code == 409:
            assert (await self.api.call("PUT", f"{url}/{name}", body)).code == 200

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case "put", namespace, name, labels:
                await self.put(namespace, name, labels)
            case "burst", namespace, count:
                async with asyncio.TaskGroup() as group:
                    for n in range(count):
                        group.create_task(self.put(namespace, NAMES[n % 4], {"x": str(n % 3)}))
            case "delete", namespace, name:
                await self.api.call("DELETE", f"/api/v1/namespaces/{namespace}/configmaps/{name}")
            case "connect", number:
                client = self.clients[number % len(self.clients)]
                if client.watching is None:
                    await client.connect(self.api)
            case "disconnect", number:
                await self.clients[number % len(self.clients)].disconnect()
            case "check", number:
                await self.clients[number % len(self.clients)].caught_up(self.api)
            case "yield", turns:
                for _ in range(turns):
                    await asyncio.sleep(0)
            case ("compact",):
                await self.store.compact(self.store.rv - (4 << 7))
            case _:
                await self.restart()


@contextmanager
def turns_for_all() -> Iterator[None]:
    """Everybody has a turn after every subscriber that was told, as a thousand of them would give."""
    before, cache.TOLD_AT_ONCE = cache.TOLD_AT_ONCE, 1  # type: ignore[misc]
    try:
        yield
    finally:
        cache.TOLD_AT_ONCE = before  # type: ignore[misc]


async def lived(clients: list[tuple[str, bool]], steps: list[tuple[Any, ...]]) -> World:
    world = World(clients)
    await world.start()
    try:
        for step in steps:
            await world.step(step)
        for client in world.clients:
            await client.caught_up(world.api)
            await client.disconnect()
    finally:
        for client in world.clients:
            if client.watching is not None:
                await client.watching.close()
        await world.stack.aclose()
    return world


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SELECTORS), st.booleans()), min_size=1, max_size=4), st.lists(STEPS, max_size=30)
)
def test_a_copy_that_applies_what_it_is_told_is_what_list_shows(
    clients: list[tuple[str, bool]], steps: list[tuple[Any, ...]]
) -> None:
    with turns_for_all():
        asyncio.run(lived(clients, steps))


def test_a_client_that_was_away_too_long_lists_again() -> None:
    steps = [
        ("put", "default", "a", {}),
        ("check", 0),
        ("disconnect", 0),
        ("burst", "default", 2 * RING),
        ("burst", "default", 2 * RING),
    ]
    world = asyncio.run(lived([("", False)], steps))
    assert world.clients[0].relists == 1


def test_a_bookmark_is_not_behind_what_its_client_was_told() -> None:
    steps = [("connect", 0), ("burst", "default", 5), ("disconnect", 0)]
    for _ in range(5):  # it was behind every other time
        with turns_for_all():
            asyncio.run(lived([("labelSelector=x%3D1", False)], steps))
