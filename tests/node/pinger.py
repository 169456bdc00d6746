"""ICMP and ICMPv6 echo from inside a network namespace, one socket, no program: many machines have no ping(8)."""

import contextlib
import errno
import ipaddress
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

_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_numbers = itertools.count(os.getpid() & 0x3FF)


class Echo:
    """A raw socket in the namespace at `path`; `ask` sends one unfragmented echo request and waits for its reply."""

    def __init__(self, path: str, target: str) -> None:
        self._version = ipaddress.ip_address(target).version
        six = self._version == 6
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        with netns.enter(path):
            self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        if six:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        self._target, self._id, self._sequence = target, next(_numbers) & 0xFFFF, 0

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, size: int = 56) -> int | None:
        """The sequence number of the request that was sent; None when it could not be (too big, no route)."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        body = bytes(size)
        header = struct.pack("!BBHHH", _REQUEST[self._version], 0, 0, self._id, self._sequence)
        # The kernel itself fills in ICMPv6's checksum, which covers the addresses.
        checksum = 0 if self._version == 6 else _checksum(header + body)
        packet = header[:2] + struct.pack("!H", checksum) + header[4:] + body
        try:
            self._socket.sendto(packet, (self._target, 0))
        except OSError:
            return None
        return self._sequence

    def receive(self) -> int | None:
        """The sequence number of the reply that waits to be read; None when it is none of ours."""
        try:
            answer, address = self._socket.recvfrom(65535, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EMSGSIZE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES):
                raise
            return None
        start = (answer[0] & 15) * 4 if self._version == 4 else 0
        kind, _, _, number, sequence = struct.unpack_from("!BBHHH", answer, start)
        mine = (kind, number, address[0]) == (_REPLY[self._version], self._id, self._target)
        return int(sequence) if mine else None

    def ask(self, size: int = 56, seconds: float = 1.0) -> bool:
        """Whether the reply to `size` bytes of payload came in time."""
        deadline = time.monotonic() + seconds
        sent = self.send(size)
        while sent is not None and (left := deadline - time.monotonic()) > 0:
            if not select.select([self], [], [], left)[0]:
                return False
            if self.receive() == sent:
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
    """Requests sent at a steady pace, whether or not those before were answered; times are monotonic seconds."""

    sent: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    """When those were sent that have been answered."""

    @property
    def lost(self) -> int:
        return len(self.sent) - len(self.answered)

    def silence(self, since: float) -> float:
        """Seconds that passed at most, after `since`, from one request that was answered to the next such one; the
        pace, when none was lost. Infinite while nothing has been answered."""
        after = [moment for moment in sorted(self.answered) if moment >= since]
        if not after:
            return float("inf")
        return max(later - before for before, later in itertools.pairwise([since, *after]))


@contextlib.contextmanager
def train(path: str, target: str, *, gap: float = 0.02, patience: float = 1.0) -> Iterator[Train]:
    """Echo requests, `gap` seconds apart, while the context is open; `patience` is what the last ones are waited for."""
    echo, found, stop = Echo(path, target), Train(), threading.Event()
    open_: dict[int, float] = {}

    def listen(until: float) -> None:
        while (left := until - time.monotonic()) > 0 and select.select([echo], [], [], left)[0]:
            sequence = echo.receive()
            if sequence in open_:
                found.answered.append(open_.pop(sequence))

    def ride() -> None:
        while not stop.is_set():
            now = time.monotonic()
            found.sent.append(now)
            if (sequence := echo.send()) is not None:
                open_[sequence] = now
            listen(now + gap)
        end = time.monotonic() + patience
        while open_ and (now := time.monotonic()) < end:
            listen(min(now + gap, end))

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
