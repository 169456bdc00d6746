"""Kernel parameters that the overlay cannot do without, each written only where it is not right already.

net.ipv4.ip_forward=1                      a packet of a pod may leave the node, one for a pod may enter it
net.ipv6.conf.all.forwarding=1             the same for IPv6
net.ipv6.conf.<underlay>.accept_ra=2       where router advertisements are listened to (1): with forwarding on, a 1
                                           means no, and the node would lose its IPv6 default route
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from linux import sysctl
from linux.iptables.rules import Family

FORWARDING = {Family.V4: "net.ipv4.ip_forward", Family.V6: "net.ipv6.conf.all.forwarding"}
_ROOT = Path("/proc/sys")


def ensure(families: Collection[Family], underlays: Collection[str], root: Path = _ROOT) -> list[str]:
    """What was wrong and is right now, in words; `underlays`: names of the interfaces that carry IPv6. The OSError names
    parameter and value."""
    done = []
    for name, value in _wanted(families, underlays, root):
        before = sysctl.read(name, root)
        if sysctl.ensure(name, value, root):
            done.append(f"{name}={value} (it was {before})")
    return done


def _wanted(families: Collection[Family], underlays: Collection[str], root: Path) -> Iterator[tuple[str, str]]:
    if Family.V6 in families:
        for underlay in underlays:
            name = f"net.ipv6.conf.{underlay.replace('.', '/')}.accept_ra"
            try:
                if sysctl.read(name, root) == "1":
                    yield name, "2"
            except FileNotFoundError:
                continue  # no such interface any more, or IPv6 is off there
    for family in families:
        yield FORWARDING[family], "1"
