"""The kernel's table of flows (conntrack), over netlink: find flows by where they were sent, and delete them.

A NAT rule is asked once per flow. What it answered is an entry of two tuples: `original`, what the sender writes on its
packets, and `reply`, what the answers look like before they are rewritten; the source of `reply` is who answers.

    original  src 10.244.0.9:5353  dst 10.96.0.10:53        reply  src 10.244.1.2:53  dst 10.244.0.9:5353

A dump may be of a hundred thousand entries, so the kernel is asked to leave out what is not wanted (CTA_FILTER, Linux 5.8;
older kernels ignore it and send all), an entry is read in one go where it is laid out as the kernel does (attribute by
attribute otherwise: 8 times the work), and only the entries that a caller wants are kept. A deletion names an entry by the
very bytes the kernel gave for it, its number included, so that a flow which began anew since then is not hit.

Everything here blocks: a walk over a big table takes the kernel its time. Call it in a thread; a `Conntrack` belongs to the
network namespace of the thread that opened it. (Linux: net/netfilter/nf_conntrack_netlink.c)
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

from linux.wire import (
    ACK,
    DONE,
    DUMP,
    DUMP_INTERRUPTED,
    ERRNO,
    ERROR,
    HEADER,
    NESTED,
    OPTION_CAP_ACK,
    REQUEST,
    SOL_NETLINK,
    attribute,
    attributes,
)

_NETLINK_NETFILTER: Final = 12
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_DUMP_ATTEMPTS = 5
_PATIENCE = 30.0
_RECEIVED = 1 << 16
_AT_ONCE = 100
"""Deletions in one datagram: the answers to all of them must fit into the socket's receive buffer."""

_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_DESTINATION, _BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 1, 1 << 3, 1 << 5

_FAMILY = struct.Struct("=BBH")  # struct nfgenmsg
_BODY = HEADER.size + _FAMILY.size


class Flow(NamedTuple):
    """`to` and `answers` are `endpoint` keys: where the sender sends, and who answers. `handle` names it for `delete`."""

    to: bytes
    answers: bytes
    handle: bytes


class Interrupted(OSError):
    """The table changed faster than it could be read. `flows` are those that were seen."""

    def __init__(self, flows: list[Flow]) -> None:
        super().__init__(errno.EINTR, "the flows changed faster than they could be read")
        self.flows = flows


def endpoint(address: bytes, port: int) -> bytes:
    """An address (4 or 16 bytes, `ipaddress`' `packed`) and a port as one key."""
    return address + port.to_bytes(2, "big")


class Conntrack:
    """A conversation with the kernel about one family (4 or 6) of this thread's namespace. OSError where there is no
    conntrack: EPROTONOSUPPORT from opening it, EINVAL or EOPNOTSUPP from asking."""

    def __init__(self, version: int) -> None:
        self._layout = _LAYOUTS[version]
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.setsockopt(SOL_NETLINK, OPTION_CAP_ACK, 1)  # a refusal need not bring back what was refused
        self._socket.settimeout(_PATIENCE)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def flows(
        self, protocol: int, wanted: Callable[[bytes, bytes], bool], *, to: bytes | None = None, port: int | None = None
    ) -> list[Flow]:
        """The flows of `protocol` whose `(to, answers)` is `wanted`; of those sent to the endpoint `to`, or to `port` at any
        address, where one is given. Raises Interrupted."""
        restriction = self._layout.restriction(protocol, to, port)
        # The kernel may leave out less than it is asked to.
        suits = wanted if to is None else lambda sent, answers: sent == to and wanted(sent, answers)
        found: list[Flow] = []
        for _ in range(_DUMP_ATTEMPTS):
            try:
                found, whole = self._dumped(restriction, protocol, suits)
            except OSError as error:
                if not restriction or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                restriction = b""  # a kernel that would filter, but not so
                continue
            if whole:
                return found
        raise Interrupted(found)

    def delete(self, flows: Iterable[Flow]) -> int:
        """How many there were to delete: what expired meanwhile does not count. Anything else that the kernel refuses is
        raised after all have been tried."""
        handles = [flow.handle for flow in flows]
        deleted, refused = 0, 0
        for start in range(0, len(handles), _AT_ONCE):
            some = handles[start : start + _AT_ONCE]
            self._socket.send(b"".join(self._message(_DELETE, ACK, handle) for handle in some))
            for code in self._answers(len(some)):
                deleted += code == 0
                refused = refused if code in (0, errno.ENOENT) else code
        if refused:
            raise OSError(refused, f"deleting flows: {os.strerror(refused)}")
        return deleted

    def _dumped(
        self, restriction: bytes, protocol: int, wanted: Callable[[bytes, bytes], bool]
    ) -> tuple[list[Flow], bool]:
        """What was found, and whether it is all there was."""
        found: list[Flow] = []
        whole, ends = True, self._layout.ends
        self._socket.send(self._message(_GET, DUMP, restriction))
        while True:
            data = self._socket.recv(_RECEIVED)
            offset = 0
            while offset < len(data):
                length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
                if number == self._number:
                    whole = whole and not flags & DUMP_INTERRUPTED
                    if kind in (DONE, ERROR):
                        if code := -ERRNO.unpack_from(data, offset + HEADER.size)[0]:
                            raise OSError(code, f"reading flows: {os.strerror(code)}")
                        return found, whole
                    pair = ends(data, offset + _BODY, offset + length, protocol)
                    if pair is not None and wanted(*pair):
                        found.append(Flow(*pair, _handle(data, offset + _BODY, offset + length)))
                offset += (length + 3) & ~3

    def _answers(self, count: int) -> Iterator[int]:
        """The error codes of the last `count` messages, 0 for done."""
        last = self._number
        while count:
            data = self._socket.recv(_RECEIVED)
            offset = 0
            while offset < len(data):
                length, kind, _, number, _ = HEADER.unpack_from(data, offset)
                if kind == ERROR and number > last - _AT_ONCE:
                    yield -ERRNO.unpack_from(data, offset + HEADER.size)[0]
                    count -= 1
                offset += (length + 3) & ~3

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._number += 1
        head = HEADER.pack(_BODY + len(body), kind, REQUEST | flags, self._number, 0)
        return head + _FAMILY.pack(self._layout.family, 0, 0) + body


class _Layout:
    """How the kernel writes the two tuples of an entry of this family: first of all, and always in the same order."""

    def __init__(self, family: int, size: int, source: int, destination: int) -> None:
        self.family = family
        self._size = size
        self._source, self._destination = source, destination
        one = self._tuple(_TUPLE_ORIG, bytes(size), bytes(2), 0)
        self._length = len(one)
        # The places of the values, from the start of a tuple: 12 bytes of headers come before the source address.
        self._from = 12
        self._to = self._from + size + 4
        self._protocol = self._to + size + 8
        self._from_port, self._to_port = self._protocol + 8, self._protocol + 16
        values = bytearray(b"\xff" * len(one))
        for at, width in ((self._from, size), (self._to, size), (self._protocol, 4)):
            values[at : at + width] = bytes(width)
        for at in (self._from_port, self._to_port):
            values[at : at + 4] = bytes(4)
        # The headers of both tuples as one number under a mask: one comparison says that nothing is elsewhere.
        self._mask = int.from_bytes(values * 2, "little")
        self._headers = int.from_bytes(one + self._tuple(_TUPLE_REPLY, bytes(size), bytes(2), 0), "little")

    def ends(self, data: bytes, start: int, end: int, protocol: int) -> tuple[bytes, bytes] | None:
        """`to` and `answers` of the entry whose attributes lie there; None for another protocol."""
        reply = start + self._length
        if int.from_bytes(data[start : reply + self._length], "little") & self._mask != self._headers:
            return self._walked(data, start, end, protocol)
        if data[start + self._protocol] != protocol:
            return None
        size, to, port = self._size, start + self._to, start + self._to_port
        answers, answers_port = reply + self._from, reply + self._from_port
        return (
            data[to : to + size] + data[port : port + 2],
            data[answers : answers + size] + data[answers_port : answers_port + 2],
        )

    def _walked(self, data: bytes, start: int, end: int, protocol: int) -> tuple[bytes, bytes] | None:
        """The same, attribute by attribute."""
        found = {}
        for kind, value in attributes(data[start:end]).items():
            if kind in (_TUPLE_ORIG, _TUPLE_REPLY):
                parts = {part: attributes(inside) for part, inside in attributes(value).items()}
                found[kind] = parts.get(_TUPLE_IP, {}), parts.get(_TUPLE_PROTO, {})
        if len(found) < 2 or found[_TUPLE_ORIG][1].get(_PROTO_NUM) != bytes([protocol]):
            return None
        to, reply = found[_TUPLE_ORIG], found[_TUPLE_REPLY]
        return (
            to[0].get(self._destination, b"") + to[1].get(_PROTO_DST_PORT, b""),
            reply[0].get(self._source, b"") + reply[1].get(_PROTO_SRC_PORT, b""),
        )

    def restriction(self, protocol: int, to: bytes | None, port: int | None) -> bytes:
        """What asks the kernel for no more than these."""
        address, number, by = bytes(self._size), port or 0, _BY_PROTOCOL
        if to is not None:
            address, number = to[: self._size], int.from_bytes(to[self._size :], "big")
        if (
            to is not None and self.family == socket.AF_INET
        ):  # with IPv6 the kernel (6.18 still) sends all but this address
            by |= _BY_DESTINATION
        if to is not None or port is not None:
            by |= _BY_DESTINATION_PORT
        flags = attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", by)) + attribute(_FILTER_REPLY_FLAGS, bytes(4))
        return self._tuple(_TUPLE_ORIG, address, number.to_bytes(2, "big"), protocol) + attribute(
            _FILTER | NESTED, flags
        )

    def _tuple(self, kind: int, destination: bytes, port: bytes, protocol: int) -> bytes:
        ip = attribute(self._source, bytes(self._size)) + attribute(self._destination, destination)
        ports = (
            attribute(_PROTO_NUM, bytes([protocol]))
            + attribute(_PROTO_SRC_PORT, bytes(2))
            + attribute(_PROTO_DST_PORT, port)
        )
        return attribute(kind | NESTED, attribute(_TUPLE_IP | NESTED, ip) + attribute(_TUPLE_PROTO | NESTED, ports))


def _handle(data: bytes, start: int, end: int) -> bytes:
    """What names an entry: its original tuple, its zone if it is in one, and its number."""
    named = (_TUPLE_ORIG, _ZONE, _ID)
    return b"".join(
        attribute(kind | (NESTED if kind == _TUPLE_ORIG else 0), value)
        for kind, value in attributes(data[start:end]).items()
        if kind in named
    )


_LAYOUTS: Final[Mapping[int, _Layout]] = {
    4: _Layout(socket.AF_INET, 4, source=1, destination=2),  # CTA_IP_V4_SRC, _DST
    6: _Layout(socket.AF_INET6, 16, source=3, destination=4),  # CTA_IP_V6_SRC, _DST
}
