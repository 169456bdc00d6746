"""Work that is handed out in turns, done by an event loop that has other work too.

A table of thousands of entries, or a batch of thousands of changes, takes the kernel and us some milliseconds for each
datagram of it. Between two of them whatever else waits gets its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from linux.netlink import DUMP_ATTEMPTS, too_fast

Entry = TypeVar("Entry")


async def gathered(turns: Iterable[list[Entry]]) -> list[Entry]:
    """What all the turns bring, in their order."""
    found: list[Entry] = []
    for some in turns:
        found += some
        await asyncio.sleep(0)
    return found


async def whole(ask: Callable[[], Iterable[list[Entry]]], what: str) -> list[Entry]:
    """A whole table; asked again when it changed under the kernel's own reading."""
    for _ in range(DUMP_ATTEMPTS):
        try:
            return await gathered(ask())
        except InterruptedError:
            continue
    raise too_fast(what)
