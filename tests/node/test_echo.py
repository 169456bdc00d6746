"""Echoes, and datagrams to closed ports, between two namespaces; the checksum switch of a device."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

import pytest

from linux import echo, ethtool, netns
from tests.conftest import Netns

T = TypeVar("T")
Make = Callable[[str], Netns]


@pytest.mark.parametrize(("one", "two"), [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")])
def test_who_is_there_and_who_refuses(netns: Make, one: str, two: str) -> None:
    here, there = netns("here"), netns("there")
    here.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", there.name)
    for space, address in ((here, one), (there, two)):
        more = ("nodad",) if ":" in address else ()
        space.run("ip", "addr", "add", address + ("/64" if ":" in address else "/24"), "dev", "eth0", *more)
        space.run("ip", "link", "set", "eth0", "up")

    def asked(what: Callable[..., Awaitable[bool]], address: str = two, attempts: int = 9) -> bool:
        async def ask() -> bool:
            return await what(ip_address(address), "eth0", attempts)

        return inside(here, lambda: asyncio.run(ask()))

    assert asked(echo.echoed)
    assert asked(echo.refused)
    nobody = two[:-1] + "9"
    assert not asked(echo.echoed, nobody, 1)
    assert not asked(echo.refused, nobody, 1), "our own kernel's word that it found nobody is no answer"
    command = "ip6tables-nft" if ":" in one else "iptables-nft"
    there.run(command, "-A", "INPUT", "-p", "udp", "-j", "DROP")
    assert asked(echo.echoed)
    assert not asked(echo.refused, attempts=2)


def test_a_devices_checksum_switch(netns: Make) -> None:
    space = netns("here")
    space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")

    def switch() -> list[bool]:
        found = [ethtool.tx_checksum("eth0")]
        for on in (False, True):
            ethtool.set_tx_checksum("eth0", on)
            found.append(ethtool.tx_checksum("eth0"))
        return found

    assert inside(space, switch) == [True, False, True]
    with pytest.raises(OSError, match="transmit checksumming: No such device"):
        inside(space, lambda: ethtool.tx_checksum("eth7"))
    with pytest.raises(OSError, match="No such device"):
        inside(space, lambda: ethtool.tx_checksum("a-name-that-is-too-long"))


def inside(space: Netns, what: Callable[[], T]) -> T:
    return netns.call(space.path, what)
