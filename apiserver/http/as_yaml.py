"""YAML for who asks for it: a thousand times slower to write than JSON (1 s of CPU a megabyte), so never on the event loop.

A list is written a few objects at a time: the emitter, which is C, keeps the interpreter for all that it is given at once, and
no more is done than the client reads. What it says is what the whole would say, as the items stand at the margin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import orjson
import yaml

from apiserver.cache import Entry
from apiserver.views import View

CONTENT_TYPE: Final = "application/yaml"
AT_ONCE: Final = 8 << 10  # bytes of JSON that are written in one go, some 10 ms
HERE: Final = 2 << 10  # what takes less time than a thread's turn
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


async def written(body: bytes) -> bytes:
    """One document, given as JSON."""
    return _written(body) if len(body) <= HERE else await asyncio.to_thread(_written, body)


async def listed(view: View, entries: Sequence[Entry], metadata: dict[str, Any]) -> AsyncIterator[bytes]:
    head = b"".join(view.slices((), metadata))
    if not entries:
        yield _written(head)
        return
    yield _written(head).removesuffix(b" []\n") + b"\n"
    for some in _parted(entries):
        yield await asyncio.to_thread(_items, view, some)


def _parted(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    some: list[Entry] = []
    size = 0
    for entry in entries:
        some.append(entry)
        size += entry.size
        if size >= AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _items(view: View, entries: Sequence[Entry]) -> bytes:
    return _dumped([orjson.loads(view.one(entry.body)) for entry in entries])


def _written(body: bytes) -> bytes:
    return _dumped(orjson.loads(body))


def _dumped(value: Any) -> bytes:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.encode()
