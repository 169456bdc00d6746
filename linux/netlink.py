"""A conversation with the kernel over netlink: questions, whole tables, and changes by the batch.

The kernel works a datagram off inside `send` and queues its answers before that returns; a long dump it goes on with at each
`recv`. So nobody ever waits for an answer, and everything here blocks for microseconds. What takes longer (a table of
thousands, a batch of thousands) is handed out in turns: the caller of `turns` and `carry_out` may do something else between
two of them (`linux.turns` for an event loop).

A batch is many messages in one datagram. It is not all-or-nothing: the kernel goes on after one that it refuses, and
answers each refusal with the number of the message and, with NETLINK_EXT_ACK, a sentence. Of those that it carries out
only the last of a datagram is confirmed, on request: answers to 200 messages fit into a receive buffer of any size (with more
than it holds some are lost, and ENOBUFS says so).

A dump during which the table was changed says so (NLM_F_DUMP_INTR): it may lack an entry, and is asked for again. With
strict checking the kernel filters dumps itself (by device, by protocol) and refuses what it does not know.

A socket belongs to the namespace of the thread that opened it, whatever that thread does later. The CNI plugin starts a
process per pod and imports this: ``_socket`` is the module below ``socket`` without the enums, whose construction alone
costs what the plugin's kernel work does.
"""

from __future__ import annotations

import _socket
import errno
import os

from linux.wire import (
    ACK,
    ACK_TEXT,
    DONE,
    DUMP,
    DUMP_INTERRUPTED,
    ERRNO,
    ERROR,
    HAS_TEXT,
    HEADER,
    OPTION_CAP_ACK,
    OPTION_EXT_ACK,
    OPTION_STRICT_CHECK,
    REQUEST,
    SOL_NETLINK,
    as_text,
    attributes,
    messages,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Final, Self

ROUTE, GENERIC = 0, 16  # NETLINK_*
AT_ONCE = 200
"""Messages in one datagram of a batch."""
_READ = 1 << 18
DUMP_ATTEMPTS = 10
_NOTHING_TOLERATED: frozenset[int] = frozenset()


class RefusedError(OSError):
    """The kernel's no: its errno, what was asked, and the kernel's own sentence where it gave one."""

    def __str__(self) -> str:
        return str(self.strerror)


class Request:
    """One message of a batch. ``words`` with ``about`` in its braces says what it asks for, after "cannot"; codes in
    ``tolerated`` mean that it had been done already."""

    __slots__ = ("about", "body", "flags", "kind", "tolerated", "words")

    def __init__(
        self,
        kind: int,
        flags: int,
        body: bytes,
        words: str,
        about: tuple[object, ...] = (),
        tolerated: frozenset[int] = _NOTHING_TOLERATED,
    ) -> None:
        self.kind: Final = kind
        self.flags: Final = flags
        self.body: Final = body
        self.words: Final = words
        self.about: Final = about
        self.tolerated: Final = tolerated

    @property
    def what(self) -> str:
        return self.words.format(*self.about)


class Conversation:
    """About the namespace of the thread that opens it; one talker at a time."""

    __slots__ = ("_sequence", "_socket", "port")

    def __init__(self, family: int = ROUTE) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, family)
        self._socket.setsockopt(SOL_NETLINK, OPTION_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, OPTION_CAP_ACK, 1)  # refusals without our own message echoed
        try:  # noqa: SIM105 (contextlib costs more than the plugin's kernel work)
            self._socket.setsockopt(SOL_NETLINK, OPTION_STRICT_CHECK, 1)
        except OSError:
            pass  # before Linux 4.20; then more is dumped than was asked for, and who asked picks
        self._socket.bind((0, 0))
        self.port: Final[int] = self._socket.getsockname()[0]
        """What the kernel's announcements of our changes carry."""
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, kind: int, flags: int, body: bytes, what: str) -> list[bytes]:
        """The bodies of the answer to one request: one for a question without flags, none for a change with ACK."""
        self._send(kind, flags, body)
        bodies: list[bytes] = []
        while True:
            data = self._socket.recv(_READ)
            for told, tags, sequence, _, start, end in messages(data):
                if sequence != self._sequence:
                    continue
                if told in (ERROR, DONE):
                    _raise_refusal(tags, data, start, end, what)
                    return bodies
                bodies.append(data[start:end])
                if not flags:
                    return bodies

    def order(self, request: Request) -> None:
        """Carry one request out. Raises RefusedError."""
        try:
            self.ask(request.kind, request.flags | ACK, request.body, request.what)
        except RefusedError as error:
            if error.errno not in request.tolerated:
                raise

    def dump(self, kind: int, body: bytes, what: str) -> list[bytes]:
        """The bodies of a whole table; asked again when it changed meanwhile."""
        for _ in range(DUMP_ATTEMPTS):
            found: list[bytes] = []
            try:
                for data, places in self.turns(kind, body, what):
                    found += [data[start:end] for start, end in places]
            except InterruptedError:
                continue
            return found
        raise too_fast(what)

    def turns(self, kind: int, body: bytes, what: str) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
        """A table datagram by datagram, as (bytes, where the bodies in them begin and end). Raises InterruptedError at the
        end of one that changed meanwhile: what was handed out may lack something. Who leaves before the end needs a new
        conversation."""
        self._send(kind, DUMP, body)
        mine, whole = self._sequence, True
        while True:
            data = self._socket.recv(_READ)
            places: list[tuple[int, int]] = []
            done = False
            for told, tags, sequence, _, start, end in messages(data):
                if sequence != mine:
                    continue
                whole = whole and not tags & DUMP_INTERRUPTED
                if told in (ERROR, DONE):
                    _raise_refusal(tags, data, start, end, what)
                    done = True
                else:
                    places.append((start, end))
            if places:
                yield data, places
            if done:
                if not whole:
                    raise InterruptedError(errno.EINTR, f"cannot {what} in one go")
                return

    def carry_out(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, RefusedError]]]:
        """All of them, a datagram at a time: after each, those of its requests that were refused, by number."""
        for first in range(0, len(requests), AT_ONCE):
            chunk = requests[first : first + AT_ONCE]
            base = self._sequence + 1
            self._sequence += len(chunk)
            last = self._sequence
            parts = []
            for sequence, one in enumerate(chunk, base):
                flags = one.flags | (REQUEST if sequence != last else REQUEST | ACK)
                parts.append(HEADER.pack(16 + len(one.body), one.kind, flags, sequence, 0))
                parts.append(one.body)
            self._socket.send(b"".join(parts))
            yield [(first + at, error) for at, error in self._refusals(chunk, base)]

    def _refusals(self, chunk: Sequence[Request], base: int) -> Iterator[tuple[int, RefusedError]]:
        last = base + len(chunk) - 1
        while True:
            data = self._socket.recv(_READ)
            for told, tags, sequence, _, start, end in messages(data):
                if told != ERROR or not base <= sequence <= last:
                    continue
                request = chunk[sequence - base]
                code = -ERRNO.unpack_from(data, start)[0]
                if code and code not in request.tolerated:
                    yield sequence - base, _refusal(code, tags, data, start, end, request.what)
                if sequence == last:
                    return

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(HEADER.pack(16 + len(body), kind, flags | REQUEST, self._sequence, 0) + body)


def _raise_refusal(flags: int, data: bytes, start: int, end: int, what: str) -> None:
    code = -ERRNO.unpack_from(data, start)[0] if end - start >= 4 else 0
    if code:
        raise _refusal(code, flags, data, start, end, what)


def _refusal(code: int, flags: int, data: bytes, start: int, end: int, what: str) -> RefusedError:
    text = ""
    if flags & HAS_TEXT:  # after the errno and the header of the refused request
        text = as_text(attributes(data[start + 4 + 16 : end]).get(ACK_TEXT))
    return RefusedError(code, f"cannot {what}: {os.strerror(code)}{f' ({text})' if text else ''}")


def too_fast(what: str) -> RefusedError:
    return RefusedError(errno.EAGAIN, f"cannot {what}: it changes faster than it can be read")
