"""WireGuard's messages without a kernel that has it: bytes laid out by hand from include/uapi/linux/wireguard.h, and pyroute2 as
a second reader of what we pack."""

import base64
import socket
import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2.netlink.generic.wireguard import wgmsg

from linux import wireguard
from linux.netlink import Request
from linux.wireguard import Peer, State

# RFC 7748, section 6.1.
PRIVATE = base64.b64encode(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")).decode()
BOB = base64.b64encode(bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")).decode()
PSK = base64.b64encode(bytes(range(32))).decode()


def read_back(request: Request) -> dict[str, Any]:
    """As pyroute2 understands it."""
    header = struct.pack("=IHHII", 16 + len(request.body), request.kind, 5, 1, 0)
    found = wgmsg(header + request.body)
    found.decode()
    assert (found["cmd"], found["version"]) == (1, 1), "WG_CMD_SET_DEVICE, WG_GENL_VERSION"
    return dict(found["attrs"])


def test_a_peer_is_set_with_all_it_has() -> None:
    allowed = frozenset([ip_network("fd10:244:2::/64"), ip_network("10.244.2.0/24")])
    peer = Peer(BOB, (ip_address("10.200.0.12"), 51820), allowed, psk=PSK, keepalive=25)
    request = wireguard.put_peer(30, 7, peer)
    told = read_back(request)
    assert told["WGDEVICE_A_IFINDEX"] == 7
    (one,) = told["WGDEVICE_A_PEERS"]
    found = dict(one["attrs"])
    assert found["WGPEER_A_PUBLIC_KEY"].decode() == BOB
    assert found["WGPEER_A_PRESHARED_KEY"].decode() == PSK
    assert found["WGPEER_A_FLAGS"] == 2, "the allowed addresses are replaced"
    assert found["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"] == 25
    endpoint = found["WGPEER_A_ENDPOINT"]
    assert (endpoint["family"], endpoint["addr"], endpoint["port"]) == (socket.AF_INET, "10.200.0.12", 51820)
    assert [each["addr"] for each in found["WGPEER_A_ALLOWEDIPS"]] == ["10.244.2.0/24", "fd10:244:2::/64"]
    assert request.what == f"set the peer {BOB} of the WireGuard device with link number 7"


def test_a_peer_behind_ipv6_and_one_that_says_where_it_is() -> None:
    (one,) = read_back(wireguard.put_peer(30, 7, Peer(BOB, (ip_address("fd00::12"), 51821), frozenset())))[
        "WGDEVICE_A_PEERS"
    ]
    endpoint = dict(one["attrs"])["WGPEER_A_ENDPOINT"]
    assert (endpoint["family"], endpoint["addr"], endpoint["port"]) == (socket.AF_INET6, "fd00::12", 51821)
    (one,) = read_back(wireguard.put_peer(30, 7, Peer(BOB, None, frozenset())))["WGDEVICE_A_PEERS"]
    found = dict(one["attrs"])
    assert "WGPEER_A_ENDPOINT" not in found
    assert base64.b64decode(found["WGPEER_A_PRESHARED_KEY"]) == bytes(32), "none: what was there goes"


def test_a_peer_is_removed_by_its_key() -> None:
    (one,) = read_back(wireguard.drop_peer(30, 7, BOB))["WGDEVICE_A_PEERS"]
    assert dict(one["attrs"]) == {"WGPEER_A_PUBLIC_KEY": BOB.encode(), "WGPEER_A_FLAGS": 1}


def test_the_device_gets_key_and_port_and_words_do_not_say_the_key() -> None:
    request = wireguard.set_device(30, 7, private_key=PRIVATE, port=51820)
    told = read_back(request)
    assert told["WGDEVICE_A_PRIVATE_KEY"].decode() == PRIVATE
    assert told["WGDEVICE_A_LISTEN_PORT"] == 51820
    assert PRIVATE not in request.what
    assert PSK not in repr(Peer(BOB, None, frozenset(), psk=PSK))
    assert PRIVATE not in repr(State(51820, PRIVATE))


def attribute(number: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), number) + data + bytes(-len(data) % 4)


def peer_bytes(key: str, allowed: list[bytes], *, endpoint: bytes = b"", handshake: tuple[int, int] = (0, 0)) -> bytes:
    """A peer in the order in which the kernel (drivers/net/wireguard/netlink.c, get_peer) writes its attributes."""
    body = attribute(1, base64.b64decode(key)) + attribute(2, bytes(32))
    body += attribute(6, struct.pack("=qq", *handshake)) + attribute(5, struct.pack("=H", 25))
    body += attribute(8, bytes(8)) + attribute(7, bytes(8)) + attribute(10, struct.pack("=I", 1))
    if endpoint:
        body += attribute(4, endpoint)
    body += attribute(9 | 0x8000, b"".join(attribute(0x8000, one) for one in allowed))
    return attribute(0x8000, body)


def allowed_bytes(text: str) -> bytes:
    network = ip_network(text)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    body = attribute(3, bytes([network.prefixlen])) + attribute(1, struct.pack("=H", family))
    return body + attribute(2, network.network_address.packed)


def test_a_device_is_read_over_several_messages() -> None:
    head = struct.pack("=BBH", 0, 1, 0)
    endpoint4 = struct.pack("=H", socket.AF_INET) + struct.pack(">H", 51820) + bytes([10, 200, 0, 12]) + bytes(8)
    endpoint6 = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", 51821, 0) + ip_address("fd00::13").packed
    first = (
        head + attribute(6, struct.pack("=H", 51820)) + attribute(7, struct.pack("=I", 0)) + attribute(1, b"\7\0\0\0")
    )
    first += attribute(2, b"flannel-wg\0") + attribute(3, base64.b64decode(PRIVATE)) + attribute(4, bytes(32))
    one = peer_bytes(BOB, [allowed_bytes("10.244.2.0/24")], endpoint=endpoint4, handshake=(1700000000, 500_000_000))
    first += attribute(8 | 0x8000, one)
    rest = peer_bytes(BOB, [allowed_bytes("fd10:244:2::/64")], endpoint=endpoint4)
    other = peer_bytes(PSK, [], endpoint=endpoint6 + bytes(4))
    second = head + attribute(1, b"\7\0\0\0") + attribute(8 | 0x8000, rest + other)
    found = wireguard.state([first, second])
    assert (found.port, found.private_key) == (51820, PRIVATE)
    both = frozenset([ip_network("10.244.2.0/24"), ip_network("fd10:244:2::/64")])
    assert found.peers == (
        Peer(BOB, (ip_address("10.200.0.12"), 51820), both, keepalive=25, handshake=1700000000.5),
        Peer(PSK, (ip_address("fd00::13"), 51821), frozenset(), keepalive=25),
    )


def test_a_new_device_has_no_key() -> None:
    body = struct.pack("=BBH", 0, 1, 0) + attribute(6, struct.pack("=H", 0)) + attribute(3, bytes(32))
    assert wireguard.state([body]) == State(0, "")


def test_keys() -> None:
    assert wireguard.public_key(PRIVATE) == BOB
    assert wireguard.fresh_key() != wireguard.fresh_key()
    for wrong in ("", "x", PRIVATE[:-2], PRIVATE + "A==="):
        with pytest.raises(ValueError, match="32 bytes in base64"):
            wireguard.public_key(wrong)
