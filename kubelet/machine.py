"""What this machine is and how it fares, read from /proc, /sys and /etc."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

MEMORY_AVAILABLE = 100 * 1024 * 1024  # evictionHard: memory.available<100Mi
DISK_AVAILABLE = 0.10  # nodefs.available<10%
INODES_FREE = 0.05  # nodefs.inodesFree<5%
PIDS_FREE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    cpus: int
    memory: int
    storage: int
    machine: str
    kernel: str
    os_image: str
    machine_id: str
    system_uuid: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Pressure:
    memory: bool = False
    disk: bool = False
    pids: bool = False


def _line(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _meminfo() -> dict[str, int]:
    """In bytes."""
    pairs = (line.split(":") for line in _line("/proc/meminfo").splitlines() if ":" in line)
    return {name: int(rest.split()[0]) * 1024 for name, rest in pairs}


def _os_image() -> str:
    for line in _line("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return "Linux"


def machine(root: str) -> Machine:
    """`root` is a directory on the filesystem that pods' files live on."""
    names = os.uname()
    storage = os.statvfs(root)
    return Machine(
        cpus=os.cpu_count() or 1,
        memory=_meminfo().get("MemTotal", 0),
        storage=storage.f_blocks * storage.f_frsize,
        machine=names.machine,
        kernel=names.release,
        os_image=_os_image(),
        machine_id=_line("/etc/machine-id"),
        system_uuid=_line("/sys/class/dmi/id/product_uuid") or _line("/etc/machine-id"),
        boot_id=_line("/proc/sys/kernel/random/boot_id"),
    )


def pressure(root: str) -> Pressure:
    """Upstream's default hard eviction signals."""
    disk = os.statvfs(root)
    pids = int(_line("/proc/sys/kernel/pid_max") or 0)
    running = _line("/proc/loadavg").split()
    threads = int(running[3].split("/")[1]) if len(running) > 3 else 0
    return Pressure(
        memory=_meminfo().get("MemAvailable", MEMORY_AVAILABLE) < MEMORY_AVAILABLE,
        disk=disk.f_bavail < disk.f_blocks * DISK_AVAILABLE or disk.f_favail < disk.f_files * INODES_FREE,
        pids=bool(pids) and pids - threads < pids * PIDS_FREE,
    )


def address_towards(server: str) -> str:
    """This machine's address on the way to the API server; no packet is sent."""
    parts = urlsplit(server)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, target = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return ""
