"""Is anybody there, and does what we send arrive whole: an ICMP echo, and a UDP datagram to a port where nobody listens.

The kernel computes the checksum of an echo itself, but leaves that of a datagram to the device where the device offers it. A
receiver checks the datagram's before it answers that the port is closed. So a host that answers the one and never the other
either has a firewall, or gets broken packets.

Both go through one device, whatever the routes say. A few packets each; nothing blocks. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_ATTEMPTS = 3
_PAUSE = 0.35
"""Seconds that an attempt may take; they come one after another."""
_PORTS = range(33434, 33534)
"""traceroute's: nobody listens there, and firewalls know them."""
_SO_BINDTODEVICE = 25
_SOL_RAW, _ICMP_FILTER = 255, 1
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR, IPV6_RECVERR
_ERROR = struct.Struct("=IBBBxII")  # struct sock_extended_err: errno, origin, type, code, ...
_ORIGINS = (2, 3)  # SO_EE_ORIGIN_ICMP, _ICMP6
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_HEAD = struct.Struct("!BBHHH")


async def echoed(address: Address, device: str, attempts: int = _ATTEMPTS) -> bool:
    """Whether an ICMP echo comes back. Raises OSError where none can be sent."""
    version = address.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    token = os.urandom(16)
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as raw:
        _bind(raw, device)
        if version == 4:
            raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _REPLY[4]) & 0xFFFFFFFF))

        def received() -> bool:
            data, sender = raw.recvfrom(2048)
            start = (data[0] & 0x0F) * 4 if version == 4 else 0
            return data[start] == _REPLY[version] and token in data and sender[0].partition("%")[0] == str(address)

        for number in range(attempts):
            packet = _echo(version, number, token)
            if await _answered(raw, packet, (str(address), 0), received):
                return True
    return False


async def refused(address: Address, device: str, attempts: int = _ATTEMPTS) -> bool:
    """Whether a datagram to a port of the address draws any ICMP error from there. Raises OSError."""
    version = address.version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
        _bind(datagrams, device)
        datagrams.setsockopt(*_RECVERR[version], 1)

        def received() -> bool:
            return _said_no(datagrams, version)

        for _ in range(attempts):
            port = _PORTS[int.from_bytes(os.urandom(2), "big") % len(_PORTS)]
            if await _answered(datagrams, os.urandom(32), (str(address), port), received):
                return True
    return False


async def _answered(asked: socket.socket, packet: bytes, where: tuple[str, int], received: Callable[[], bool]) -> bool:
    """Send it; whether what is waited for arrives in time."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()

    def readable() -> None:
        try:
            if received() and not done.done():
                done.set_result(True)
        except BlockingIOError:
            pass
        except OSError as error:
            if not done.done():
                done.set_exception(error)

    loop.add_reader(asked.fileno(), readable)
    try:
        asked.sendto(packet, where)
        async with asyncio.timeout(_PAUSE):
            return await done
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(asked.fileno())


def _bind(made: socket.socket, device: str) -> None:
    made.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
    made.setblocking(False)


def _echo(version: int, number: int, token: bytes) -> bytes:
    """ICMPv6's checksum is the kernel's to compute, for it covers the addresses."""
    identifier = int.from_bytes(token[:2], "big")
    bare = _HEAD.pack(_REQUEST[version], 0, 0, identifier, number) + token
    return bare if version == 6 else _HEAD.pack(_REQUEST[version], 0, checksum(bare), identifier, number) + token


def checksum(data: bytes) -> int:
    """The internet's: the complement of the ones' complement sum of 16-bit words."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _said_no(datagrams: socket.socket, version: int) -> bool:
    """Takes one error off the queue; whether it came from the network, not from our own kernel. A datagram that comes back is
    an answer too: somebody listens there."""
    try:
        _, notes, _, _ = datagrams.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        datagrams.recv(2048)
        return True
    for level, kind, data in notes:
        if (level, kind) == _RECVERR[version] and len(data) >= _ERROR.size:
            return _ERROR.unpack_from(data)[1] in _ORIGINS
    return False
