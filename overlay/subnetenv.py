"""subnet.env: what CNI plugins need to know of the overlay, in flannel's format.

It is written after the device is up, in one step (write, fsync, rename), so whoever reads it reads a whole file about a
device that exists. It outlives the daemon: pods may be added while the daemon restarts.
"""

import os
from ipaddress import IPv4Network
from pathlib import Path


def render(network: IPv4Network, subnet: IPv4Network, mtu: int, *, masquerade: bool) -> str:
    """FLANNEL_SUBNET is the first address of the node's subnet: the gateway that plugins give to the bridge."""
    return (
        f"FLANNEL_NETWORK={network}\n"
        f"FLANNEL_SUBNET={subnet.network_address + 1}/{subnet.prefixlen}\n"
        f"FLANNEL_MTU={mtu}\n"
        f"FLANNEL_IPMASQ={'true' if masquerade else 'false'}\n"
    )


def write(path: Path, text: str) -> bool:
    """Put the file there unless it says this already; whether it was written. Raises OSError."""
    try:
        if path.read_text() == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def remove(path: Path) -> bool:
    """Whether there was one."""
    path.with_name(f".{path.name}.new").unlink(missing_ok=True)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
