"""subnet.env: what CNI plugins need to know of the overlay, in flannel's format.

It is written after the devices are up, in one step (write, fsync, rename), so whoever reads it reads a whole file about
devices that exist. It outlives the daemon: pods may be added while the daemon restarts, and a daemon that has lost its lease
in etcd asks for the same subnet again.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_interface
from pathlib import Path

from linux.iptables.rules import Family
from overlay.model import Range

_PREFIX = {Family.V4: "FLANNEL_", Family.V6: "FLANNEL_IPV6_"}


def render(networks: Mapping[Family, Range], subnets: Mapping[Family, Range], mtu: int, *, masquerade: bool) -> str:
    """FLANNEL_SUBNET is the first address of the node's subnet: the gateway that plugins give to the bridge."""
    lines = []
    for family, subnet in sorted(subnets.items()):
        lines += [
            f"{_PREFIX[family]}NETWORK={networks[family]}",
            f"{_PREFIX[family]}SUBNET={subnet.network_address + 1}/{subnet.prefixlen}",
        ]
    lines += [f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={'true' if masquerade else 'false'}"]
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict[Family, Range]:
    """The subnets that an earlier start wrote there; nothing where there is no readable file."""
    return subnets(text_of(path))


def text_of(path: Path) -> str:
    """Empty where there is no readable file."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def mtu(text: str) -> int | None:
    value = _said(text).get("FLANNEL_MTU", "")
    return int(value) if value.isascii() and value.isdigit() else None


def subnets(text: str) -> dict[Family, Range]:
    said = _said(text)
    found: dict[Family, Range] = {}
    for family, prefix in _PREFIX.items():
        try:
            subnet = ip_interface(said[f"{prefix}SUBNET"]).network
        except (KeyError, ValueError):
            continue
        if subnet.version == family:
            found[family] = subnet
    return found


def _said(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def differs(path: Path, text: str) -> bool:
    """Raises OSError."""
    try:
        return path.read_text() != text
    except (FileNotFoundError, UnicodeDecodeError):
        return True


def write(path: Path, text: str) -> None:
    """Put the file there. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        os.fchmod(file.fileno(), 0o644)  # plugins and people read it, whatever our umask
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(path: Path) -> bool:
    """Whether there was one."""
    path.with_name(f".{path.name}.new").unlink(missing_ok=True)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
