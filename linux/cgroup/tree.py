"""Control-group directories: where they are, making them, limiting them, removing them.

Version 2 is one tree; version 1 is a directory per controller (some mounted together), beside which a machine may
carry the version 2 tree without controllers ("hybrid"). A *path* here is what Kubernetes and Docker call a cgroup
parent, `/kubepods/burstable/pod1234`: relative to every hierarchy's mount point.

Limits are written where their controllers live and nowhere else; the other hierarchies' directories are made by the
runtime when it needs them, and removed here, because a directory left in one hierarchy is a leak that no listing of
another one shows.

The weight on version 2 is the kubelet's linear formula (KEP-2254); what runtimes apply to containers differs and is
theirs.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
V1_LIMITED = ("cpu", "memory", "pids")
KNOWN_V1 = frozenset(
    {"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio"}
    | {"perf_event", "pids", "rdma"}
)


class CgroupBusy(OSError):
    """A group still holds processes; the caller tries again once they are gone."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group may use; None leaves the kernel's (or the last writer's) value."""

    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int = 100_000
    memory_bytes: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The mounted trees: by controller for version 1, `unified` for version 2, `others` (systemd, hybrid) only to clean
    up in."""

    controllers: Mapping[str, Path] = field(default_factory=dict)
    unified: Path | None = None
    others: tuple[Path, ...] = ()
    hybrid: Path | None = None
    """The version 2 tree without controllers, beside version 1; one of `others`."""

    @property
    def version(self) -> int:
        return 2 if self.unified is not None else 1

    def roots(self) -> tuple[Path, ...]:
        found = [*self.controllers.values(), *self.others, *((self.unified,) if self.unified else ())]
        return tuple(dict.fromkeys(found))


def hierarchies(mountinfo: str | None = None) -> Hierarchies:
    """The hierarchies this machine has mounted, from /proc/self/mountinfo."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    controllers: dict[str, Path] = {}
    unified: list[Path] = []
    named: list[Path] = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            unified.append(point)
        elif kind == "cgroup":
            # Super options mix controllers with rw, xattr and the like; only names the kernel knows as controllers matter here.
            names = [name for name in options.split(",") if name in KNOWN_V1]
            for name in names:
                controllers.setdefault(name, point)
            if not names:
                named.append(point)
    if controllers:
        return Hierarchies(controllers, None, (*named, *unified), unified[0] if unified else None)
    return Hierarchies({}, unified[0] if unified else MOUNT, ())


def weight(shares: int) -> int:
    """cpu.weight for cpu.shares: 2..262144 onto 1..10000, linearly."""
    return 1 + (max(2, min(262144, shares)) - 2) * 9999 // 262142


def create(trees: Hierarchies, path: str, limits: Limits) -> None:
    """Make the group and write its limits. Doing it again changes nothing but the limits."""
    if trees.unified is not None:
        _create_v2(trees.unified, path, limits)
        return
    for controller in V1_LIMITED:
        if controller in trees.controllers:
            _below(trees.controllers[controller], path).mkdir(parents=True, exist_ok=True)
    for controller, file, value in _v1_values(limits):
        if controller in trees.controllers:
            _write(_below(trees.controllers[controller], path) / file, value)


def memory_in_use(trees: Hierarchies, path: str) -> int:
    """Bytes charged to a group; 0 where there is no such group."""
    base, name = trees.unified, "memory.current"
    if base is None:
        base, name = trees.controllers.get("memory"), "memory.usage_in_bytes"
    if base is None or not path:
        return 0
    try:
        return int((_below(base, path) / name).read_text())
    except OSError:
        return 0


def _v1_values(limits: Limits) -> Iterator[tuple[str, str, str]]:
    if limits.cpu_shares is not None:
        yield "cpu", "cpu.shares", str(limits.cpu_shares)
    if limits.cpu_quota_us is not None:
        yield "cpu", "cpu.cfs_period_us", str(limits.cpu_period_us)
        yield "cpu", "cpu.cfs_quota_us", str(limits.cpu_quota_us)
    if limits.memory_bytes is not None:
        yield "memory", "memory.limit_in_bytes", str(limits.memory_bytes)
    if limits.pids is not None:
        yield "pids", "pids.max", str(limits.pids) if limits.pids > 0 else "max"


def _create_v2(root: Path, path: str, limits: Limits) -> None:
    directory = root
    for part in path.strip("/").split("/"):
        _enable_controllers(directory)
        directory = directory / part
        directory.mkdir(exist_ok=True)
    if limits.cpu_shares is not None:
        _write(directory / "cpu.weight", str(weight(limits.cpu_shares)))
    if limits.cpu_quota_us is not None:
        quota = str(limits.cpu_quota_us) if limits.cpu_quota_us > 0 else "max"
        _write(directory / "cpu.max", f"{quota} {limits.cpu_period_us}")
    if limits.memory_bytes is not None:
        _write(directory / "memory.max", str(limits.memory_bytes) if limits.memory_bytes > 0 else "max")
    if limits.pids is not None:
        _write(directory / "pids.max", str(limits.pids) if limits.pids > 0 else "max")


def _enable_controllers(directory: Path) -> None:
    available = (directory / "cgroup.controllers").read_text().split()
    enabled = (directory / "cgroup.subtree_control").read_text().split()
    missing = [name for name in ("cpu", "memory", "pids", "cpuset", "io") if name in available and name not in enabled]
    if missing:
        _write(directory / "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))


def exists(trees: Hierarchies, path: str) -> bool:
    return any(_below(root, path).is_dir() for root in trees.roots())


def children(trees: Hierarchies, path: str) -> frozenset[str]:
    """Names of the groups directly below `path`, in whichever hierarchy they are."""
    names: set[str] = set()
    for root in trees.roots():
        try:
            names.update(entry.name for entry in os.scandir(_below(root, path)) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            continue
    return frozenset(names)


def processes(trees: Hierarchies, path: str) -> frozenset[int]:
    """Every process in the group or below it."""
    pids: set[int] = set()
    for root in trees.roots():
        for directory, _, files in os.walk(_below(root, path)):
            if "cgroup.procs" in files:
                try:
                    pids.update(int(line) for line in Path(directory, "cgroup.procs").read_text().split())
                except (FileNotFoundError, OSError):
                    continue  # the group went away while we looked
    return frozenset(pids)


def remove(trees: Hierarchies, path: str) -> None:
    """Remove the group and the groups below it from every hierarchy. An absent group is a removed one.

    Raises CgroupBusy while processes live in it."""
    for root in trees.roots():
        top = _below(root, path)
        for directory, _, _ in os.walk(top, topdown=False):
            _rmdir(directory)


def _rmdir(directory: str) -> None:
    try:
        os.rmdir(directory)  # the files inside are the kernel's and vanish with it
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            raise CgroupBusy(error.errno, f"cgroup {directory} still holds processes or groups") from error
        raise


def _below(root: Path, path: str) -> Path:
    relative = path.strip("/")
    if not relative or ".." in relative.split("/"):
        raise ValueError(f"cgroup path {path!r} does not name a group below the root")
    return root / relative


def _write(file: Path, value: str) -> None:
    with open(file, "w", encoding="ascii") as handle:
        handle.write(value)
