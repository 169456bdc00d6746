"""TCP and UDP between network namespaces, with the sockets of both ends in the test's own hands: no programs, no sleeps."""

import contextlib
import errno
import select
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

from linux import netns

_DEADLINE = 10.0
_IP_MTU_DISCOVER, _IP_MTU, _PMTUDISC_DO = 10, 14, 2
_IPV6_MTU_DISCOVER, _IPV6_MTU = 23, 24


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


@contextlib.contextmanager
def bound(path: str, address: str, kind: socket.SocketKind, port: int = 0) -> Iterator[socket.socket]:
    """A socket of the namespace at `path`; a TCP one listens."""
    with netns.enter(path):
        made = socket.socket(family(address), kind | socket.SOCK_CLOEXEC)
    with made:
        made.settimeout(_DEADLINE)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen()
        yield made


@contextlib.contextmanager
def connected(path: str, address: str, port: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    with netns.enter(path):
        made = socket.socket(family(address), kind | socket.SOCK_CLOEXEC)
    with made:
        made.settimeout(_DEADLINE)
        made.connect((address, port))
        yield made


def tcp(source: str, target: str, address: str, size: int = 1 << 20) -> str:
    """Send `size` bytes from namespace `source` to `address` in `target`, and as many back; the client's address as the
    server saw it."""
    payload = bytes(range(256)) * (size // 256)
    with (
        bound(target, address, socket.SOCK_STREAM) as server,
        connected(source, address, server.getsockname()[1], socket.SOCK_STREAM) as client,
    ):
        there, peer = server.accept()
        with there:
            there.settimeout(_DEADLINE)
            for sender, receiver in ((client, there), (there, client)):
                sending = threading.Thread(target=sender.sendall, args=(payload,))
                sending.start()
                try:
                    assert _received(receiver, len(payload)) == payload, "the bytes are not those that were sent"
                finally:
                    sending.join()
        return str(peer[0])


def _received(end: socket.socket, size: int) -> bytes:
    chunks, left = [], size
    while left:
        chunk = end.recv(min(left, 1 << 18))
        assert chunk, f"the connection ended {left} bytes early"
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def udp(source: str, target: str, address: str, size: int = 32) -> str:
    """A datagram of `size` bytes there and one back; the client's address as the server saw it."""
    with (
        bound(target, address, socket.SOCK_DGRAM) as server,
        connected(source, address, server.getsockname()[1], socket.SOCK_DGRAM) as client,
    ):
        client.send(bytes(size))
        data, peer = server.recvfrom(65535)
        server.sendto(data, peer)
        assert len(client.recv(65535)) == size
        return str(peer[0])


def path_mtu(source: str, target: str, address: str, size: int) -> int:
    """What the way to `address` takes in one piece, as the source learns it by sending unfragmented UDP packets of `size`
    bytes, headers counted, until one arrives or it is told a smaller size."""
    six = ip_address(address).version == 6
    level, discover, ask = (
        (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_MTU) if six else (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_MTU)
    )
    with (
        bound(target, address, socket.SOCK_DGRAM) as server,
        connected(source, address, server.getsockname()[1], socket.SOCK_DGRAM) as client,
    ):
        client.setsockopt(level, discover, _PMTUDISC_DO)
        for _ in range(20):
            try:
                client.send(bytes(size - (48 if six else 28)))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                return client.getsockopt(level, ask)
            if select.select([server], [], [], 0.2)[0]:
                return size
    raise AssertionError(f"packets of {size} bytes to {address} vanish without a word")
