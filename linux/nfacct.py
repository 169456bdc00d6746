"""Named packet counters of the kernel (nfnetlink_acct), which rules count into by `-m nfacct --nfacct-name NAME`.

They live in the network namespace and outlive whoever made them. Formats: include/uapi/linux/netfilter/nfnetlink_acct.h.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping

from linux.nftables.wire import NETLINK_NETFILTER, message
from linux.wire import ACK, CREATE, DONE, DUMP, ERRNO, ERROR, HEADER, REQUEST, attributes, messages, text

_SUBSYSTEM = 7 << 8  # NFNL_SUBSYS_ACCT
_NEW, _GET, _DELETE = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 3
_NAME, _PACKETS = 1, 2  # NFACCT_*
_MAX = 1 << 16


def ensure(names: Iterable[str]) -> frozenset[str]:
    """Those of the counters that are there afterwards: none where the kernel has no nfacct or we may not."""
    try:
        with _opened() as asked:
            return frozenset(name for name in names if _made(asked, name))
    except OSError:
        return frozenset()


def forget(names: Iterable[str]) -> None:
    """Delete the counters that no rule counts into."""
    try:
        with _opened() as asked:
            for name in names:
                asked.send(message(_DELETE, REQUEST | ACK, 1, 0, text(_NAME, name)))
                asked.recv(_MAX)
    except OSError:
        return


def packets() -> Mapping[str, int]:
    """How many packets each counter of this namespace has counted, by name. Raises OSError where there is no nfacct."""
    found: dict[str, int] = {}
    with _opened() as asked:
        asked.send(message(_GET, REQUEST | DUMP, 1, 0, b""))
        while True:
            data = asked.recv(_MAX)
            for kind, _, _, _, start, end in messages(data):
                if kind in (ERROR, DONE):
                    return found
                told = attributes(data[start + 4 : end])
                found[told[_NAME].rstrip(b"\0").decode()] = int.from_bytes(told[_PACKETS], "big")


def _opened() -> socket.socket:
    asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    asked.settimeout(1.0)
    asked.bind((0, 0))
    return asked


def _made(asked: socket.socket, name: str) -> bool:
    asked.send(message(_NEW, REQUEST | ACK | CREATE, 1, 0, text(_NAME, name)))
    code = -ERRNO.unpack_from(asked.recv(_MAX), HEADER.size)[0]
    return code in (0, errno.EEXIST, errno.EBUSY)
