"""Noticing that somebody else changed rules of ours, without ever listing them.

The kernel tells everyone in netlink group NFNLGRP_NFTABLES about each committed transaction: one message for every table,
chain, rule, set and element that came or went, each with the netlink port of who asked for it, and a NEWGEN at the end with
the process's number and name. iptables-nft speaks nf_tables too, so this covers its tables as well; legacy iptables says
nothing to anyone.

A `Listener` judges at each NEWGEN: the transaction counts when it touched one of its `interests` and its author is none of
`own`. An author is known by a netlink port (a `Connection`'s) or a process number (a program we started: libmnl lets the
kernel choose the port, which chooses the process number; NEWGEN repeats it). In a base chain that is shared with others,
such as PREROUTING, only rules that name one of our chains count.

When more comes than fits into the buffer the kernel drops it (`linux.overflow`): then anything may have happened. A
transaction of our own over 50,000 elements is 50,000 messages, so during such a one a listener is `deaf`: it leaves the
group, and afterwards compares generations, which everybody's commits move on by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from linux.nftables.connection import Connection
from linux.nftables.wire import GROUP, NETLINK_NETFILTER, SUBSYSTEM, Message, as_number
from linux.overflow import Overflow
from linux.wire import as_text, attributes, messages

_SOL_NETLINK, _JOIN, _LEAVE = 270, 1, 2  # NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP
_BUFFER = 1 << 23
_READ = 1 << 17
_READS_PER_TURN = 64
_WORDS = {
    Message.NEWTABLE: "table {0} added",
    Message.DELTABLE: "table {0} deleted",
    Message.NEWCHAIN: "chain {1} of table {0} added",
    Message.DELCHAIN: "chain {1} of table {0} deleted",
    Message.NEWRULE: "a rule added to chain {1} of table {0}",
    Message.DELRULE: "a rule deleted from chain {1} of table {0}",
    Message.NEWSET: "set {1} of table {0} added",
    Message.DELSET: "set {1} of table {0} deleted",
    Message.NEWSETELEM: "elements added to {1} of table {0}",
    Message.DELSETELEM: "elements deleted from {1} of table {0}",
}
_NAME = {  # which attribute holds the name of the chain or set
    Message.NEWCHAIN: 3,
    Message.DELCHAIN: 3,
    Message.NEWRULE: 2,
    Message.DELRULE: 2,
    Message.NEWSET: 2,
    Message.DELSET: 2,
    Message.NEWSETELEM: 2,
    Message.DELSETELEM: 2,
}
_RULE_EXPRESSIONS = 4
_GENERATION, _PID, _COMMAND = 1, 2, 3  # NFTA_GEN_*


@dataclass(frozen=True, slots=True)
class Interest:
    """A table whose changes matter. `chains`: only chains whose names begin so (and rules elsewhere in the table that name
    such a chain); empty: everything in the table, sets and elements too."""

    family: int
    table: str
    chains: tuple[str, ...] = ()

    def concerns(self, kind: Message, family: int, found: dict[int, bytes]) -> bool:
        """`found` are the message's attributes."""
        if family != self.family or as_text(found.get(1)) != self.table:
            return False
        if not self.chains or kind is Message.DELTABLE:
            return True
        if kind not in (Message.NEWCHAIN, Message.DELCHAIN, Message.NEWRULE, Message.DELRULE):
            return False
        if as_text(found.get(_NAME[kind])).startswith(self.chains):
            return True
        if kind is Message.DELRULE and _RULE_EXPRESSIONS not in found:
            return True  # the kernel does not say what the rule was
        expressions = found.get(_RULE_EXPRESSIONS, b"")
        return any(prefix.encode() in expressions for prefix in self.chains)


@dataclass(frozen=True, slots=True)
class Touch:
    """Somebody else changed something of ours: the first thing of the transaction, and who it was; both in words."""

    what: str
    who: str

    def __str__(self) -> str:
        return f"{self.what} by {self.who}"


@dataclass(frozen=True, slots=True)
class Notice:
    """One message of the group: about an object (`found`: its attributes), or with NEWGEN the end of a transaction."""

    kind: Message
    family: int
    port: int
    found: dict[int, bytes]


class Listener:
    """A context in which `touched` is called, from the event loop, once for each transaction of somebody else that changed
    what is of interest. Hears the network namespace of the thread that makes it."""

    def __init__(self, interests: Sequence[Interest], touched: Callable[[Touch], None]) -> None:
        self._interests = tuple(interests)
        self._touched = touched
        self._families = frozenset(interest.family for interest in interests)
        self._own: set[int] = set()
        self._found: Touch | None = None
        self._heard = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._overflow = Overflow(self._socket, _BUFFER)
        self._connection = Connection()

    async def __aenter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _JOIN, GROUP)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._connection.close()

    def own(self, author: int) -> None:
        """What this netlink port or process commits from now on is ours. For a process: called before the event loop runs
        again after it was started."""
        self._own.add(author)

    def disown(self, author: int) -> None:
        """The process has ended: its number may become somebody else's. What it did is read first."""
        self._drain()
        self._own.discard(author)

    @contextlib.contextmanager
    def deaf(self, commits: Callable[[], int]) -> Iterator[None]:
        """Inside, nothing is heard: for transactions of our own that are large. `commits` counts our successful ones
        (`lambda: connection.commits`). If anybody else commits meanwhile, anything may have happened, and `touched` says
        so at the end. Raises Refused when the kernel tells no generation."""
        known, before = self._connection.generation(), commits()
        self._socket.setsockopt(_SOL_NETLINK, _LEAVE, GROUP)
        self._heard = 0
        self._drain()
        known = max(known, self._heard)
        try:
            yield
        finally:
            self._found = None
            self._socket.setsockopt(_SOL_NETLINK, _JOIN, GROUP)
            others = self._connection.generation() - known - (commits() - before)
            if others:
                self._touched(Touch("something", f"somebody, in {others} transactions while ours went on"))

    def _readable(self) -> None:
        self._receive(_READS_PER_TURN)

    def _drain(self) -> None:
        while self._receive(_READS_PER_TURN):
            pass

    def _receive(self, times: int) -> bool:
        """Whether there may be more."""
        try:
            for _ in range(times):
                for notice in notices(self._socket.recv(_READ), self._own, self._families):
                    self._judge(notice)
        except BlockingIOError:
            return False
        finally:
            if self._overflow.happened():
                self._found = None
                self._touched(Touch("something", "somebody: more happened than could be heard"))
        return True

    def _judge(self, notice: Notice) -> None:
        if notice.kind is Message.NEWGEN:
            self._heard = as_number(notice.found.get(_GENERATION))
            found, self._found = self._found, None
            pid = as_number(notice.found.get(_PID))
            if found is not None and pid not in self._own:
                self._touched(Touch(found.what, f"{as_text(notice.found.get(_COMMAND)) or 'somebody'} (process {pid})"))
        elif self._found is None and any(
            interest.concerns(notice.kind, notice.family, notice.found) for interest in self._interests
        ):
            names = as_text(notice.found.get(1)), as_text(notice.found.get(_NAME.get(notice.kind, 0)))
            self._found = Touch(_WORDS[notice.kind].format(*names), "")


def notices(
    data: bytes, own: set[int] | frozenset[int] = frozenset(), families: frozenset[int] = frozenset()
) -> Iterator[Notice]:
    """The announcements in one datagram, without those about objects whose author is one of `own`, or of other families
    than these: the other family's first write is hundreds of thousands of them."""
    for number, _, _, port, start, end in messages(data):
        if number >> 8 != SUBSYSTEM:
            continue
        kind = number & 0xFF
        wanted = kind in _KINDS and port not in own and (not families or data[start] in families)
        if wanted or kind == Message.NEWGEN:
            yield Notice(Message(kind), data[start], port, attributes(data[start + 4 : end]))


_KINDS = frozenset(int(kind) for kind in _WORDS)
