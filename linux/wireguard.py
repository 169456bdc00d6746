"""WireGuard devices: keys, listening port, peers. A link of kind "wireguard" is made like any other; all else that it has is
read and set over generic netlink, family "wireguard" (include/uapi/linux/wireguard.h).

Each peer is its public key. What is set of a peer leaves the rest of it alone, but for its allowed addresses, which are
given whole; an address can be allowed to one peer of a device, and the last that it is given to has it. The kernel follows
a peer that moves: its endpoint is where the last authenticated packet came from. A peer with many addresses is dumped in
pieces, over several messages.

Packing and parsing are pure. Keys travel as base64 text, as people write them.
"""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from linux.links import ip_address
from linux.netlink import Conversation, RefusedError, Request
from linux.wire import attribute, attributes, nest, spans, text

_CONTROL, _GET_FAMILY = 16, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_FAMILY_ID, _FAMILY_NAME = 1, 2  # CTRL_ATTR_*
_GET, _SET = 0, 1  # WG_CMD_*_DEVICE
_INDEX, _PRIVATE, _PORT, _PEERS = 1, 3, 6, 8  # WGDEVICE_A_*
_KEY, _PSK, _FLAGS, _ENDPOINT, _KEEPALIVE, _HANDSHAKE, _ALLOWED = 1, 2, 3, 4, 5, 6, 9  # WGPEER_A_*
_REMOVE, _REPLACE_ALLOWED = 1, 2  # WGPEER_F_*
_AF, _ADDRESS, _LENGTH = 1, 2, 3  # WGALLOWEDIP_A_*
_NO_KEY = bytes(32)

_HEAD = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_SHORT, _NUMBER = struct.Struct("=H"), struct.Struct("=I")
_TIME = struct.Struct("=qq")
_SOCKET4, _SOCKET6 = struct.Struct("=H2s4s8x"), struct.Struct("=H2sI16sI")

Endpoint = tuple[IPv4Address | IPv6Address, int]
Range = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """`endpoint`: where it is, None: it will say so itself. `keepalive` in seconds, 0: none. `handshake`: when it last
    proved who it is, in seconds since 1970, 0: never."""

    key: str
    endpoint: Endpoint | None
    allowed: frozenset[Range]
    psk: str = field(default="", repr=False)
    keepalive: int = 0
    handshake: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """`private_key` is empty when none is set."""

    port: int
    private_key: str = field(repr=False)
    peers: tuple[Peer, ...] = ()


def fresh_key() -> str:
    """A private key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _text(X25519PrivateKey.generate().private_bytes_raw())


def public_key(private: str) -> str:
    """Raises ValueError when `private` is no key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _text(X25519PrivateKey.from_private_bytes(_bytes(private)).public_key().public_bytes_raw())


def family(talk: Conversation) -> int | None:
    """The number that generic netlink gave to WireGuard; None while its module is not loaded."""
    asked = _HEAD.pack(_GET_FAMILY, 1, 0) + text(_FAMILY_NAME, "wireguard")
    try:
        answer = talk.ask(_CONTROL, 0, asked, "look for WireGuard in generic netlink")[0]
    except RefusedError:
        return None
    return int(_SHORT.unpack(attributes(answer, _HEAD.size)[_FAMILY_ID])[0])


def read(talk: Conversation, number: int, index: int) -> State:
    """What the device with this index has."""
    asked = _HEAD.pack(_GET, 1, 0) + attribute(_INDEX, _NUMBER.pack(index))
    return state(talk.dump(number, asked, f"read the WireGuard device with link number {index}"))


def set_device(number: int, index: int, *, private_key: str, port: int) -> Request:
    body = attribute(_PRIVATE, _bytes(private_key)) + attribute(_PORT, _SHORT.pack(port))
    return _set(number, index, body, "set key and port {} of the WireGuard device with link number {}", (port, index))


def put_peer(number: int, index: int, peer: Peer) -> Request:
    """With exactly its allowed addresses."""
    parts = [
        attribute(_KEY, _bytes(peer.key)),
        attribute(_FLAGS, _NUMBER.pack(_REPLACE_ALLOWED)),
        attribute(_PSK, _bytes(peer.psk) if peer.psk else _NO_KEY),
        attribute(_KEEPALIVE, _SHORT.pack(peer.keepalive)),
    ]
    if peer.endpoint is not None:
        parts.append(attribute(_ENDPOINT, _endpoint(peer.endpoint)))
    ordered = sorted(peer.allowed, key=lambda one: (one.version, one))
    parts.append(nest(_ALLOWED, *(nest(0, _allowed(one)) for one in ordered)))
    about = peer.key, index
    body = nest(_PEERS, nest(0, *parts))
    return _set(number, index, body, "set the peer {} of the WireGuard device with link number {}", about)


def drop_peer(number: int, index: int, key: str) -> Request:
    peer = attribute(_KEY, _bytes(key)) + attribute(_FLAGS, _NUMBER.pack(_REMOVE))
    about = key, index
    body = nest(_PEERS, nest(0, peer))
    return _set(number, index, body, "remove the peer {} of the WireGuard device with link number {}", about)


def state(bodies: Iterable[bytes]) -> State:
    """From the messages of a dump."""
    port, private = 0, ""
    peers: dict[str, Peer] = {}
    for body in bodies:
        found = attributes(body, _HEAD.size)
        if _PORT in found:
            port = _SHORT.unpack(found[_PORT])[0]
        if found.get(_PRIVATE, _NO_KEY) != _NO_KEY:
            private = _text(found[_PRIVATE])
        for one in _nested(found.get(_PEERS, b"")):
            peer = _peer(attributes(one))
            known = peers.get(peer.key)
            peers[peer.key] = replace(known, allowed=known.allowed | peer.allowed) if known else peer
    return State(port, private, tuple(peers.values()))


def _set(number: int, index: int, body: bytes, words: str, about: tuple[object, ...]) -> Request:
    return Request(number, 0, _HEAD.pack(_SET, 1, 0) + attribute(_INDEX, _NUMBER.pack(index)) + body, words, about)


def _peer(found: dict[int, bytes]) -> Peer:
    psk = found.get(_PSK, _NO_KEY)
    seconds, nanoseconds = _TIME.unpack(found[_HANDSHAKE]) if _HANDSHAKE in found else (0, 0)
    ranges = (attributes(one) for one in _nested(found.get(_ALLOWED, b"")))
    return Peer(
        key=_text(found[_KEY]),
        endpoint=_where(found[_ENDPOINT]) if _ENDPOINT in found else None,
        allowed=frozenset(_range(one[_ADDRESS], one[_LENGTH][0]) for one in ranges),
        psk="" if psk == _NO_KEY else _text(psk),
        keepalive=_SHORT.unpack(found[_KEEPALIVE])[0] if _KEEPALIVE in found else 0,
        handshake=seconds + nanoseconds / 1e9,
    )


def _nested(data: bytes) -> Iterable[bytes]:
    return (data[start:end] for _, start, end in spans(data, 0, len(data)))


def _allowed(one: Range) -> bytes:
    version = socket.AF_INET if one.version == 4 else socket.AF_INET6
    address = attribute(_ADDRESS, one.network_address.packed)
    return attribute(_AF, _SHORT.pack(version)) + address + attribute(_LENGTH, bytes([one.prefixlen]))


def _range(packed: bytes, length: int) -> Range:
    return IPv4Network((packed, length)) if len(packed) == 4 else IPv6Network((packed, length))


def _endpoint(endpoint: Endpoint) -> bytes:
    address, port = endpoint
    number = port.to_bytes(2, "big")
    if address.version == 4:
        return _SOCKET4.pack(socket.AF_INET, number, address.packed)
    return _SOCKET6.pack(socket.AF_INET6, number, 0, address.packed, 0)


def _where(data: bytes) -> Endpoint:
    if len(data) == _SOCKET4.size:
        _, port, packed = _SOCKET4.unpack(data)
    else:
        _, port, _, packed, _ = _SOCKET6.unpack(data)
    return ip_address(packed), int.from_bytes(port, "big")


def _bytes(key: str) -> bytes:
    """Raises ValueError when it is no key; never says it."""
    try:
        found = base64.b64decode(key, validate=True)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise ValueError("a WireGuard key is 32 bytes in base64")
    return found


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
