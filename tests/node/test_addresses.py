"""Addresses of a network namespace, kept up to date by the kernel's announcements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from linux import netns as kernel_netns
from linux.addresses import LocalAddresses
from tests.conftest import Netns


@pytest.mark.parametrize("address", ["192.0.2.7/24", "2001:db8::7/64"])
def test_an_address_that_comes_and_goes_is_told(netns: Callable[[str], Netns], address: str) -> None:
    space = netns("node")
    wanted = ip_address(address.partition("/")[0])

    async def main() -> None:
        told = asyncio.Event()
        async with LocalAddresses(told.set) as addresses:
            assert wanted not in addresses.known()
            for verb, there in (("add", True), ("del", False)):
                told.clear()
                process = await asyncio.create_subprocess_exec("ip", "address", verb, address, "dev", "lo")
                assert await process.wait() == 0
                async with asyncio.timeout(5):
                    await told.wait()
                assert (wanted in addresses.known()) == there

    with kernel_netns.enter(space.path):
        asyncio.run(main())
