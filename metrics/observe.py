"""What is there beside cgroups: the machine, its block devices and filesystems, network interfaces, containers' layers."""

import os
import platform
import re
from collections.abc import Sequence

import psutil

from linux.cgroup.files import content, text
from metrics.model import Disk, FileSystem, Interface, Machine

MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
BOOT_ID_FILES = ("/proc/sys/kernel/random/boot_id",)


def machine(machine_id: Sequence[str] = MACHINE_ID_FILES, boot_id: Sequence[str] = BOOT_ID_FILES) -> Machine:
    """The first of the files that says something names the machine, or the boot."""
    cpus = text("/proc/cpuinfo") or ""
    return Machine(
        cores=psutil.cpu_count() or 1,
        physical_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        swap_bytes=psutil.swap_memory().total,
        kernel=platform.release(),
        system=_system(),
        sockets=len(set(re.findall(r"^physical id\s*:\s*(\d+)", cpus, re.MULTILINE))) or 1,
        frequency_khz=_frequency(cpus),
        machine_id=_first(machine_id),
        system_uuid=_first(("/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid")),
        boot_id=_first(boot_id),
        booted=psutil.boot_time(),
        nodes=_nodes(),
    )


def _first(files: Sequence[str]) -> str:
    return next((found for file in files if (found := (text(file) or "").strip("\0 \n"))), "")


def _frequency(cpus: str) -> int:
    highest = _first(("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",))
    if highest.isdecimal():
        return int(highest)
    seen = re.search(r"^(?:cpu MHz|clock)\s*:\s*([0-9.]+)", cpus, re.MULTILINE)
    return int(float(seen[1]) * 1000) if seen else 0


def _nodes(folder: str = "/sys/devices/system/node") -> dict[int, int]:
    found = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    for name in sorted(names):
        if name.startswith("node") and name[4:].isdecimal():
            total = re.search(r"MemTotal:\s+(\d+) kB", text(f"{folder}/{name}/meminfo") or "")
            found[int(name[4:])] = int(total[1]) * 1024 if total else 0
    return found


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def has_swap() -> bool:
    return (content("/proc/swaps") or b"").count(b"\n") > 1


def filesystems() -> tuple[FileSystem, ...]:
    """Each block device that is mounted, once."""
    found: dict[str, FileSystem] = {}
    for partition in psutil.disk_partitions(all=False):
        if partition.device in found or not partition.device.startswith("/dev/"):
            continue
        try:
            if not _shows(partition.mountpoint, partition.device, partition.fstype):
                continue
            status = os.statvfs(partition.mountpoint)
        except OSError:
            continue
        size = status.f_frsize
        found[partition.device] = FileSystem(
            device=partition.device,
            total=status.f_blocks * size,
            used=(status.f_blocks - status.f_bfree) * size,
            inodes=status.f_files,
            inodes_free=status.f_ffree,
            mountpoint=partition.mountpoint,
            kind=partition.fstype,
            available=status.f_bavail * size,
        )
    return tuple(found.values())


def _shows(mountpoint: str, device: str, kind: str) -> bool:
    """Whether it is the device that answers at a mount point, not what was mounted over it. Devices whose files have numbers of
    their own (btrfs), and the kernel's /dev/root that is nowhere, are believed. Raises OSError."""
    if kind in ("btrfs", "zfs") or not os.path.exists(device):
        return True
    return os.stat(mountpoint).st_dev == os.stat(device).st_rdev


def devices(partitions: bytes | None) -> dict[str, str]:
    """Names of block devices by `major:minor`, from /proc/partitions."""
    found: dict[str, str] = {}
    for line in (partitions or b"").decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdigit():
            found[f"{words[0]}:{words[1]}"] = f"/dev/{words[3]}"
    return found


def disks() -> dict[str, Disk]:
    """By device name."""
    found = {}
    for line in (text("/proc/diskstats") or "").splitlines():
        words = line.split()
        if len(words) >= 14 and all(word.isdecimal() for word in words[3:14]):
            found[f"/dev/{words[2]}"] = Disk(*(int(word) for word in words[3:14]))
    return found


def parse_interfaces(table: bytes) -> tuple[Interface, ...]:
    """/proc/net/dev without loopback: eight receive counters, then eight transmit counters (proc(5))."""
    found = []
    for line in table.splitlines()[2:]:
        name, _, counters = line.partition(b":")
        values = counters.split()
        if len(values) < 16 or (name := name.strip()) == b"lo":
            continue
        try:
            first = [int(values[at]) for at in (0, 1, 2, 3, 8, 9, 10, 11)]
        except ValueError:
            continue
        found.append(Interface(name.decode("utf-8", "replace"), *first))
    return tuple(found)


def pids(procs: bytes | None) -> list[int]:
    """A cgroup.procs file's."""
    return [int(word) for word in (procs or b"").split() if word.isdigit()]


_UPPER = re.compile(r"^\S+ \S+ \S+ \S+ / .* - overlay \S+ .*?\bupperdir=([^,\n]+)", re.MULTILINE)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def layer(mountinfo: str) -> str:
    """Where a process's root filesystem is written to, by its /proc/PID/mountinfo: the upper directory of its overlay, whichever
    runtime mounted it. Empty where it is of another kind."""
    found = _UPPER.search(mountinfo)
    return _ESCAPED.sub(lambda m: chr(int(m[1], 8)), found[1]) if found else ""
