"""Which interface carries the overlay, and with which address.

In this order: the interface named by --iface (name or address); the one with the route to --iface-can-reach; the one with
the route to the API server. An API server on this very machine is reached through loopback: then it is the interface that
has the server's address or, when that is loopback's own, the one with the default route.
"""

import asyncio
import socket
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from linux import links, routes
from linux.netlink import Netlink
from overlay.wish import NotYet, Underlay

_ANYWHERE = IPv4Address("192.0.2.1")  # TEST-NET-1: only a default route leads there


async def address_of(server: str) -> IPv4Address:
    """The API server's address, by name if need be; raises NotYet."""
    host = urlsplit(server).hostname or ""
    try:
        return IPv4Address(host)
    except ValueError:
        loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotYet(f"cannot find the address of the API server {server}: {error}") from error
    return IPv4Address(found[0][4][0])


async def find(ip: Netlink, *, interface: str, reach: IPv4Address | None, server: IPv4Address) -> Underlay:
    """The underlay as it is now; raises NotYet when there is none."""
    if interface:
        return await _named(ip, interface)
    if reach is not None:
        return await _towards(ip, reach, f"--iface-can-reach {reach}")
    if not server.is_loopback:
        return await _towards(ip, server, f"the API server {server}")
    return await _towards(
        ip, _ANYWHERE, f"anywhere (the API server {server} is on loopback; --iface names the interface)"
    )


async def _named(ip: Netlink, interface: str) -> Underlay:
    try:
        return await _holding(ip, IPv4Address(interface), f"--iface {interface}")
    except ValueError:
        link = await links.link(ip, interface)
    if link is None:
        raise NotYet(f"--iface {interface}: there is no such interface")
    return await _with_address(ip, link)


async def _towards(ip: Netlink, target: IPv4Address, what: str) -> Underlay:
    path = await routes.path_to(ip, target)
    if path is None:
        raise NotYet(f"there is no route to {what}; add one or name the interface with --iface")
    if path.local:
        return await _holding(ip, target, what)
    link = await links.link_at(ip, path.device)
    if link is None:
        raise NotYet(f"the interface with the route to {what} has gone")
    if path.source is not None:
        return Underlay(link.index, link.name, path.source, link.mtu)
    return await _with_address(ip, link)


async def _holding(ip: Netlink, address: IPv4Address, what: str) -> Underlay:
    for one in await links.all_addresses(ip):
        if one.interface.ip == address:
            link = await links.link_at(ip, one.device)
            if link is not None and not link.loopback:
                return Underlay(link.index, link.name, address, link.mtu)
    raise NotYet(f"{what}: no interface but loopback has the address {address}; name one with --iface")


async def _with_address(ip: Netlink, link: links.Link) -> Underlay:
    found = await links.addresses(ip, link.index)
    usable = [one.interface.ip for one in found if not one.host_only]
    if not usable:
        raise NotYet(f"interface {link.name} has no IPv4 address that other nodes could reach")
    return Underlay(link.index, link.name, usable[0], link.mtu)
