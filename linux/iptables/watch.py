"""Noticing that somebody else changed rules of ours, without ever listing them.

nft-backed tables are nf_tables: the kernel tells every listener about each transaction (`linux.nftables.listener`).

Legacy tables tell nobody. But a table is one block of memory that is replaced whole, and getsockopt(IPT_SO_GET_INFO) says in a
few microseconds how large it is, how many entries it has and where its built-in chains begin: every rule or chain that comes
or goes moves these numbers. So they are remembered after each write of ours and compared once a second. (An edit that keeps every
length goes unnoticed: that is what the audit every hour is for.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Protocol

from linux.iptables.backend import present
from linux.iptables.rules import Family, Table
from linux.nftables.listener import Interest, Listener, Touch

_LOUD = 100  # transactions of more chains are not listened to while they go on
_POLL_SECONDS = 1.0
_IPT_SO_GET_INFO = 64  # linux/netfilter_ipv4/ip_tables.h; the same number in IPv6
_INFO_LENGTH = 32 + 4 * (1 + 5 + 5 + 2)  # struct ipt_getinfo

_LIBC = ctypes.CDLL(None)

Touched = Callable[[str], None]
"""Told what happened, in words."""


class Watch(Protocol):
    """Of one family's tables in the network namespace of this process."""

    def watching(self, touched: Touched) -> contextlib.AbstractAsyncContextManager[None]:
        """While inside, `touched` is called for each foreign change, from the event loop."""
        ...

    def started(self, pid: int) -> None:
        """This process of ours is about to write."""
        ...

    def writing(
        self, chains: int, tables: Collection[Table]
    ) -> contextlib.AbstractAsyncContextManager[Callable[[int], None]]:
        """What is written inside, in these tables, is ours: about so many chains; the callable is told how many transactions
        were."""
        ...


class Unwatched:
    """Nobody looks: for packet filters in memory, and for one-shot commands."""

    @contextlib.asynccontextmanager
    async def watching(self, touched: Touched) -> AsyncIterator[None]:  # noqa: ARG002
        yield

    def started(self, pid: int) -> None:
        """Nothing."""

    @contextlib.asynccontextmanager
    async def writing(self, chains: int, tables: Collection[Table]) -> AsyncIterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _transactions: None


class _Turns:
    """What the families of one event loop share. They write one after the other, because two iptables-nft-restores outdate each
    other's view and begin again; so whatever else is committed meanwhile is somebody else's."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.listeners: set[Listener] = set()


_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = weakref.WeakKeyDictionary()


def _shared() -> _Turns:
    return _turns.setdefault(asyncio.get_running_loop(), _Turns())


class NftWatch:
    """`chains`: how the names of chains of ours begin."""

    def __init__(self, family: Family, tables: Sequence[Table], chains: Sequence[str]) -> None:
        number = _NFPROTO[family]
        self._interests = [Interest(number, table.value, tuple(chains)) for table in tables]
        self._listener: Listener | None = None
        self._started: list[int] = []

    @contextlib.asynccontextmanager
    async def watching(self, touched: Touched) -> AsyncIterator[None]:
        def heard(touch: Touch) -> None:
            touched(str(touch))

        shared = _shared()
        async with Listener(self._interests, heard) as listener:
            self._listener = listener
            shared.listeners.add(listener)
            try:
                yield
            finally:
                self._listener = None
                shared.listeners.discard(listener)

    def started(self, pid: int) -> None:
        if self._listener is not None:
            self._listener.own(pid)
            self._started.append(pid)

    @contextlib.asynccontextmanager
    async def writing(self, chains: int, tables: Collection[Table]) -> AsyncIterator[Callable[[int], None]]:  # noqa: ARG002
        commits = 0

        def committed(transactions: int) -> None:
            nonlocal commits
            commits += transactions

        shared = _shared()
        async with shared.lock:
            with contextlib.ExitStack() as stack:
                for listener in shared.listeners if chains > _LOUD else ():
                    stack.enter_context(listener.deaf(lambda: commits))
                try:
                    yield committed
                finally:
                    while self._started and self._listener is not None:
                        self._listener.disown(self._started.pop())


_NFPROTO = {Family.V4: 2, Family.V6: 10}


class LegacyWatch:
    """`poll` seconds between two looks."""

    def __init__(self, family: Family, tables: Sequence[Table], poll: float = _POLL_SECONDS) -> None:
        self._family = family
        self._tables = [table.value for table in tables]
        self._poll = poll
        self._known = [b""] * len(tables)
        self._writing = False

    @contextlib.asynccontextmanager
    async def watching(self, touched: Touched) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        pending: list[asyncio.TimerHandle] = []
        self._known = self._shapes()  # before the first survey: a restarted proxy may find nothing to write

        def look() -> None:
            self._look(touched)
            pending[:] = [loop.call_later(self._poll, look)]

        pending.append(loop.call_later(self._poll, look))
        try:
            yield
        finally:
            pending[0].cancel()

    def started(self, pid: int) -> None:
        """Nothing: the kernel names nobody."""

    @contextlib.asynccontextmanager
    async def writing(self, chains: int, tables: Collection[Table]) -> AsyncIterator[Callable[[int], None]]:  # noqa: ARG002
        """A table that somebody else changed since the last look, or that is not written here, keeps its old shape: the next
        look will tell. One that was not there has none: reading makes tables."""
        untouched = [known in (before, b"") for before, known in zip(self._shapes(), self._known, strict=True)]
        self._writing = True
        try:
            yield lambda _transactions: None
        finally:
            self._writing = False
            self._known = [
                now if (same and name in tables) or not known else known
                for name, known, now, same in zip(self._tables, self._known, self._shapes(), untouched, strict=True)
            ]

    def _look(self, touched: Touched) -> None:
        if self._writing:
            return
        now = self._shapes()
        changed = [
            name for name, one, other in zip(self._tables, self._known, now, strict=True) if one not in (other, b"")
        ]
        self._known = now
        if changed:
            touched(f"the legacy table {' and '.join(changed)} changed its shape")

    def _shapes(self) -> list[bytes]:
        there = present(self._family)
        return [shape(self._family, name) if name in there else b"" for name in self._tables]


def shape(family: Family, table: str) -> bytes:
    """The numbers by which a legacy table is known; empty where it cannot be asked. Asking loads the table's module."""
    address_family, level = (
        (socket.AF_INET, socket.SOL_IP) if family is Family.V4 else (socket.AF_INET6, socket.IPPROTO_IPV6)
    )
    # The table's name stands in the buffer that the kernel fills; Python's own getsockopt passes an empty one.
    buffer = ctypes.create_string_buffer(table.encode(), _INFO_LENGTH)
    length = ctypes.c_uint32(_INFO_LENGTH)
    try:
        with socket.socket(address_family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
            failed = _LIBC.getsockopt(asked.fileno(), level, _IPT_SO_GET_INFO, buffer, ctypes.byref(length))
    except OSError:
        return b""
    return b"" if failed else buffer.raw[32 : length.value]
