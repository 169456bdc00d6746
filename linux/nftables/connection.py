"""One conversation with nf_tables: transactions, the generation, dumps.

A transaction is one datagram, so the send buffer must hold all of it: SO_SNDBUFFORCE lifts the limit that
net.core.wmem_max sets (CAP_NET_ADMIN). The kernel works it off inside `send` and queues its answers before that returns:
one line for each message it refuses, and the confirmation of the last. So nobody ever waits for an answer. With
NETLINK_EXT_ACK a refusal says at which byte of the message the kernel stumbled: that names the element.

Committing takes some 2 µs an element. `write` does small transactions where it is called (a change of one Service: 30 µs)
and large ones, like all dumps, on a thread of the connection's own, so that the event loop goes on. Sockets belong to the
namespace of the thread that opened them, whichever thread uses them.

A dump that another transaction crossed says so (NLM_F_DUMP_INTR) and is asked for again. A hash table that is being resized,
milliseconds after thousands of elements came, is dumped with some elements twice and others not at all, and nothing says so
(measured: 20 of 100 dumps after 20,000 insertions): a dump with an element twice is not believed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from linux.nftables import objects
from linux.nftables.batch import Batch
from linux.nftables.elements import Counted, Element, unpacked, unpacked_pairs
from linux.nftables.wire import NETLINK_NETFILTER, Message, as_number, message, ours
from linux.wire import (
    DONE,
    DUMP,
    DUMP_INTERRUPTED,
    ERRNO,
    ERROR,
    HAS_TEXT,
    HEAD,
    HEADER,
    REQUEST,
    as_text,
    attributes,
    messages,
    spans,
    text,
)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_RECEIVE = 1 << 22  # room for the answers to a transaction of which everything is wrong
_READ = 1 << 18
_AT_ONCE = 1 << 16  # a transaction of so many bytes holds the loop for less than 2 ms
_DUMP_ATTEMPTS = 20
_TEXT, _OFFSET = 1, 2  # NLMSGERR_ATTR_MSG, _OFFS
_ERESTART = 85
_QUESTIONS = 1 << 31  # sequence numbers below are those of messages in transactions


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that the kernel refused: `what` it asked for, in words; `code` and `said` are the kernel's. `name` is the
    chain or set; `element` the one it stumbled over, where it said so."""

    code: int
    what: str
    said: str = ""
    name: str = ""
    element: Element | None = None

    def __str__(self) -> str:
        key = f" (key {self.element.key.hex(' ')})" if self.element else ""
        said = f" ({self.said})" if self.said else ""
        return f"{self.what}{key}: {os.strerror(self.code)}{said}"


class Refused(OSError):
    """The kernel carried out nothing of a transaction, or would not answer a question. `failures` is what was wrong, in
    the order of the transaction; never empty. `outdated`: somebody committed since the generation that was named."""

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        self.failures = failures
        more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
        super().__init__(failures[0].code, "; ".join(map(str, failures[:3])) + more)

    def __str__(self) -> str:
        return str(self.strerror)

    @property
    def outdated(self) -> bool:
        return self.errno == _ERESTART


class Connection:
    """To nf_tables of the network namespace of the thread that opens it. Its methods may be called from any thread, one
    does its work at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)  # refusals do not repeat our own message
        self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._force(_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        self.port: int = self._socket.getsockname()[0]
        self.commits = 0
        self._question = _QUESTIONS
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self._socket.close()

    # --- transactions ------------------------------------------------------------------------------------------

    def commit(self, batch: Batch, *, generation: int | None = None) -> None:
        """Carry it out, all or nothing. With `generation` only if nobody has committed since: otherwise `Refused` that is
        `outdated`. An empty batch does nothing."""
        if not batch:
            return
        whole = batch.datagram(generation)
        with self._lock:
            if len(whole) + 64 > self._room:
                self._room = self._force(_SO_SNDBUFFORCE, socket.SO_SNDBUF, len(whole) + (len(whole) >> 2) + 64)
            try:
                self._socket.send(whole)
            except OSError as error:
                code = error.errno or errno.EIO
                raise Refused((Failure(code, f"send {len(whole)} bytes for table {batch.table}"),)) from error
            failures = self._answers(batch)
            if failures:
                raise Refused(failures)
            self.commits += 1

    async def write(self, batch: Batch, *, generation: int | None = None) -> None:
        """`commit` from the event loop. Cancelled in the middle of a large one, it may or may not have been done."""
        if batch.size <= _AT_ONCE:
            self.commit(batch, generation=generation)
        else:
            await self.aside(self._commit_generation, batch, generation)

    async def aside(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **keywords: Parameters.kwargs
    ) -> Result:
        """The function's result, from the connection's thread: for dumps."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "nftables")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **keywords))

    def _commit_generation(self, batch: Batch, generation: int | None) -> None:
        self.commit(batch, generation=generation)

    def _answers(self, batch: Batch) -> tuple[Failure, ...]:
        failures: list[Failure] = []
        confirmed = False
        for kind, flags, sequence, start, end, data in self._arrived():
            if kind != ERROR or sequence > len(batch) + 1:
                continue
            code = -ERRNO.unpack_from(data, start)[0]
            if code:
                failures.append(_failure(batch, sequence, code, flags, data[start:end]))
            confirmed |= sequence == len(batch)
        if not failures and not confirmed:
            failures.append(Failure(errno.EIO, f"the transaction on table {batch.table} was not confirmed"))
        return tuple(failures)

    def _arrived(self) -> Iterator[tuple[int, int, int, int, int, bytes]]:
        """(type, flags, sequence, start, end, datagram) of every message that waits."""
        while True:
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # some refusals did not fit; those that did are refusals enough
            for kind, flags, sequence, _, start, end in messages(data):
                yield kind, flags, sequence, start, end, data

    def _force(self, forced: int, plain: int, size: int) -> int:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, plain, size)
        return self._socket.getsockopt(socket.SOL_SOCKET, plain)

    # --- questions ---------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """The present generation of this network namespace. Raises Refused (EPERM, or where the kernel has no nf_tables)."""
        return as_number(attributes(self._one(Message.GETGEN, 0, b"", "read the generation"))[1])

    def tables(self, family: int = 0) -> list[objects.Table]:
        """Of one family, or of all (0)."""
        found = self._dump(Message.GETTABLE, family, b"", "list the tables")
        return [objects.table(kind, body) for kind, body in found]

    def chains(self, family: int = 0, table: str | None = None) -> list[objects.Chain]:
        """Of all tables, or of one."""
        narrowed = text(1, table) if table else b""
        found = self._dump(Message.GETCHAIN, family, narrowed, "list the chains")
        seen = (objects.chain(kind, body) for kind, body in found)
        return [chain for chain in seen if table is None or chain.table == table]

    def base_chains(self, family: int = 0) -> list[objects.Chain]:
        """Those at hooks, of all tables. The others are passed over as they come: there may be 60,000."""
        found = self._dump(Message.GETCHAIN, family, b"", "list the chains", _is_base_chain)
        return [chain for chain in (objects.chain(kind, body) for kind, body in found) if chain.hook is not None]

    def rules(self, family: int, table: str, chain: str | None = None, *, decoded: bool = True) -> list[objects.Rule]:
        """In the order of each chain; without their expressions unless `decoded`. Empty when the table is not there."""
        narrowed = text(1, table) + (text(2, chain) if chain else b"")
        found = self._dump(Message.GETRULE, family, narrowed, f"list the rules of table {table}")
        return [objects.rule(kind, body, decoded=decoded) for kind, body in found]

    def sets(self, family: int, table: str) -> list[objects.Set]:
        """Sets and maps, without the anonymous ones of rules. Empty when the table is not there."""
        found = self._dump(Message.GETSET, family, text(1, table), f"list the sets of table {table}")
        seen = (objects.set_of(kind, body) for kind, body in found)
        return [one for one in seen if not one.flags & objects.ANONYMOUS]

    def elements(self, family: int, table: str, name: str) -> list[Counted]:
        """Of one set or map; Refused with ENOENT when it is not there."""
        found = self._held(family, table, name)
        return [one for body, start, end in found for one in unpacked(body, start, end)]

    def pairs(self, family: int, table: str, name: str) -> dict[bytes, bytes]:
        """Key and value of the elements of a map of plain values: a fifth of the work of `elements`."""
        for attempt in range(_DUMP_ATTEMPTS):
            lists = self._lists(family, table, name)
            pairs = [pair for body, start, end in lists for pair in unpacked_pairs(body, start, end)]
            found = dict(pairs)
            if len(found) == len(pairs):
                return found
            time.sleep(0.001 * (1 << min(attempt, 5)))
        raise Refused((Failure(errno.EINTR, _too_fast(table, name)),))

    def sift(
        self, family: int, table: str, name: str, wanted: Callable[[bytes, bytes], bool]
    ) -> tuple[list[bytes], bool]:
        """The keys of a map of plain values whose (key, value) is `wanted`, asked as they come: no element is kept. And
        whether nothing can have been missed; what was found counts in any case."""
        found: dict[bytes, None] = {}
        seen: set[bytes] = set()
        count, whole = 0, True
        what = f"list the elements of {name} of table {table}"
        with self._lock:
            try:
                for _, data in self._asked(Message.GETSETELEM, family, DUMP, text(1, table) + text(2, name), what):
                    for number, start, end in spans(data, 4, len(data)):
                        for key, value in unpacked_pairs(data, start, end) if number == 3 else ():
                            count += 1
                            seen.add(key)
                            if wanted(key, value):
                                found[key] = None
            except _Interrupted:
                whole = False
        return list(found), whole and len(seen) == count

    def _held(self, family: int, table: str, name: str) -> list[tuple[bytes, int, int]]:
        """The lists of elements of a set, without holes."""
        for attempt in range(_DUMP_ATTEMPTS):
            lists = self._lists(family, table, name)
            keys = [
                body[one : one + HEAD.unpack_from(body, one)[0]]  # an element's first attribute is its key
                for body, start, end in lists
                for _, one, _ in spans(body, start, end)
            ]
            if len(set(keys)) == len(keys) or self._is_of_intervals(family, table, name):
                return lists
            time.sleep(0.001 * (1 << min(attempt, 5)))
        raise Refused((Failure(errno.EINTR, _too_fast(table, name)),))

    def _lists(self, family: int, table: str, name: str) -> list[tuple[bytes, int, int]]:
        """Attributes, and where in them the list lies. Refused with ENOENT when there is no such set."""
        what = f"list the elements of {name} of table {table}"
        found = self._dump(Message.GETSETELEM, family, text(1, table) + text(2, name), what)
        return [
            (body, start, end) for _, body in found for number, start, end in spans(body, 0, len(body)) if number == 3
        ]

    def _is_of_intervals(self, family: int, table: str, name: str) -> bool:
        """Its keys may be there twice, as the end of one interval and the beginning of the next."""
        what = f"describe {name} of table {table}"
        found = objects.set_of(family, self._one(Message.GETSET, family, text(1, table) + text(2, name), what))
        return bool(found.flags & objects.INTERVAL)

    def raw(self, family: int, table: str) -> list[tuple[Message, int, bytes]]:
        """Everything in one table as (NEW... message, family, attributes), anonymous sets and maps too: tables, chains,
        sets, elements, rules. Empty when the table is not there."""
        narrowed = text(1, table)
        found: list[tuple[Message, int, bytes]] = []
        for kind, answer in (
            (Message.GETTABLE, Message.NEWTABLE),
            (Message.GETCHAIN, Message.NEWCHAIN),
            (Message.GETSET, Message.NEWSET),
            (Message.GETRULE, Message.NEWRULE),
        ):
            for number, body in self._dump(kind, family, narrowed, f"list table {table}"):
                here = attributes(body)
                if as_text(here[1]) != table:
                    continue
                found.append((answer, number, body))
                if answer is Message.NEWSET:
                    held = self._held(family, table, as_text(here[2]))
                    found.extend((Message.NEWSETELEM, number, part) for part, _, _ in held)
        return found

    def _one(self, kind: Message, family: int, body: bytes, what: str) -> bytes:
        """The attributes of the answer to a plain question."""
        with self._lock:
            for _, data in self._asked(kind, family, 0, body, what):
                return data[4:]
        raise Refused((Failure(errno.EIO, f"{what}: no answer"),))

    def _dump(
        self, kind: Message, family: int, body: bytes, what: str, keep: Callable[[bytes], bool] = bool
    ) -> list[tuple[int, bytes]]:
        """(family, attributes) of each answer that `keep` wants."""
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                try:
                    found = [answer for answer in self._asked(kind, family, DUMP, body, what) if keep(answer[1])]
                except _Interrupted:
                    continue
                except Refused as error:
                    if error.errno == errno.ENOENT and kind in (Message.GETRULE, Message.GETSET, Message.GETCHAIN):
                        return []
                    raise
                return [(data[0], data[4:]) for number, data in found if number >> 8 == ours(kind) >> 8]
        raise Refused((Failure(errno.EINTR, f"{what}: it changed faster than it could be read"),))

    def _asked(self, kind: Message, family: int, flags: int, body: bytes, what: str) -> Iterator[tuple[int, bytes]]:
        """(type, all after the header) of each answer, to the end of the dump or the first answer to a plain question."""
        self._question = self._question + 1 & 0xFFFFFFFF or _QUESTIONS
        self._socket.send(message(ours(kind), REQUEST | flags, self._question, family, body))
        interrupted = False
        while True:
            data = self._waited(what)
            for number, marks, sequence, _, start, end in messages(data):
                if sequence != self._question:
                    continue  # the rest of an answer that was given up
                interrupted |= bool(marks & DUMP_INTERRUPTED)
                if number == ERROR:
                    code = -ERRNO.unpack_from(data, start)[0]
                    if code:
                        raise Refused((Failure(code, what),))
                    return
                if number == DONE:
                    code = -ERRNO.unpack_from(data, start)[0] if end - start >= 4 else 0
                    if interrupted or code == errno.EINTR:
                        raise _Interrupted
                    if code:
                        raise Refused((Failure(code, what),))
                    return
                yield number, data[start:end]
                if not flags & DUMP:
                    return

    def _waited(self, what: str) -> bytes:
        """The kernel fills a dump as it is read, inside recv: nothing there is a fault."""
        try:
            return self._socket.recv(_READ)
        except OSError as error:
            raise Refused((Failure(error.errno or errno.EIO, what),)) from error


class _Interrupted(Exception):
    pass


def _too_fast(table: str, name: str) -> str:
    return f"list the elements of {name} of table {table}: it changed faster than it could be read"


_CHAIN_TYPES = tuple(text(7, kind) for kind in ("filter", "nat", "route"))  # NFTA_CHAIN_TYPE: only base chains have one


def _is_base_chain(answer: bytes) -> bool:
    return any(kind in answer for kind in _CHAIN_TYPES)


def _failure(batch: Batch, sequence: int, code: int, flags: int, data: bytes) -> Failure:
    """`data` is the payload of an error message: the code, the header of our own message (capped), then attributes."""
    offset, said = None, ""
    if flags & HAS_TEXT:
        found = attributes(data, 4 + HEADER.size)
        said = as_text(found.get(_TEXT))
        if _OFFSET in found:
            (offset,) = struct.unpack("=I", found[_OFFSET])
    what, name, element = batch.about(sequence, offset)
    return Failure(code, what, said, name, element)
