"""A local copy of one kind, kept true by list and watch.

List once, watch from there, take every event; when the server ends the watch, or the connection breaks or falls silent,
watch again from the last version seen; when the server refuses that version (410: too old; anything else: a server that was
set back to a backup does not know it), list again and tell subscribers what the gap held. Subscribers are only woken: what
is true they read from the copy; one that raises has a bug and ends the daemon. While the server is away the copy stays as it
was last known.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Never, TypeVar

from kube.client import Client
from kube.errors import ApiError, ApiUnreachable, Expired
from kube.meta import Identified
from kube.reconcile import Backoff
from kube.resources import Resource

T = TypeVar("T", bound=Identified)

log = logging.getLogger(__name__)

_LASTING = 5.0
"""Seconds after which a watch was worth its while, even if nothing happened."""
_REMINDER = 30.0
_NOT_THE_VERSION = (401, 403, 429, 503)
"""Refusals that say nothing about the version a watch asked for."""


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """`key` is `namespace/name` or `name`; `old` is None for what is new, `new` is None for what is gone."""

    key: str
    old: T | None
    new: T | None


class Informer(Generic[T]):
    """`synced` is set when the first list is in; it stays set. `run` runs until cancelled and has one owner."""

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._objects: dict[str, T] = {}
        self._subscribers: list[Callable[[Change[T]], None]] = []
        self.synced = asyncio.Event()
        self.resource_version = ""
        self._said = "", 0.0

    def get(self, name: str, namespace: str | None = None) -> T | None:
        return self._objects.get(f"{namespace}/{name}" if namespace else name)

    def items(self) -> list[T]:
        return list(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def subscribe(self, callback: Callable[[Change[T]], None]) -> None:
        """`callback` is called synchronously for every change, the first list included; it may only wake somebody."""
        self._subscribers.append(callback)

    def recall(self, objects: Iterable[T]) -> None:
        """What an earlier process last knew, told to subscribers as new; the first list puts it right. To be called before
        `run`; `synced` stays unset."""
        for item in objects:
            self._replace(item.metadata.key, item)

    async def run(self, backoff: Backoff = Backoff(first=0.1, most=2.0)) -> Never:
        """List and watch until cancelled. A server that answers and ends each watch at once is asked as rarely as one that
        refuses: what counts is whether the last attempt lasted or brought anything."""
        failures = 0
        while True:
            started, version = time.monotonic(), self.resource_version
            refusal, asked = "", 0.0
            try:
                if not self.resource_version:
                    await self._list()
                await self._watch()
            except Expired:
                log.info("%s: history is gone; listing again", self._resource.plural)
                self.resource_version = ""
            except ApiUnreachable as error:
                refusal = str(error)
            except ApiError as error:
                refusal, asked = str(error), error.retry_after
                if error.status not in _NOT_THE_VERSION:
                    self.resource_version = ""
            brought = bool(version) and self.resource_version not in ("", version)
            failures = 0 if brought or time.monotonic() - started > _LASTING else failures + 1
            if refusal or failures > 1:
                pause = max(asked, backoff.delay(max(failures, 1)))
                self._say(refusal or "the watch ended at once", pause)
                await asyncio.sleep(pause)
            else:
                self._said = "", 0.0

    def _say(self, words: str, pause: float) -> None:
        """The same words about a server that stays away are a warning every half minute only."""
        now = time.monotonic()
        fresh = self._said[0] != words or now - self._said[1] > _REMINDER
        log.log(
            logging.WARNING if fresh else logging.DEBUG, "%s: %s; again in %.1f s", self._resource.plural, words, pause
        )
        if fresh:
            self._said = words, now

    async def _list(self) -> None:
        page = await self._client.list(
            self._resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        listed = {item.metadata.key: item for item in page.items}
        for key in [k for k in self._objects if k not in listed]:
            self._replace(key, None)
        for key, item in listed.items():
            known = self._objects.get(key)
            if known is None or known.metadata.resource_version != item.metadata.resource_version:
                self._replace(key, item)
        self.resource_version = page.resource_version
        self.synced.set()

    async def _watch(self) -> None:
        events = self._client.watch(
            self._resource,
            self._namespace,
            resource_version=self.resource_version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        async for event in events:
            key = event.object.metadata.key
            match event.type:
                case "ADDED" | "MODIFIED":
                    self._replace(key, event.object)
                case "DELETED":
                    self._replace(key, None)
                case "BOOKMARK":
                    pass
            self.resource_version = event.object.metadata.resource_version or self.resource_version

    def _replace(self, key: str, new: T | None) -> None:
        old = self._objects.get(key)
        if new is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = new
        if old is None and new is None:
            return
        change = Change(key, old, new)
        for callback in self._subscribers:
            callback(change)
