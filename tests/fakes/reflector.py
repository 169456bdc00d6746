"""An informer written after client-go's rules (tools/cache/reflector.go), as strict as a judge.

It streams the first list when told to (`sendInitialEvents`, client-go's default since 1.35), else lists from
resourceVersion 0 in pages; watches with bookmarks from the last version it saw; after a 410 lists again from the newest; after
anything else watches again. Beside keeping a copy it holds the server to what a watch promises: within one history no event
comes twice, out of order, or about an object in a state that the events before did not lead to. What it catches is raised.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

Obj = dict[str, Any]
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError, asyncio.IncompleteReadError)


class Gone(Exception):
    """The version asked for is no longer served."""


@dataclass(slots=True)
class Counts:
    lists: int = 0
    streamed: int = 0
    watches: int = 0
    events: int = 0
    bookmarks: int = 0
    gone: int = 0
    broken: int = 0


@dataclass(slots=True)
class Reflector:
    session: aiohttp.ClientSession
    url: str
    streaming: bool
    rng: random.Random
    label_selector: str = ""
    objects: dict[str, Obj] = field(default_factory=dict)
    version: str = ""
    counts: Counts = field(default_factory=Counts)
    _newest: bool = False  # the last version was refused: list what there is now
    _connected: bool = False

    async def run(self) -> None:
        """For ever. Raises AssertionError when the server broke a promise."""
        while True:
            try:
                if not self.version or self._newest:
                    await (self._stream_list() if self.streaming else self._list())
                await self._watch()
            except Gone:
                self.counts.gone += 1
                self._newest = True
            except BROKEN:
                self.counts.broken += 1
                await asyncio.sleep(self.rng.uniform(0.01, 0.1))

    def _query(self, **more: str) -> dict[str, str]:
        return more | ({"labelSelector": self.label_selector} if self.label_selector else {})

    async def _list(self) -> None:
        version = "" if self._newest else self.version or "0"
        found: dict[str, Obj] = {}
        query = self._query(limit="500", **({"resourceVersion": version} if version else {}))
        while True:
            async with self.session.get(self.url, params=query) as response:
                body = await response.json()
                if response.status == 410:
                    raise Gone
                assert response.status in (200, 429, 503, 504), body
                if response.status != 200:
                    raise aiohttp.ClientError(body["message"])
            for one in body["items"]:
                assert key_of(one) not in found, f"{key_of(one)} is on two pages"
                found[key_of(one)] = one
            if not (token := body["metadata"].get("continue")):
                break
            query = self._query(limit="500", **{"continue": token})
        self.counts.lists += 1
        self._replace(found, body["metadata"]["resourceVersion"])

    def _replace(self, found: dict[str, Obj], version: str) -> None:
        self.objects, self.version, self._newest = found, version, False

    async def _stream_list(self) -> None:
        query = self._query(
            watch="true",
            allowWatchBookmarks="true",
            sendInitialEvents="true",
            resourceVersionMatch="NotOlderThan",
            timeoutSeconds=str(self.rng.randint(300, 600)),
        )
        if self.version and not self._newest:
            query["resourceVersion"] = self.version
        found: dict[str, Obj] = {}
        async with self.session.get(self.url, params=query) as response:
            assert response.status == 200, await response.text()
            async for word, obj in frames(response):
                if word == "BOOKMARK" and (obj["metadata"].get("annotations") or {}).get(INITIAL_EVENTS_END) == "true":
                    self.counts.streamed += 1
                    self._replace(found, obj["metadata"]["resourceVersion"])
                    return
                advance(found, word, obj)
        raise aiohttp.ClientError("the stream ended before its list was whole")

    async def _watch(self) -> None:
        query = self._query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=self.version,
            timeoutSeconds=str(self.rng.randint(3, 600)),
        )
        async with self.session.get(self.url, params=query) as response:
            if response.status == 410:
                raise Gone
            assert response.status in (200, 429, 503, 504), await response.text()
            if response.status != 200:
                raise aiohttp.ClientError(str(response.status))
            self.counts.watches += 1
            async for word, obj in frames(response):
                self._take(word, obj)

    def _take(self, word: str, obj: Obj) -> None:
        version = obj["metadata"]["resourceVersion"]
        if word == "BOOKMARK":
            self.counts.bookmarks += 1
            assert int(version) >= int(self.version), f"a bookmark went back: {self.version} -> {version}"
        else:
            self.counts.events += 1
            assert int(version) > int(self.version), f"{word} {key_of(obj)} at {version} after {self.version}"
            advance(self.objects, word, obj)
        self.version = version


def advance(objects: dict[str, Obj], word: str, obj: Obj) -> None:
    """Raises AssertionError for an event that cannot follow the ones before."""
    key = key_of(obj)
    match word:
        case "ADDED":
            assert key not in objects, f"ADDED {key}, which was there: an event came twice, or a DELETED was lost"
            objects[key] = obj
        case "MODIFIED":
            assert key in objects, f"MODIFIED {key}, which was not there: its ADDED was lost"
            assert objects[key]["metadata"]["uid"] == obj["metadata"]["uid"], f"{key} became another object unsaid"
            objects[key] = obj
        case "DELETED":
            assert key in objects, f"DELETED {key}, which was not there"
            del objects[key]
        case _:
            raise AssertionError(f"an event of type {word}: {obj}")


def key_of(obj: Obj) -> str:
    metadata = obj["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


async def frames(response: aiohttp.ClientResponse) -> Any:
    """The (type, object) pairs of a watch; raises Gone for the ERROR event that says so."""
    buffer = b""
    async for piece in response.content.iter_any():
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            event = orjson.loads(line)
            if event["type"] == "ERROR":
                assert event["object"]["code"] == 410, event
                raise Gone
            yield event["type"], event["object"]
    assert not buffer, f"the watch ended within a frame: {buffer[:200]!r}"
