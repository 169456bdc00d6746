"""Clients that @affinity keeps on endpoints that are gone are forgotten: behind the pass, so that nothing waits for it.

@affinity may hold 262,000 clients (whoever can send from many addresses fills it), and only a walk over all of it finds those
of one endpoint: seconds. A pass waits for the walk a moment only, which is enough where clients are few; it goes on without,
and what later passes change is heeded by the walk that is on its way.

Entries fade while they are read. A deletion of what has faded is refused, with all of its transaction, so they are small, and
what the kernel names is left out. Nothing that goes wrong here concerns the rules: it is logged, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from linux.iptables.rules import Family
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection, Failure, Refused
from linux.nftables.elements import Element
from proxy.nftables.layout import AFFINITIES, TABLE, socket_family
from proxy.nftables.shadow import Allowed

_MOMENT = 0.5  # seconds that a pass waits
_AGAIN = 5.0  # seconds until what went wrong is tried again
_WALKS = 20  # when others write meanwhile, a walk may miss some
_AT_ONCE = 256  # deletions in one transaction, which hold the loop for a millisecond

log = logging.getLogger(__name__)


class Clients:
    """One family's. A walk on a `connection` of its own holds up no pass; in a `turn` nobody else writes much."""

    def __init__(
        self, family: Family, connection: Connection, turn: Callable[[], AbstractAsyncContextManager[object]]
    ) -> None:
        self._family, self._connection, self._turn = family, connection, turn
        self._due: Allowed = {}
        self._others = False  # clients of Service ports that are not in `_due` go too
        self._walking: Allowed | None = None
        self._woken, self._done = asyncio.Event(), asyncio.Event()
        self._runs = self._closed = False

    def note(self, purge: Allowed, allowed: Mapping[tuple[str, bytes], frozenset[bytes]], *, everything: bool) -> None:
        """`purge`: Service ports that lost endpoints, with those that they have; `everything`: all there are. `allowed`: what
        others that changed have now."""
        if everything:
            self._due, self._others = {}, True
        for known in (self._due,) if self._walking is None else (self._due, self._walking):
            known.update(purge)
            known.update((key, ends) for key, ends in allowed.items() if key in known)

    def drop(self) -> None:
        """The table is gone, or new."""
        self._due, self._others = {}, False

    async def run(self) -> None:
        """Forgets behind the passes, for ever."""
        self._runs = True
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                if not await self._go_on():
                    asyncio.get_running_loop().call_later(_AGAIN, self._woken.set)
                self._done.set()
        finally:
            self._runs = False

    async def forget(self) -> None:
        """What is due. Returns when it is done, or where somebody runs this after a moment; it goes on then."""
        if not self._due and not self._others:
            return
        if not self._runs:
            await self._go_on()
        elif not self._woken.is_set() and self._walking is None:
            self._done.clear()
            self._woken.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), _MOMENT)

    def close(self) -> None:
        self._closed = True

    async def _go_on(self) -> bool:
        """Whether nothing is due any more."""
        while self._due or self._others:
            try:
                forgotten = await self._walk()
            except OSError as error:
                log.info("IPv%d: clients of endpoints that are gone: %s; again in a while", self._family, error)
                return False
            if forgotten:
                log.info("IPv%d: %d clients are no longer kept on endpoints that are gone", self._family, forgotten)
        return True

    async def _walk(self) -> int:
        """How many were forgotten."""
        walking, others = self._due, self._others
        self._walking, self._due, self._others = walking, {}, False
        done = False
        try:
            found = sum([await self._of(title, walking, others) for title in AFFINITIES])
            done = True
            return found
        finally:
            self._walking = None
            if not done:
                self._due, self._others = {**walking, **self._due}, others or self._others

    async def _of(self, title: str, walking: Allowed, others: bool) -> int:
        number, size = socket_family(self._family), self._family.bits // 8

        def stale(key: bytes, endpoint: bytes) -> bool:  # the key is client . cluster IP . protocol . port
            if self._closed:
                raise Refused((Failure(errno.ECANCELED, f"read {title}"),))
            ends = walking.get((title, key[size:]))
            return others if ends is None else endpoint not in ends

        count = 0
        for _ in range(_WALKS):
            found, whole = await self._connection.aside(self._connection.sift, number, TABLE, title, stale)
            for start in range(0, len(found), _AT_ONCE):
                async with self._turn():
                    count += self._delete(title, found[start : start + _AT_ONCE])
                await asyncio.sleep(0)
            if whole and not found:  # many deletions shrink the kernel's table, and a walk may miss some then too
                return count
        raise Refused((Failure(errno.EINTR, f"{title} changed faster than it could be read"),))

    def _delete(self, title: str, keys: Sequence[bytes]) -> int:
        """Those that are still there; how many. Refused when it is not about one of them."""
        left = dict.fromkeys(keys)
        while left:
            batch = Batch(socket_family(self._family), TABLE)
            for key in left:  # a message each: the kernel names one element of a message
                batch.delete_elements(title, (Element(key),))
            try:
                self._connection.commit(batch)
            except Refused as error:
                faded = [each.element.key for each in error.failures if each.element and each.element.key in left]
                if error.errno != errno.ENOENT or not faded:
                    raise
                for key in faded:
                    del left[key]
                continue
            break
        return len(left)
