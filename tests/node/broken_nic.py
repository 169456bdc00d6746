"""A wire in a process: copies frames between two interfaces of its network namespace, and computes checksums as a network card
does that does not understand tunnels.

A sender that leaves a checksum to its device says where it is to be computed. This card computes it where that is the
transport header behind the outermost IP header, and copies everything else as it is: a checksum inside a tunnel stays unset. That
is the fault of flannel's issue 1279, with packets that are really broken.

What comes from the left goes through it so; what comes from the right is whole.

    python -m tests.node.broken_nic LEFT RIGHT [--whole]      (--whole: a card that computes all of them)
"""

from __future__ import annotations

import select
import socket
import struct
import sys

from linux.echo import checksum

_SOL_PACKET, _VNET_HEADER = 263, 15
_HEADER = struct.Struct(
    "=BBHHHH"
)  # struct virtio_net_hdr: flags, GSO type, ...; where a checksum starts, and lies from there
_NEEDS_CHECKSUM = 1
_ETHERNET = 14
_ALL = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING


def opened(device: str, *, headers: bool) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    if headers:
        made.setsockopt(_SOL_PACKET, _VNET_HEADER, 1)
    made.bind((device, _ALL))
    return made


def forwarded(data: bytes, *, whole: bool) -> bytes:
    """The frame behind a virtio header, as the card would send it."""
    flags, _, _, _, start, offset = _HEADER.unpack_from(data)
    frame = bytearray(data[_HEADER.size :])
    if flags & _NEEDS_CHECKSUM and (whole or start == _transport(frame)):
        value = checksum(bytes(frame[start:])) or 0xFFFF
        struct.pack_into("!H", frame, start + offset, value)
    return bytes(frame)


def _transport(frame: bytes | bytearray) -> int:
    """Where the outermost transport header begins."""
    if frame[12:14] == b"\x08\x00":
        return _ETHERNET + (frame[_ETHERNET] & 0x0F) * 4
    return _ETHERNET + 40


def main(left: str, right: str, *options: str) -> None:
    heard = {name: opened(name, headers=True) for name in (left, right)}
    spoken = {name: opened(name, headers=False) for name in (left, right)}
    ends = {heard[left]: spoken[right], heard[right]: spoken[left]}
    print("ready", flush=True)
    while True:
        for one in select.select(list(ends), [], [])[0]:
            data, about = one.recvfrom(1 << 17)
            if about[2] != _OUTGOING:
                ends[one].send(forwarded(data, whole=one is heard[right] or "--whole" in options))


if __name__ == "__main__":
    main(*sys.argv[1:])
