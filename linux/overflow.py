"""Whether announcements on a netlink socket were lost, told without making the socket faulty.

When more is announced than fits into the receive buffer the kernel drops the rest and, unless told otherwise, puts ENOBUFS on
the socket: `recv` raises it once, and until then the descriptor polls as faulty. uvloop's libuv takes a descriptor that
polls so for a dead one and never looks at it again: the reader is deaf from then on, and says nothing. So ENOBUFS is switched
off here, and the socket's own count of drops is read instead. Something can only be dropped while the buffer is full, so
there always is something to read afterwards: who asks after each read misses none.
"""

from __future__ import annotations

import socket
import struct

from linux.wire import SOL_NETLINK

_NO_ENOBUFS = 5  # NETLINK_NO_ENOBUFS
_SO_MEMINFO, _SO_RCVBUFFORCE = 55, 33
_MEMINFO = struct.Struct("=9I")
_DROPS = 8  # SK_MEMINFO_DROPS


class Overflow:
    """Of one socket that hears announcements, with room for `room` bytes of them."""

    def __init__(self, heard: socket.socket, room: int) -> None:
        self._socket = heard
        self._known = 0
        heard.setsockopt(SOL_NETLINK, _NO_ENOBUFS, 1)
        try:
            heard.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, room)
        except PermissionError:
            heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)

    def happened(self) -> bool:
        """Whether anything was lost since this was asked last."""
        before = self._known
        told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        self._known = _MEMINFO.unpack(told)[_DROPS]
        return self._known != before
