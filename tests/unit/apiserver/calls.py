"""The whole API without sockets: requests as values over the store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver import access, allocations, bootstrap, flow, presence, schema, usage
from apiserver.admission import DEFAULT, Admission, Settings, Sight
from apiserver.allocators import Allocators
from apiserver.audit.events import Audit
from apiserver.authentication import User, keys
from apiserver.authorization import Authorizer
from apiserver.cache import Cache
from apiserver.config import Config
from apiserver.daemon import _node
from apiserver.errors import StatusError
from apiserver.http import subresources
from apiserver.http.api import Api
from apiserver.http.documents import Documents
from apiserver.http.exchange import Answer, Feed, Reply, Request
from apiserver.http.reviews import Reviews
from apiserver.http.verbs import Verbs
from apiserver.metrics import Metrics
from apiserver.outward import Outward
from apiserver.pipeline import Writer
from apiserver.proxying import Proxying, slices_of
from apiserver.ranges import Ranges
from apiserver.registry import Registry
from apiserver.relay import Relay, Trust
from apiserver.schema.beside import METRICS
from apiserver.watch import Watches
from tests.fakes.store import MemoryStore

RANGES = Ranges(ipaddress.ip_network("10.96.0.0/16"), 30000, 32767)
SIGNER = keys.Signer.of(ec.generate_private_key(ec.SECP256R1()))
KEYS = access.Keys(lambda: access.Loaded(SIGNER, keys.Ring((SIGNER.key,))))
PLAIN = Config()
CLUSTER = bootstrap.Cluster(RANGES.addresses, "192.0.2.10", 6443, "PEM")
ADMIN = User("admin", ("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True)
class Response:
    code: int
    json: Any
    warnings: tuple[str, ...] = ()


class Calls:
    def __init__(self, api: Api, store: MemoryStore, cache: Cache, watches: Watches, writer: Writer) -> None:
        self.api = api
        self.store = store
        self.cache = cache
        self.watches = watches
        self.writer = writer

    async def reply(
        self,
        method: str,
        url: str,
        body: Any = None,
        content_type: str | None = "application/json",
        user: User = ADMIN,
        **headers: str,
    ) -> Reply:
        path, _, query = url.partition("?")
        data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        sent = {"Content-Type": content_type} if content_type else {}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}

        async def read() -> bytes:
            return data

        return await self.api.dispatch(
            Request(method, path, dict(parse_qsl(query, keep_blank_values=True)), query, sent, read, user)
        )

    async def call(self, method: str, url: str, body: Any = None, **more: Any) -> Response:
        try:
            reply = await self.reply(method, url, body, **more)
        except StatusError as error:
            return Response(error.code, error.to_dict())
        assert isinstance(reply, Answer)
        return Response(reply.code, orjson.loads(reply.body) if reply.body else None, reply.warnings)

    async def get(self, url: str, **more: Any) -> Response:
        return await self.call("GET", url, **more)

    async def post(self, url: str, body: Any, **more: Any) -> Response:
        return await self.call("POST", url, body, **more)

    async def patch(self, url: str, body: Any, kind: str = "merge") -> Response:
        names = {"merge": "merge-patch", "strategic": "strategic-merge-patch", "json": "json-patch"}
        return await self.call("PATCH", url, body, content_type=f"application/{names[kind]}+json")

    async def watch(self, url: str, **headers: str) -> Watching:
        reply = await self.reply("GET", url, None, **headers)
        assert isinstance(reply, Feed)
        return Watching(reply)

    async def call_or_watch(self, url: str) -> Watching | Response:
        try:
            return await self.watch(url)
        except StatusError as error:
            return Response(error.code, error.to_dict())


class Watching:
    """Frames of one watch, one at a time. It is an `exchange.Outlet`: `unsent` is what the test says it is."""

    def __init__(self, feed: Feed) -> None:
        self.pieces: list[bytes] = []
        self.unsent = 0
        self._frames: list[Any] = []
        self._news = asyncio.Event()
        self._running = asyncio.get_running_loop().create_task(feed.run(self))
        self._running.add_done_callback(lambda _: self._news.set())

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)
        rest = piece
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            data, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            self._frames += [orjson.loads(line) for line in data.splitlines()]
        self._news.set()

    async def drained(self) -> None:
        await asyncio.sleep(0)

    async def next(self) -> Any:
        async with asyncio.timeout(5):
            while not self._frames:
                if self._running.done():
                    self._running.result()
                    raise StopAsyncIteration
                self._news.clear()
                await self._news.wait()
        return self._frames.pop(0)

    @property
    def done(self) -> bool:
        return self._running.done()

    @property
    def has_frames(self) -> bool:
        return bool(self._frames)

    def seen(self) -> list[Any]:
        """What has come and was not taken yet."""
        frames, self._frames = self._frames, []
        return frames

    async def brief(self) -> tuple[str, str]:
        frame = await self.next()
        return frame["type"], frame["object"]["metadata"].get("name", "")

    async def rest(self) -> list[Any]:
        async with asyncio.timeout(5):
            await self._running
        frames, self._frames = self._frames, []
        return frames

    async def close(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running


@asynccontextmanager
async def serving(
    store: MemoryStore | None = None,
    *,
    ring: int = 4096,
    bookmark_every: float = 60.0,
    plugins: frozenset[str] = DEFAULT - {"ServiceAccount"},  # no controllers run here to make ServiceAccounts
    patience: float = 1.0,
    config: Config = PLAIN,
    audit: Audit | None = None,
    samples: usage.Samples | None = None,
    authorizer: Authorizer = access.EVERYBODY,
) -> AsyncIterator[Calls]:
    store = store or MemoryStore()
    registry = Registry()
    cache = Cache(registry.describers() | allocations.DESCRIBERS | presence.DESCRIBERS, ring=ring)
    watches = Watches(cache, bookmark_every=bookmark_every)
    allocators = Allocators(RANGES, allocations.Books(cache, registry, RANGES), rng=random.Random(1))
    admission = Admission(Sight(cache, registry, store.current), plugins, Settings(patience=patience))
    writer = Writer(store, cache, admission, allocators, event_ttl=3600)
    async with Outward() as session, asyncio.TaskGroup() as group:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust = Trust(tls, tls)
        relay = Relay(_node(cache, registry), trust, session)
        proxying = Proxying(writer, trust, session, slices_of(cache, registry))
        usages = usage.UsageApi(cache, registry, samples or usage.Samples(usage.fetching(session, trust)))
        extensions = {METRICS: usages.handle}
        reviews = Reviews(access.build(config, KEYS, cache, registry, store, authorizer))
        verbs = Verbs(
            registry,
            writer,
            watches,
            subresources.handlers(writer, relay, proxying, reviews),
            subresources.creations(registry, writer, reviews),
        )
        rows = tuple(schema.offered(schema.served(), verbs.subresources, verbs.creations, extensions))
        documents = Documents(rows, Metrics().registry, {}, {}, reviews.document)
        turns = flow.flow(400, 200, flow.sizing(cache, registry))
        api = Api(reviews.access, verbs, documents, turns, audit, extensions)
        following = group.create_task(cache.run(store))
        await cache.loaded.wait()
        with allocators.following(cache.shelf(registry.core("services").prefix)):
            await bootstrap.ensure(registry, writer, CLUSTER, presence.addresses(cache, CLUSTER))
            yield Calls(api, store, cache, watches, writer)
        following.cancel()
