"""Kernel parameters by their dotted names; those under net.* are the ones of the network namespace of this process."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/proc/sys")


def path_of(name: str, root: Path = _ROOT) -> Path:
    """`net.ipv4.conf.eth0/1.forwarding` -> the file; as with sysctl(8), a slash stands for a dot inside a name."""
    return root.joinpath(*(part.replace("/", ".") for part in name.split(".")))


def read(name: str, root: Path = _ROOT) -> str:
    return path_of(name, root).read_text().strip()


def ensure(name: str, value: str, root: Path = _ROOT) -> bool:
    """Set a parameter unless it has the value already; whether it was written. The OSError names parameter and value."""
    if read(name, root) == value:
        return False
    try:
        path_of(name, root).write_text(value + "\n")
    except OSError as error:
        raise OSError(error.errno, f"set {name}={value}: {error.strerror}") from error
    return True
