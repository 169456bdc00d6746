"""Permanent neighbours (which MAC an address has) and FDB entries (behind which host a MAC lives) of one device.

The forwarding database of a VXLAN device is written with NTF_SELF (the device's own, not a bridge's) and NLM_F_REPLACE:
for a MAC that has moved to another host `add` answers EEXIST and `append` silently keeps the old host.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Address

from linux.netlink import Netlink, absent, attempting, dump

_PERMANENT = 0x80  # NUD_PERMANENT
_NOARP = 0x40  # NUD_NOARP
_SELF = 0x02  # NTF_SELF
_ODD = ("NDA_PORT", "NDA_VNI", "NDA_IFINDEX", "NDA_SRC_VNI", "NDA_NH_ID")


@dataclass(frozen=True, slots=True)
class Neighbour:
    address: IPv4Address
    mac: str


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """`plain` is false for an entry with a port, VNI or interface of its own."""

    mac: str
    remote: IPv4Address
    plain: bool = True


async def neighbours(ip: Netlink, device: int) -> list[Neighbour]:
    """The permanent ones; those that the kernel learned come and go on their own."""
    ask = dump(f"list the neighbours of interface {device}", lambda: ip.neigh("dump", family=2, ifindex=device))
    return [
        Neighbour(IPv4Address(message.get("dst")), str(message.get("lladdr") or "").lower())
        for message in await ask
        if message["ifindex"] == device and message["state"] & _PERMANENT
    ]


async def replace_neighbour(ip: Netlink, device: int, neighbour: Neighbour) -> None:
    with attempting(f"set the neighbour {neighbour.address} to {neighbour.mac} on interface {device}"):
        await ip.neigh(
            "replace", ifindex=device, dst=str(neighbour.address), lladdr=neighbour.mac, state=_PERMANENT, family=2
        )


async def delete_neighbour(ip: Netlink, device: int, neighbour: Neighbour) -> None:
    with (
        absent(errno.ENOENT, errno.ENODEV),
        attempting(f"delete the neighbour {neighbour.address} of interface {device}"),
    ):
        await ip.neigh("del", ifindex=device, dst=str(neighbour.address), family=2)


async def fdb_entries(ip: Netlink, device: int) -> list[FdbEntry]:
    """The permanent entries that name a remote host."""
    ask = dump(f"list the FDB of interface {device}", lambda: ip.fdb("dump", ifindex=device))
    return [
        FdbEntry(
            mac=str(message.get("lladdr")).lower(),
            remote=IPv4Address(message.get("dst")),
            plain=not any(message.get(name) for name in _ODD),
        )
        for message in await ask
        if message["ifindex"] == device and message["state"] & _PERMANENT and "." in str(message.get("dst") or "")
    ]


async def replace_fdb(ip: Netlink, device: int, entry: FdbEntry) -> None:
    with attempting(f"set the FDB entry {entry.mac} to {entry.remote} on interface {device}"):
        await ip.fdb(
            "replace",
            ifindex=device,
            lladdr=entry.mac,
            dst=str(entry.remote),
            state=_PERMANENT | _NOARP,
            flags=_SELF,
        )


async def delete_fdb(ip: Netlink, device: int, entry: FdbEntry) -> None:
    with (
        absent(errno.ENOENT, errno.ENODEV),
        attempting(f"delete the FDB entry {entry.mac} of interface {device}"),
    ):
        await ip.fdb("del", ifindex=device, lladdr=entry.mac, flags=_SELF, state=_PERMANENT | _NOARP)
