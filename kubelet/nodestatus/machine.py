"""What this machine is and how it fares, read from /proc, /sys and /etc."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kube import quantity

HUGEPAGES = "/sys/kernel/mm/hugepages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Sizes in bytes; `hugepages` is the number of pages by their size."""

    cpus: int
    memory: int
    storage: int
    swap: int = 0
    pids: int = 0
    hugepages: Mapping[int, int] = field(default_factory=dict)
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


def _hugepages() -> dict[int, int]:
    try:
        sizes = os.listdir(HUGEPAGES)
    except OSError:
        return {}
    pages = {}
    for name in sizes:
        size = int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        pages[size] = int(_line(f"{HUGEPAGES}/{name}/nr_hugepages") or 0)
    return pages


def machine(root: str) -> Machine:
    """`root` is a directory on the filesystem that pods' files live on."""
    names, memory = os.uname(), _meminfo()
    storage = os.statvfs(root)
    return Machine(
        cpus=os.cpu_count() or 1,
        memory=memory.get("MemTotal", 0),
        storage=storage.f_blocks * storage.f_frsize,
        swap=memory.get("SwapTotal", 0),
        pids=int(_line("/proc/sys/kernel/pid_max") or 0),
        hugepages=_hugepages(),
        machine=names.machine,
        kernel=names.release,
        os_image=_os_image(),
        machine_id=_line("/etc/machine-id"),
        system_uuid=_line("/sys/class/dmi/id/product_uuid") or _line("/etc/machine-id"),
        boot_id=_line("/proc/sys/kernel/random/boot_id"),
    )


def available_memory(meminfo: Mapping[str, int]) -> int:
    """Capacity less the working set, as upstream counts it: file pages in use are used, MemAvailable is more generous."""
    return meminfo.get("MemFree", 0) + meminfo.get("Inactive(file)", 0)


def pressure(thresholds: Mapping[str, str], root: str, images: str) -> Pressure:
    """Which of the hard eviction thresholds are crossed. `root` and `images` are on the filesystems of pods and of images."""
    memory = _meminfo()
    pids = int(_line("/proc/sys/kernel/pid_max") or 0)
    running = _line("/proc/loadavg").split()
    threads = int(running[3].split("/")[1]) if len(running) > 3 else 0

    def crossed(signal: str, have: float, whole: float) -> bool:
        return signal in thresholds and whole > 0 and have < amount(thresholds[signal], whole)

    def full(path: str, name: str) -> bool:
        try:
            disk = os.statvfs(path)
        except OSError:
            return False
        size = float(disk.f_frsize)
        space = crossed(f"{name}.available", disk.f_bavail * size, disk.f_blocks * size)
        return space or crossed(f"{name}.inodesFree", disk.f_favail, disk.f_files)

    return Pressure(
        memory=crossed("memory.available", available_memory(memory), memory.get("MemTotal", 0)),
        disk=full(root, "nodefs") or (_device(images) != _device(root) and full(images, "imagefs")),
        pids=crossed("pid.available", pids - threads, pids),
    )


def amount(threshold: str, whole: float) -> float:
    """A threshold's quantity, or its share of the whole."""
    if threshold.endswith("%"):
        return whole * float(threshold[:-1]) / 100
    return float(quantity.parse(threshold))


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1


def addresses_towards(server: str) -> tuple[str, ...]:
    """This machine's address on the way to the API server, or, as long as that leads nowhere (no name, no route yet) or only
    to this machine itself, on the way out; empty when there is none. No packet is sent."""
    parts = urlsplit(server)
    ways = ((parts.hostname or "", parts.port or 443), ("192.0.2.1", 9), ("2001:db8::1", 9))
    found = [address for host, port in ways if (address := _own_end(host, port))]
    outside = [address for address in found if not ipaddress.ip_address(address).is_loopback]
    return tuple((outside or found)[:1])


def _own_end(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return ""
