"""The copy stays true through everything a server can do to a watch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from kube.client import Client, Connection
from kube.core import Node
from kube.informer import Change, Informer
from kube.reconcile import Backoff
from kube.resources import NODES
from tests.unit.kube.http import Exchange, Server, serving
from tests.unit.kube.test_reconcile import until

FAST = Backoff(first=0.01, most=0.05)


def node(name: str, version: int) -> dict[str, object]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


class World:
    """Lists in turn (the last one again and again) and watches in turn; a watch is the frames it sends, then an end."""

    def __init__(self, lists: list[list[dict[str, object]]], watches: list[list[tuple[str, object]] | None]) -> None:
        self.lists = lists
        self.watches = watches
        self.asked: list[str] = []
        self.first_list = asyncio.Event()

    async def script(self, exchange: Exchange) -> None:
        if "watch=" not in exchange.target:
            self.asked.append("list")
            items = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
            version = max((int(i["metadata"]["resourceVersion"]) for i in items), default=1)  # type: ignore[index]
            await exchange.answer(orjson.dumps({"metadata": {"resourceVersion": str(version)}, "items": items}))
            return
        self.asked.append(exchange.target.partition("resourceVersion=")[2].partition("&")[0])
        frames = self.watches.pop(0) if self.watches else None
        await exchange.begin()
        if frames is None:
            await asyncio.sleep(60)
        for kind, obj in frames or ():
            await exchange.send(orjson.dumps({"type": kind, "object": obj}) + b"\n")


@asynccontextmanager
async def running(world: World) -> AsyncIterator[tuple[Informer[Node], list[Change[Node]], Server]]:
    changes: list[Change[Node]] = []
    async with serving(world.script) as server, Client(Connection(server.url)) as client:
        informer = Informer(client, NODES)
        informer.subscribe(changes.append)
        task = asyncio.get_running_loop().create_task(informer.run(FAST))
        try:
            async with asyncio.timeout(5):
                await informer.synced.wait()
            yield informer, changes, server
        finally:
            task.cancel()


def brief(changes: list[Change[Node]]) -> list[str]:
    def version(found: Node | None) -> str:
        return found.metadata.resource_version if found else "-"

    return [f"{c.key} {version(c.old)}>{version(c.new)}" for c in changes]


GONE = ("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


async def test_what_a_gap_held_is_told_when_history_is_gone() -> None:
    world = World(
        [[node("a", 1), node("b", 2), node("c", 3)], [node("a", 1), node("b", 8), node("d", 9)]], [[GONE], None]
    )
    async with running(world) as (informer, changes, _):
        await until(lambda: len(changes) == 6)
        assert brief(changes) == ["a ->1", "b ->2", "c ->3", "c 3>-", "b 2>8", "d ->9"]
        assert sorted(n.metadata.name for n in informer.items()) == ["a", "b", "d"]
        await until(lambda: len(world.asked) == 4)
        assert world.asked == ["list", "3", "list", "9"]


async def test_a_watch_goes_on_from_the_last_version_it_saw_bookmarks_included() -> None:
    world = World(
        [[node("a", 3)]],
        [
            [("MODIFIED", node("a", 5)), ("BOOKMARK", {"metadata": {"resourceVersion": "11"}})],
            [("DELETED", node("a", 12))],
            None,
        ],
    )
    async with running(world) as (informer, changes, _):
        await until(lambda: len(world.asked) == 4)
        assert world.asked == ["list", "3", "11", "12"]
        assert brief(changes) == ["a ->3", "a 3>5", "a 5>-"]
        assert informer.get("a") is None


async def test_a_version_the_server_does_not_know_is_given_up() -> None:
    refused = ("ERROR", {"kind": "Status", "code": 504, "reason": "Timeout", "message": "Too large resource version"})
    world = World([[node("a", 9)], [node("a", 2)]], [[refused], None])
    async with running(world) as (_, changes, _server):
        await until(lambda: len(world.asked) == 4)
        assert world.asked == ["list", "9", "list", "2"]
        assert brief(changes) == ["a ->9", "a 9>2"]


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause() -> None:
    world = World([[node("a", 1)]], [[]] * 1000)
    async with running(world) as (_, _changes, _server):
        await until(lambda: len(world.asked) >= 4)
        before = len(world.asked)
        async with asyncio.timeout(5):
            await asyncio.sleep(0.3)
        assert len(world.asked) - before < 20  # at most one per 0.05 s, give or take


async def test_the_copy_stays_while_the_server_is_away_and_catches_up() -> None:
    world = World([[node("a", 1)]], [[], None])
    async with running(world) as (informer, _changes, server):
        await until(lambda: len(world.asked) >= 3)
        assert informer.get("a")
        assert server.connections >= 2


async def test_a_subscriber_that_raises_ends_the_informer() -> None:
    world = World([[node("a", 1)]], [None])
    async with serving(world.script) as server, Client(Connection(server.url)) as client:
        informer = Informer(client, NODES)

        def broken(_change: Change[Node]) -> None:
            raise KeyError("a bug")

        informer.subscribe(broken)
        with pytest.raises(KeyError):
            async with asyncio.timeout(5):
                await informer.run(FAST)
        assert informer.get("a"), "the copy is true all the same"
