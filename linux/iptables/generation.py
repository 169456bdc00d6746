"""Noticing that somebody else changed the rules: nf_tables' generation number.

The kernel counts the committed nf_tables transactions of a network namespace and tells everyone who listens to netlink
group NFNLGRP_NFTABLES about each. So a flush behind our back is known at once and an unchanged number proves that
nothing was touched, at the cost of one small datagram. Legacy tables have nothing like it: there the rules must be read.
Formats: include/uapi/linux/netfilter/nf_tables.h (nft_gen_attributes) and nfnetlink.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWGEN, _GETGEN = _SUBSYSTEM | 15, _SUBSYSTEM | 16
_GEN_ID = 1  # NFTA_GEN_ID, big-endian u32
_GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_REQUEST = 1  # NLM_F_REQUEST
_MAX_DATAGRAM = 1 << 16


class Generations:
    """A context in which `on_change` is called, from the event loop, for every generation after `known`.

    After writing rules oneself, `catch_up` takes the present generation for known.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self.known = 0

    async def __aenter__(self) -> Self:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        opened.bind((0, _GROUP))
        self._socket = opened
        self.catch_up()
        asyncio.get_running_loop().add_reader(opened.fileno(), self._readable)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def catch_up(self) -> None:
        self.known = current()

    def _readable(self) -> None:
        assert self._socket is not None
        changed = False
        try:
            while True:
                found = list(_ids(self._socket.recv(_MAX_DATAGRAM)))
                changed |= any(number > self.known for number in found)
        except BlockingIOError:
            pass
        except OSError:
            changed = True  # ENOBUFS: events were lost, so anything may have happened
        if changed:
            self._on_change()


def current() -> int:
    """The present generation of this network namespace; 0 when nf_tables is not there."""
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)) as asked:
        asked.settimeout(1.0)
        asked.bind((0, 0))
        asked.send(struct.pack("=IHHII", 20, _GETGEN, _REQUEST, 1, os.getpid()) + b"\0\0\0\0")
        try:
            return next(_ids(asked.recv(_MAX_DATAGRAM)), 0)
        except OSError:
            return 0


def _ids(data: bytes) -> Iterator[int]:
    """The generation numbers of the NEWGEN messages in a datagram."""
    offset = 0
    while offset + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if length < 16:
            return
        if kind == _NEWGEN:
            yield from _attribute(data[offset + 20 : offset + length], _GEN_ID)
        offset += (length + 3) & ~3


def _attribute(attributes: bytes, wanted: int) -> Iterator[int]:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if length < 4:
            return
        if kind == wanted and length >= 8:
            yield struct.unpack_from(">I", attributes, offset + 4)[0]
        offset += (length + 3) & ~3
