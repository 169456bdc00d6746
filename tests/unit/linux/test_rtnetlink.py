"""rtnetlink as far as an unprivileged process may use it: reading the namespace it is in."""

import errno
import socket

import pytest

from linux import rtnetlink
from linux.netlink import RefusedError
from linux.rtnetlink import Address, Link, Socket


def test_the_loopback_is_seen_as_it_is() -> None:
    with Socket() as kernel:
        link = kernel.link("lo")
        assert link is not None
        assert (link.name, link.index, link.mac) == ("lo", socket.if_nametoindex("lo"), "00:00:00:00:00:00")
        same = kernel.link_at(link.index)
        assert same is not None
        assert same.name == "lo"
        assert {each.index: each.name for each in kernel.links()} == dict(socket.if_nameindex())


def test_an_absent_link_is_none() -> None:
    with Socket() as kernel:
        assert kernel.link("no-such-link") is None
        assert kernel.link_at(0x7FFFFFFF) is None


def test_a_refusal_says_what_was_asked() -> None:
    with Socket() as kernel, pytest.raises(RefusedError, match="cannot set link number 2147483647 up") as refused:
        kernel.set_up(0x7FFFFFFF)
    assert refused.value.errno in {errno.ENODEV, errno.EPERM}


def test_many_conversations_share_a_socket() -> None:
    with Socket() as kernel:
        for _ in range(200):
            assert kernel.link("no-such-link") is None
            kernel.addresses(1)


def test_addresses_have_two_forms() -> None:
    assert rtnetlink.packed("10.1.2.3") == b"\x0a\x01\x02\x03"
    assert rtnetlink.unpacked(rtnetlink.packed("fd00::1")) == "fd00::1"
    assert Address(b"\x0a\x01\x02\x03", 24, 1).text == "10.1.2.3/24"
    with pytest.raises(ValueError, match="'ten' is not an IP address"):
        rtnetlink.packed("ten")


def test_a_link_is_read_from_its_message() -> None:
    """A recorded RTM_NEWLINK body of a veth on a bridge, shortened to the attributes that are read."""
    body = bytes.fromhex("00000100070000004310010000000000")  # index 7, flags 0x11043: up
    body += bytes.fromhex("090003007665746861000000")  # IFLA_IFNAME "vetha"
    body += bytes.fromhex("08000400aa050000")  # IFLA_MTU 1450
    body += bytes.fromhex("0800050002000000")  # IFLA_LINK 2
    body += bytes.fromhex("08000a0003000000")  # IFLA_MASTER 3
    body += bytes.fromhex("0500100006000000")  # IFLA_OPERSTATE up
    body += bytes.fromhex("0a0001000a580a0101020000")  # IFLA_ADDRESS
    body += bytes.fromhex("10001280090001007665746800000000")  # IFLA_LINKINFO { IFLA_INFO_KIND "veth" }
    link = Link(body)
    assert (link.index, link.name, link.up, link.operational) == (7, "vetha", True, True)
    assert (link.mtu, link.peer, link.master, link.kind, link.mac) == (1450, 2, 3, "veth", "0a:58:0a:01:01:02")
