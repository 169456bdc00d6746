"""Links and their IPv4 addresses, read and changed over netlink.

A VXLAN device as the kernel sees it: frames to a MAC address travel in UDP to the host that the forwarding database names
(see `linux.neighbours`). `Vxlan.options` lists what is switched on beyond the plain device (group, l2miss, ...), so
that a caller can tell a plain one from any other.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from linux.netlink import Netlink, absent, attempting, dump

_UP = 1  # IFF_UP
_LOOPBACK = 8  # IFF_LOOPBACK
_OPTIONS = {
    "IFLA_VXLAN_GROUP": "group",
    "IFLA_VXLAN_GROUP6": "group",
    "IFLA_VXLAN_PROXY": "proxy",
    "IFLA_VXLAN_RSC": "rsc",
    "IFLA_VXLAN_L2MISS": "l2miss",
    "IFLA_VXLAN_L3MISS": "l3miss",
    "IFLA_VXLAN_COLLECT_METADATA": "external",
    "IFLA_VXLAN_GBP": "gbp",
    "IFLA_VXLAN_GPE": "gpe",
}


@dataclass(frozen=True, slots=True)
class Vxlan:
    """`underlay` is the index of the interface that carries the UDP packets (0: any), `local` their source."""

    vni: int
    port: int
    underlay: int
    local: IPv4Address | None
    learning: bool = False
    options: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Link:
    """`mac` in lower case with colons; `kind` is empty for hardware; `vxlan` is set for VXLAN devices."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    loopback: bool
    alias: str
    kind: str
    vxlan: Vxlan | None


@dataclass(frozen=True, slots=True)
class Address:
    device: int
    interface: IPv4Interface
    host_only: bool
    """Scope host or link: not for others to send to."""


async def link(ip: Netlink, name: str) -> Link | None:
    return await _one(ip, f"look at the interface {name}", ifname=name)


async def link_at(ip: Netlink, index: int) -> Link | None:
    return await _one(ip, f"look at interface {index}", index=index)


async def _one(ip: Netlink, what: str, **selection: Any) -> Link | None:
    with absent(errno.ENODEV), attempting(what):
        return _link((await ip.link("get", **selection))[0])
    return None


async def links_of_kind(ip: Netlink, kind: str) -> list[Link]:
    """All links of one kind (`vxlan`, `bridge`, ...); the kernel filters."""
    found = [_link(message) for message in await dump(f"list {kind} links", lambda: ip.link("dump", kind=kind))]
    return [one for one in found if one.kind == kind]


async def create_vxlan(ip: Netlink, name: str, vxlan: Vxlan, *, mac: str, mtu: int) -> None:
    """A VXLAN device, still down. A MAC address given at creation is one that udev leaves alone."""
    with attempting(f"create the VXLAN device {name} (VNI {vxlan.vni}, UDP port {vxlan.port}, from {vxlan.local})"):
        await ip.link(
            "add",
            ifname=name,
            kind="vxlan",
            address=mac,
            mtu=mtu,
            vxlan_id=vxlan.vni,
            vxlan_port=vxlan.port,
            vxlan_link=vxlan.underlay,
            vxlan_local=str(vxlan.local),
            vxlan_learning=int(vxlan.learning),
        )


async def change_link(
    ip: Netlink,
    index: int,
    *,
    mac: str | None = None,
    mtu: int | None = None,
    alias: str | None = None,
    up: bool | None = None,
) -> None:
    wanted: dict[str, Any] = {"address": mac, "mtu": mtu, "ifalias": alias}
    given = {key: value for key, value in wanted.items() if value is not None}
    if up is not None:
        given["state"] = "up" if up else "down"
    words = ", ".join(f"{key} {value}" for key, value in given.items())
    with attempting(f"set {words} of interface {index}"):
        await ip.link("set", index=index, **given)


async def delete_link(ip: Netlink, index: int) -> None:
    with absent(errno.ENODEV), attempting(f"delete interface {index}"):
        await ip.link("del", index=index)


async def addresses(ip: Netlink, device: int) -> list[Address]:
    """IPv4 addresses of one interface, in the kernel's order: primary addresses first."""
    ask = dump(f"list the addresses of interface {device}", lambda: ip.addr("dump", family=2, index=device))
    return [_address(message) for message in await ask if message["index"] == device]


async def all_addresses(ip: Netlink) -> list[Address]:
    return [_address(m) for m in await dump("list the addresses", lambda: ip.addr("dump", family=2))]


async def add_address(ip: Netlink, device: int, address: IPv4Interface) -> None:
    with absent(errno.EEXIST), attempting(f"add the address {address} to interface {device}"):
        await ip.addr("add", index=device, address=str(address.ip), prefixlen=address.network.prefixlen)


async def delete_address(ip: Netlink, device: int, address: IPv4Interface) -> None:
    with absent(errno.EADDRNOTAVAIL, errno.ENODEV), attempting(f"take the address {address} from interface {device}"):
        await ip.addr("del", index=device, address=str(address.ip), prefixlen=address.network.prefixlen)


def _link(message: Any) -> Link:
    kind = str(message.get(("linkinfo", "kind")) or "")
    return Link(
        index=int(message["index"]),
        name=str(message.get("ifname")),
        mac=str(message.get("address") or "").lower(),
        mtu=int(message.get("mtu") or 0),
        up=bool(message["flags"] & _UP),
        loopback=bool(message["flags"] & _LOOPBACK),
        alias=str(message.get("ifalias") or ""),
        kind=kind,
        vxlan=_vxlan(message.get(("linkinfo", "data"))) if kind == "vxlan" else None,
    )


def _vxlan(data: Any) -> Vxlan:
    local = data.get("IFLA_VXLAN_LOCAL")
    return Vxlan(
        vni=int(data.get("IFLA_VXLAN_ID") or 0),
        port=int(data.get("IFLA_VXLAN_PORT") or 0),
        underlay=int(data.get("IFLA_VXLAN_LINK") or 0),
        local=IPv4Address(local) if local else None,
        learning=bool(data.get("IFLA_VXLAN_LEARNING")),
        options=frozenset(name for key, name in _OPTIONS.items() if data.get(key)),
    )


def _address(message: Any) -> Address:
    text = message.get("local") or message.get("address")
    return Address(
        device=int(message["index"]),
        interface=IPv4Interface(f"{text}/{message['prefixlen']}"),
        host_only=message["scope"] != 0,
    )
