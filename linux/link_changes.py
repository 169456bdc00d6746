"""Links made, changed and deleted. pyroute2 spells the messages (it knows what each kind of link is made of), the conversation
is ours: one socket, the kernel's own words in refusals, any event loop.

These are the cold changes: a device is made once. What there are thousands of (`linux.neighbours`, `linux.routes`) is
packed by hand, some 15 times as fast. Importing this takes 0.2 s, which is pyroute2's.
"""

from __future__ import annotations

import errno
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from linux.links import Vxlan
from linux.netlink import Conversation, Request
from linux.wire import CREATE, EXCLUSIVE, HEADER

_NEWLINK, _DELLINK = 16, 17
_UP = 1  # IFF_UP
_NO_LINK_LOCAL = 1  # IN6_ADDR_GEN_MODE_NONE
_GONE = frozenset([errno.ENODEV])

Attributes = list[tuple[str, Any]]


def create_vxlan(ip: Conversation, name: str, vxlan: Vxlan, *, mac: str, mtu: int) -> None:
    """A VXLAN device, still down. A MAC address given at creation is one that udev leaves alone."""
    data: Attributes = [
        ("IFLA_VXLAN_ID", vxlan.vni),
        ("IFLA_VXLAN_PORT", vxlan.port),
        ("IFLA_VXLAN_LEARNING", int(vxlan.learning)),
    ]
    if vxlan.underlay:
        data.append(("IFLA_VXLAN_LINK", vxlan.underlay))
    if vxlan.local is not None:
        data.append(("IFLA_VXLAN_LOCAL" if vxlan.local.version == 4 else "IFLA_VXLAN_LOCAL6", str(vxlan.local)))
    if vxlan.gbp:
        data.append(("IFLA_VXLAN_GBP", True))
    given: Attributes = [("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu)]
    words = f"create the VXLAN device {name} (VNI {vxlan.vni}, UDP port {vxlan.port}, from {vxlan.local})"
    _create(ip, name, "vxlan", given, data, words)


def create_wireguard(ip: Conversation, name: str, *, mtu: int) -> None:
    """A WireGuard device without keys, still down. EOPNOTSUPP where the kernel has no WireGuard."""
    _create(ip, name, "wireguard", [("IFLA_MTU", mtu)], [], f"create the WireGuard device {name}")


def change_link(
    ip: Conversation,
    index: int,
    *,
    mac: str | None = None,
    mtu: int | None = None,
    alias: str | None = None,
    up: bool | None = None,
    link_local: bool | None = None,
) -> None:
    """Only what is given. `link_local`: whether it gives itself IPv6 addresses of link scope when it comes up."""
    wanted = {"IFLA_ADDRESS": mac, "IFLA_MTU": mtu, "IFLA_IFALIAS": alias}
    given: Attributes = [(name, value) for name, value in wanted.items() if value is not None]
    said = [f"{name.removeprefix('IFLA_').lower()} {value}" for name, value in given]
    message = ifinfmsg()
    message["index"] = index
    if up is not None:
        message["flags"], message["change"] = _UP if up else 0, _UP
        said.append("up" if up else "down")
    if link_local is not None:
        mode = 0 if link_local else _NO_LINK_LOCAL
        inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", mode)]}
        given.append(("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]}))
        said.append(f"link-local addresses {'on' if link_local else 'off'}")
    message["attrs"] = given
    ip.order(Request(_NEWLINK, 0, _body(message), "set {} of link number {}", (", ".join(said), index)))


def delete_link(ip: Conversation, index: int) -> None:
    message = ifinfmsg()
    message["index"] = index
    ip.order(Request(_DELLINK, 0, _body(message), "delete link number {}", (index,), _GONE))


def _create(ip: Conversation, name: str, kind: str, given: Attributes, data: Attributes, words: str) -> None:
    info: Attributes = [("IFLA_INFO_KIND", kind)]
    if data:
        info.append(("IFLA_INFO_DATA", {"attrs": data}))
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), *given, ("IFLA_LINKINFO", {"attrs": info})]
    ip.order(Request(_NEWLINK, CREATE | EXCLUSIVE, _body(message), "{}", (words,)))


def _body(message: ifinfmsg) -> bytes:
    message.encode()
    return bytes(message.data)[HEADER.size :]
