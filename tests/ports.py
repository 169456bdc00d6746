"""Ports that nobody has and nobody will get by chance."""

import contextlib
import random
import socket

_LEAST, _MOST = 15000, 29999
"""Below the kernel's own choice for outgoing connections (ip_local_port_range) and the NodePorts. A port that was lent by
the kernel may be lent again as the source of any connection before the server that it was meant for binds it; and a client
that keeps trying a dead port of that range connects to itself in the end."""


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 to which nothing is bound."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = random.randint(_LEAST, _MOST)
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


def free_port() -> int:
    return free_ports(1)[0]
