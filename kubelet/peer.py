"""Facts about the process behind a runtime's socket: whose network "host" means, and what it may do.

The kernel names that process (SO_PEERCRED gives whoever called listen: dockerd, containerd, or systemd where the socket is its
own, which is as good: the daemon then runs in systemd's namespaces).
"""

from __future__ import annotations

import logging
import os
import socket
import struct

_CAP_SYS_RESOURCE = 24
_PATIENCE = 1.0

log = logging.getLogger(__name__)
_told: set[str] = set()


def peer(socket_path: str) -> int:
    """The process id; 1 when it cannot be seen from this PID namespace. OSError when nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(socket_path)
        return process(connection) or 1


def process(connection: socket.socket) -> int:
    """The id of the process at the other end of a unix socket's connection; 0 when it cannot be seen."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid)


def shares_network(socket_path: str) -> bool:
    """Whether a container on the runtime's host network is on this process' network."""
    ours, theirs = os.stat("/proc/self/ns/net"), os.stat(f"/proc/{peer(socket_path)}/ns/net")
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def may_lower_oom_scores(socket_path: str) -> bool:
    """Whether the runtime has CAP_SYS_RESOURCE; without it runc dies on a negative oom_score_adj."""
    with open(f"/proc/{peer(socket_path)}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return True


def oom_score(wanted: int, socket_path: str) -> int:
    """`wanted`, or 0 where the runtime may not go below; said once a daemon."""
    if wanted >= 0 or may_lower_oom_scores(socket_path):
        return wanted
    if socket_path not in _told:
        _told.add(socket_path)
        log.warning(
            "the runtime at %s lacks CAP_SYS_RESOURCE: who should have oom_score_adj %d gets 0", socket_path, wanted
        )
    return 0
