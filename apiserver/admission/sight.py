"""What plugins look at: cached objects by kind, each parsed once for as long as it does not change.

The answers are shared: whoever puts a part of one into another object copies it first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from apiserver.cache import Cache, Entry, Shelf
from apiserver.registry import Registry, Resource

Obj = dict[str, Any]
_REMEMBERED: Final = 4096


class Sight:
    """`newest` answers the store's newest resource version; a miss may be a cache that lags behind another server's write."""

    def __init__(self, cache: Cache, registry: Registry, newest: Callable[[], Awaitable[int]]) -> None:
        self._cache = cache
        self._registry = registry
        self._newest = newest
        self._shelves: dict[str, Shelf | None] = {}
        self._parsed: dict[tuple[str, str, str], tuple[int, Obj]] = {}

    def shelf(self, kind: str) -> Shelf | None:
        """None for a kind that is not served."""
        if kind not in self._shelves:
            resource = self.resource(kind)
            self._shelves[kind] = self._cache.shelf(resource.prefix) if resource else None
        return self._shelves[kind]

    def resource(self, kind: str) -> Resource | None:
        plural, _, group = kind.partition(".")
        return self._registry.find(group, "v1", plural)

    def key(self, kind: str, namespace: str, name: str) -> str:
        """Where the store has it; raises KeyError for a kind that is not served."""
        resource = self.resource(kind)
        if resource is None:
            raise KeyError(kind)
        return resource.key(namespace, name)

    def entry(self, kind: str, namespace: str, name: str) -> Entry | None:
        shelf = self.shelf(kind)
        return shelf.get(namespace, name) if shelf is not None else None

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        entry = self.entry(kind, namespace, name)
        return self._parse(kind, entry) if entry is not None else None

    def all(self, kind: str, namespace: str | None = None) -> Iterator[Obj]:
        for entry in self.entries(kind, namespace):
            yield self._parse(kind, entry)

    def entries(self, kind: str, namespace: str | None = None) -> Iterator[Entry]:
        shelf = self.shelf(kind)
        return shelf.entries(namespace) if shelf is not None else iter(())

    async def fresh(self) -> None:
        """Returns when the cache shows all that was written before the call."""
        await self._cache.reached(await self._newest(), 3.0)

    def _parse(self, kind: str, entry: Entry) -> Obj:
        key = (kind, entry.namespace, entry.name)
        found = self._parsed.get(key)
        if found is None or found[0] != entry.rv:
            if len(self._parsed) >= _REMEMBERED:
                self._parsed.clear()
            found = self._parsed[key] = (entry.rv, entry.parse())
        return found[1]
