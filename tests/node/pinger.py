"""ICMP echo from inside a network namespace, one socket, no program: many machines have no ping(8)."""

import contextlib
import itertools
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from linux import netns

_IP_MTU_DISCOVER, _IP_PMTUDISC_DO = 10, 2
_numbers = itertools.count(os.getpid() & 0x3FF)


class Echo:
    """A raw socket in the namespace at `path`; `ask` sends one unfragmented echo request and waits for its reply."""

    def __init__(self, path: str, target: str) -> None:
        with netns.enter(path):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        self._target, self._id, self._sequence = target, next(_numbers) & 0xFFFF, 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, size: int = 56, seconds: float = 1.0) -> bool:
        """Whether the reply to `size` bytes of payload came in time."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        body = bytes(size)
        header = struct.pack("!BBHHH", 8, 0, 0, self._id, self._sequence)
        packet = struct.pack("!BBHHH", 8, 0, _checksum(header + body), self._id, self._sequence) + body
        deadline = time.monotonic() + seconds
        try:
            self._socket.sendto(packet, (self._target, 0))
        except OSError:  # too big to go unfragmented, no route, unreachable
            return False
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return False
            with contextlib.suppress(OSError):
                answer, (source, _) = self._socket.recvfrom(65535)
                start = (answer[0] & 15) * 4
                kind, _, _, number, sequence = struct.unpack_from("!BBHHH", answer, start)
                if (kind, number, sequence, source) == (0, self._id, self._sequence, self._target):
                    return True
        return False


def ping(path: str, target: str, *, size: int = 56, count: int = 1, seconds: float = 1.0) -> bool:
    """Whether all of `count` echo requests were answered."""
    echo = Echo(path, target)
    try:
        return all(echo.ask(size, seconds) for _ in range(count))
    finally:
        echo.close()


@dataclass
class Train:
    """`lost` of `sent` requests."""

    sent: int = 0
    lost: list[float] = field(default_factory=list)


@contextlib.contextmanager
def train(path: str, target: str, *, gap: float = 0.02) -> Iterator[Train]:
    """Echo requests one after the other, at least `gap` seconds apart, while the context is open."""
    echo, found, stop = Echo(path, target), Train(), threading.Event()

    def ride() -> None:
        while not stop.wait(gap):
            found.sent += 1
            if not echo.ask():
                found.lost.append(time.monotonic())

    thread = threading.Thread(target=ride, name="ping-train")
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
        echo.close()


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
