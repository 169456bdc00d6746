"""Reading the cgroup tree: one scrape's snapshot.

Nothing is done between scrapes. The kernel keeps note of groups that are made and removed (`metrics.tree`); a scrape reads
the files that the families that are wanted need, on descriptors that are kept (`linux.cgroup.files`), and what a group's
files said before is not parsed again where they say the same. Of groups that are no container's, no pod's and not the root,
the kubepods tree and its classes are reported; others only with `services`.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from linux.cgroup import v1, v2
from linux.cgroup.files import Budget, Gone, content
from linux.cgroup.tree import Hierarchies, hierarchies
from linux.cgroup.usage import Ask, Usage
from metrics import observe
from metrics.group import Group
from metrics.identities import identity
from metrics.kills import Kills
from metrics.model import EVERYTHING, MIXIN, Counted, Disk, Identity, Interface, Kind, Machine, Part, Sample, Snapshot
from metrics.tree import Place, Tree
from metrics.walks import Walks

# What the kubelet needs to serve its own containers.
__all__ = [
    "EVERYTHING",
    "MIXIN",
    "Collector",
    "Counted",
    "Disk",
    "Identity",
    "Interface",
    "Kind",
    "Machine",
    "Part",
    "Sample",
    "Snapshot",
    "Walks",
    "identity",
]

log = logging.getLogger(__name__)

Identities = Callable[[], Mapping[str, Identity]]


class Collector:
    """Snapshots of the cgroups below `root`. `snapshot` blocks (call it in a thread) and is shared by scrapes that come within
    `fresh` seconds of one another and want no more. `services`: also groups that no runtime knows, with their id alone; of
    these only what is below one of `prefixes`, where there are any. `status` gives the runtime's trouble, if any, and version.
    Close it."""

    def __init__(
        self,
        identities: Identities,
        root: str = "/",
        *,
        trees: Hierarchies | None = None,
        fresh: float = 1.0,
        services: bool = False,
        prefixes: tuple[str, ...] = (),
        status: Callable[[], tuple[str, str]] = lambda: ("", ""),
        machine: Callable[[], Machine] = observe.machine,
        budget: Budget | None = None,
        walks: Walks | None = None,
    ) -> None:
        self._identities = identities
        self._trees = trees or hierarchies()
        self._fresh = fresh
        self._services = services
        self._prefixes = prefixes
        self._status = status
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._taken = float("-inf")
        self._machine = machine()
        self._budget = budget or Budget()
        self._walks = walks or Walks()
        self._kills = Kills()
        self._rootless = False
        self._groups: dict[str, Group] = {}
        self._places: Mapping[str, Place] = {}
        self._partitions: tuple[bytes | None, dict[str, str]] = (None, {})
        controllers = self._trees.controllers
        first = controllers.get("memory") or next(iter(controllers.values()), "")
        self._base = str(self._trees.unified or first)
        limits = v2.LIMIT_FILES if self._trees.unified is not None else v1.LIMIT_FILES
        self._tree = Tree(self._base, "/" + root.strip("/"), limits)

    def close(self) -> None:
        with self._lock:
            self._reset()
            self._tree.close()
            self._kills.close()
            self._walks.close()

    def snapshot(self, wanted: frozenset[Part] = EVERYTHING) -> Snapshot:
        with self._lock:
            last = self._last
            if last is None or time.monotonic() - self._taken > self._fresh or not wanted <= last.parts:
                self._last = last = self._take(wanted)
                self._taken = time.monotonic()
            return last

    @property
    def descriptors(self) -> int:
        """How many are held for all groups."""
        return sum(group.descriptors for group in self._groups.values())

    def _take(self, wanted: frozenset[Part]) -> Snapshot:
        groups = self._current(self._identities())
        pods = {g.identity.pod_uid: g for g in groups if g.kind == "sandbox" and g.identity}
        ask = Ask(
            split=Part.CPU_SPLIT in wanted,
            peak=Part.MEMORY_PEAK in wanted,
            swap=observe.has_swap(),
            oom=Part.OOM in wanted,
            io=Part.IO in wanted,
            pids=Part.PIDS in wanted,
            pressure=Part.PRESSURE in wanted,
        )
        samples: list[Sample] = []
        host = _own_network() if Part.NETWORK in wanted else 0
        networks: dict[str, tuple[Interface, ...]] = (
            {uid: pod.interfaces(host) for uid, pod in pods.items()} if host else {}
        )
        failed = rootless = False
        kills = self._kills.below() if ask.oom else {}
        for group in groups:
            if group.kind == "pod":
                sandbox = pods.get(group.place.id)
                group.owned(sandbox.identity if sandbox else None)
            try:
                usage = group.read(ask)
            except Gone:
                self._drop(group)
                continue
            if usage.cpu is None and usage.memory is None:
                if group.kind == "root" and not self._rootless:
                    log.warning("no cgroup %s: nothing can be read until there is (--cgroup-root)", group.place.path)
                rootless = rootless or group.kind == "root"
                failed = failed or rootless or group.there()  # others that are gone by now are no error
                continue
            killed = kills.get(group.place.path, 0)
            if killed > (usage.oom_kills or 0):
                usage = msgspec.structs.replace(usage, oom_kills=killed)
            samples.append(self._sample(group, usage, wanted, networks, host))
        self._rootless = rootless
        error, version = self._status()
        more = Part.FILESYSTEMS in wanted
        return Snapshot(
            when=time.time(),
            machine=self._machine,
            samples=tuple(samples),
            filesystems=observe.filesystems() if more else (),
            devices=self._devices() if Part.IO in wanted or more or Part.LAYERS in wanted else {},
            disks=observe.disks() if more else {},
            load=os.getloadavg(),
            failed=failed or bool(error),
            parts=wanted,
            runtime_version=version,
        )

    def _sample(
        self,
        group: Group,
        usage: Usage,
        wanted: frozenset[Part],
        networks: Mapping[str, tuple[Interface, ...]],
        host: int,
    ) -> Sample:
        kind, owner = group.kind, group.identity
        interfaces: tuple[Interface, ...] = ()
        if host:
            if kind == "pod" or kind == "sandbox":
                interfaces = networks.get(owner.pod_uid, ()) if owner else ()
            elif kind == "root":
                interfaces = observe.parse_interfaces(content("/proc/self/net/dev") or b"")
            elif kind == "container" and not (owner and owner.pod_uid):
                interfaces = group.interfaces(host)
        lone = kind not in ("root", "qos", "pod")
        return Sample(
            path=group.labels["id"],
            labels=group.labels,
            usage=usage,
            started=owner.started if owner else self._machine.booted if kind == "root" else group.made,
            interfaces=interfaces,
            kind=kind,
            identity=owner,
            processes=group.processes() if lone and Part.PROCESSES in wanted else None,
            layer=self._layer(group) if lone and owner and Part.LAYERS in wanted else None,
        )

    def _layer(self, group: Group) -> Counted | None:
        path = group.layer()
        return self._walks.counted(path) if path else None

    def _devices(self) -> Mapping[str, str]:
        partitions = content("/proc/partitions")
        if partitions != self._partitions[0]:
            self._partitions = partitions, observe.devices(partitions)
        return self._partitions[1]

    def _current(self, known: Mapping[str, Identity]) -> list[Group]:
        """The groups to be read, parents before their children."""
        places, written = self._tree.refresh()
        if written is None:
            self._reset()
        else:
            for path in written:
                if path in self._groups:
                    self._groups[path].limits_written()
        if places is not self._places:
            for path in self._groups.keys() - places.keys():
                self._drop(self._groups[path])
            self._places = places
        found: list[Group] = []
        for path, place in places.items():
            group = self._groups.get(path)
            owner = known.get(place.id) if place.kind in ("container", "service") else None
            if owner is None and not self._shown(place):
                if group is not None:
                    self._drop(group)
                continue
            if group is None or group.place is not place:
                if group is not None:
                    self._drop(group)
                group = self._groups[path] = self._open(place)
            if place.kind != "pod":
                group.owned(owner)
            found.append(group)
        return found

    def _shown(self, place: Place) -> bool:
        """Whether a group that is nobody's is reported: not another node's container, nor a slice of systemd's unless asked."""
        if place.kind not in ("container", "service"):
            return True
        return self._services and (not self._prefixes or place.path.startswith(self._prefixes))

    def _open(self, place: Place) -> Group:
        trees = self._trees
        reader = (
            v2.Group(trees.unified, place.path, self._budget)
            if trees.unified is not None
            else v1.Group(trees, place.path, self._budget)
        )
        return Group(place, reader, f"{self._base}{place.path}", self._tree.watch_limits)

    def _drop(self, group: Group) -> None:
        group.close()
        self._groups.pop(group.place.path, None)

    def _reset(self) -> None:
        for group in list(self._groups.values()):
            self._drop(group)


def _own_network() -> int:
    """The inode of the network namespace that we are in."""
    return os.stat("/proc/self/ns/net").st_ino
