"""Kernel parameters that the overlay cannot do without, each written only where it is not right already.

net.ipv4.ip_forward=1                      a packet of a pod may leave the node, one for a pod may enter it
net.ipv6.conf.all.forwarding=1             the same for IPv6
net.ipv6.conf.<underlay>.accept_ra=2       where router advertisements are listened to (1): with forwarding on, a 1
                                           means no, and the node would lose its IPv6 default route
net.ipv4.conf.<device>.forwarding=1        for what comes in over the overlay's device, or over the underlay where peers send
                                           without a tunnel: a new device has what conf.default says, ip_forward or not
net.ipv6.conf.<device>.disable_ipv6=0      likewise, or the device takes no address (IPv6 has no such switch of forwarding)
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from linux import sysctl
from linux.iptables.rules import Family

FORWARDING = {Family.V4: "net.ipv4.ip_forward", Family.V6: "net.ipv6.conf.all.forwarding"}
_ENTRY = {Family.V4: ("forwarding", "1"), Family.V6: ("disable_ipv6", "0")}
_ROOT = Path("/proc/sys")


def ensure(
    families: Collection[Family], underlays: Collection[str], root: Path = _ROOT, *, entries: Collection[str] = ()
) -> list[str]:
    """What was wrong and is right now, in words; `underlays`: names of the interfaces that carry IPv6, `entries` of those over
    which packets for pods come in. The OSError names parameter and value."""
    done = []
    for name, value in _wanted(families, underlays, entries, root):
        before = sysctl.read(name, root)
        if sysctl.ensure(name, value, root):
            done.append(f"{name}={value} (it was {before})")
    return done


def all_there(family: Family, devices: Collection[str], root: Path = _ROOT) -> bool:
    """Whether the parameters of all these devices can be looked at."""
    return all(_there(_of(family, device, _ENTRY[family][0]), root) is not None for device in devices)


def _wanted(
    families: Collection[Family], underlays: Collection[str], entries: Collection[str], root: Path
) -> Iterator[tuple[str, str]]:
    if Family.V6 in families:
        for underlay in underlays:
            name = _of(Family.V6, underlay, "accept_ra")
            if _there(name, root) == "1":
                yield name, "2"
    for family in families:
        yield FORWARDING[family], "1"
        for device in entries:
            parameter, value = _ENTRY[family]
            name = _of(family, device, parameter)
            if _there(name, root) is not None:
                yield name, value


def _of(family: Family, device: str, parameter: str) -> str:
    return f"net.ipv{int(family)}.conf.{device.replace('.', '/')}.{parameter}"


def _there(name: str, root: Path) -> str | None:
    """None: there is no such interface (any more), or the family is off there."""
    try:
        return sysctl.read(name, root)
    except FileNotFoundError:
        return None
