"""/stats/summary: what the node, its pods and their containers use, as one document (upstream: pkg/kubelet/server/stats, and
k8s.io/kubelet/pkg/apis/stats/v1alpha1 for its names).

CPU, memory, swap and pressure come from the cgroup tree, networks from the pods' namespaces, the rest from `disks`. A rate
(usageNanoCores) needs two looks: it is there from the second question on, and from the eleventh second on over at least
ten seconds, however fast questions come. What the kernel does not say (pressure on version 1) is left out.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psutil

from kubelet.runtime import ContainerRecord, ContainerState, FsUsage, PodRecord
from kubelet.server.disks import Disks, filesystem, moment, part_of
from kubelet.server.resource import swap_limit
from linux.cgroup.usage import Stall
from metrics.collector import Interface, Part, Sample, Snapshot, Walks

Json = dict[str, Any]

BRIEF: Final = frozenset({Part.CPU, Part.MEMORY, Part.PRESSURE})
WHOLE: Final = BRIEF | {Part.NETWORK, Part.PIDS, Part.LAYERS}

_RATE_OVER: Final = 10.0
_POD: Final = re.compile(r"pod([0-9a-f_-]{32,36})(?:\.slice)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where this node's things are."""

    node: str
    cgroup_root: str
    root_dir: str
    pod_logs_dir: str
    volume_period: float = 60.0  # volumeStatsAggPeriod; 0 is upstream's minute, negative is never


class Rates:
    """CPU nanoseconds a second, from the samples of an earlier look."""

    def __init__(self) -> None:
        self._older: tuple[float, dict[str, int]] = (0.0, {})
        self._newer: tuple[float, dict[str, int]] = (0.0, {})
        self._lock = threading.Lock()

    def look(self, snapshot: Snapshot) -> Callable[[Sample], int | None]:
        with self._lock:
            if snapshot.when - self._newer[0] >= _RATE_OVER or not self._newer[0]:
                now = {sample.path: sample.usage.cpu.usage_ns for sample in snapshot.samples if sample.usage.cpu}
                self._older, self._newer = self._newer, (snapshot.when, now)
            before = self._older if self._older[0] else self._newer
            if snapshot.when - before[0] < 1.0:
                before = (0.0, {})

        def rate(sample: Sample) -> int | None:
            since = before[1].get(sample.path)
            if since is None or sample.usage.cpu is None:
                return None
            return max(0, int((sample.usage.cpu.usage_ns - since) / (snapshot.when - before[0])))

        return rate


class Summary:
    """Makes the document. `make` blocks (call it in a thread)."""

    def __init__(self, site: Site, walks: Walks) -> None:
        self._site = site
        self._rates = Rates()
        self._disks = Disks(site.root_dir, site.pod_logs_dir, walks if site.volume_period >= 0 else None)

    def make(self, snapshot: Snapshot, records: Iterable[PodRecord], images: FsUsage | None, *, brief: bool) -> Json:
        """`images` is None when the runtime does not say where they are; `brief` is only_cpu_and_memory."""
        page = _Page(self._site, snapshot, self._rates.look(snapshot), self._disks, images, brief)
        return {"node": page.node(), "pods": list(page.pods(list(records)))}


class _Page:
    def __init__(
        self,
        site: Site,
        snapshot: Snapshot,
        rate: Callable[[Sample], int | None],
        disks: Disks,
        images: FsUsage | None,
        brief: bool,
    ) -> None:
        self._site = site
        self._snapshot = snapshot
        self._rate = rate
        self._disks = disks
        self._images = images
        self._brief = brief
        self._when = moment(snapshot.when)
        self._images_on = filesystem(images.mountpoint, self._when) if images is not None else {}

    def _usage(self, sample: Sample, memory: int | None = None, swap: int | None = None) -> Json:
        """One cgroup's; `memory` and `swap` are what there is where it has no limit."""
        cpu, used, pressure, found = sample.usage.cpu, sample.usage.memory, sample.usage.pressure, Json()
        if cpu is not None:
            rate = self._rate(sample)
            found["cpu"] = {
                "time": self._when,
                **({"usageNanoCores": rate} if rate is not None else {}),
                "usageCoreNanoSeconds": cpu.usage_ns,
                **_psi(pressure.cpu if pressure else None),
            }
        if used is not None:
            limit = sample.usage.limits.memory_bytes or memory
            found["memory"] = {
                "time": self._when,
                **({"availableBytes": max(0, limit - used.working_set)} if limit else {}),
                "usageBytes": used.usage,
                "workingSetBytes": used.working_set,
                "rssBytes": used.rss,
                "pageFaults": used.page_faults,
                "majorPageFaults": used.major_page_faults,
                **_psi(pressure.memory if pressure else None),
            }
            own = swap_limit(sample.usage.limits)
            limit = own if own is not None else swap
            found["swap"] = {
                "time": self._when,
                **({"swapAvailableBytes": max(0, limit - used.swap)} if limit is not None else {}),
                "swapUsageBytes": used.swap,
            }
        if pressure is not None and pressure.io is not None and not self._brief:
            found["io"] = {"time": self._when, **_psi(pressure.io)}
        return found

    def node(self) -> Json:
        machine, root = self._snapshot.machine, "/" + self._site.cgroup_root.strip("/")
        found: Json = {"nodeName": self._site.node, "startTime": moment(psutil.boot_time())}
        for sample in self._snapshot.samples:
            if sample.path == root:
                found |= self._usage(sample, machine.memory_bytes, machine.swap_bytes)
        pods = {f"{root.rstrip('/')}/kubepods", f"{root.rstrip('/')}/kubepods.slice"}
        found["systemContainers"] = [
            {"name": "pods", "startTime": found["startTime"], **self._usage(sample)}
            for sample in self._snapshot.samples
            if sample.path in pods
        ]
        if self._brief:
            return found
        found["network"] = self._network(_own_interfaces())
        found["fs"] = filesystem(self._site.root_dir, self._when)
        if self._images is not None and self._images_on:
            used = {"usedBytes": self._images.used_bytes, "inodesUsed": self._images.inodes_used}
            told = {name: amount for name, amount in used.items() if amount}
            found["runtime"] = {"imageFs": self._images_on | told, "containerFs": self._images_on}
        found["rlimit"] = {"time": self._when, **_processes()}
        return found

    def _network(self, interfaces: Iterable[Interface]) -> Json:
        rows = [
            {
                "name": each.name,
                "rxBytes": each.receive_bytes,
                "rxErrors": each.receive_errors,
                "txBytes": each.transmit_bytes,
                "txErrors": each.transmit_errors,
            }
            for each in interfaces
        ]
        first = next((row for row in rows if row["name"] == "eth0"), rows[0] if rows else {})
        return {"time": self._when, **first, "interfaces": rows}

    def pods(self, records: list[PodRecord]) -> Iterator[Json]:
        by_container = {sample.labels["name"]: sample for sample in self._snapshot.samples if sample.labels["name"]}
        by_pod = {
            match[1].replace("_", "-"): sample
            for sample in self._snapshot.samples
            if (match := _POD.search(sample.path)) and not sample.labels["name"]
        }
        for record in records:
            sample = by_pod.get(record.pod.uid)
            running = [each for each in record.containers if each.state is ContainerState.RUNNING]
            if sample is None and not running:
                continue
            identity = record.pod
            started = min((s.created_at.timestamp() for s in record.sandboxes), default=self._snapshot.when)
            found: Json = {
                "podRef": {"name": identity.name, "namespace": identity.namespace, "uid": identity.uid},
                "startTime": moment(started),
                "containers": [self._container(record, each, by_container.get(each.id)) for each in running],
                **(self._usage(sample) if sample is not None else {}),
            }
            if not self._brief:
                self._add_rest(found, record, sample)
            yield found

    def _container(self, record: PodRecord, container: ContainerRecord, sample: Sample | None) -> Json:
        found: Json = {"name": container.name, "startTime": moment(container.created_at.timestamp())}
        if sample is not None:
            found |= self._usage(sample)
        if not self._brief:
            rootfs = part_of(self._images_on, sample.layer if sample is not None else None)
            found |= {"rootfs": rootfs} if rootfs else {}
            found["logs"] = self._disks.logs(record.pod, container.name, container.attempt, self._snapshot.when)
        return found

    def _add_rest(self, found: Json, record: PodRecord, sample: Sample | None) -> None:
        if sample is not None:
            if sample.interfaces:  # a pod on the node's network has none of its own
                found["network"] = self._network(sample.interfaces)
            if sample.usage.pids is not None:
                found["process_stats"] = {"process_count": sample.usage.pids}
        volumes = list(self._disks.volumes(record.pod.uid, self._when))
        if volumes:
            found["volume"] = [volume for volume, _ in volumes]
        parts = [volume for volume, on_disk in volumes if on_disk]
        parts += [each[name] for each in found["containers"] for name in ("rootfs", "logs") if name in each]
        whole = filesystem(self._site.root_dir, self._when)
        if whole:
            used = {name: sum(each.get(name, 0) for each in parts) for name in ("usedBytes", "inodesUsed")}
            found["ephemeral-storage"] = whole | used


def _psi(stall: Stall | None) -> Json:
    """Totals in microseconds, averages in per cent."""
    if stall is None:
        return {}
    full = (stall.full_us, stall.full_avg10, stall.full_avg60, stall.full_avg300)
    some = (stall.some_us, stall.some_avg10, stall.some_avg60, stall.some_avg300)
    names = ("total", "avg10", "avg60", "avg300")
    return {"psi": {"full": dict(zip(names, full, strict=True)), "some": dict(zip(names, some, strict=True))}}


def _own_interfaces() -> list[Interface]:
    return [
        Interface(
            name,
            each.bytes_recv,
            each.packets_recv,
            each.errin,
            each.dropin,
            each.bytes_sent,
            each.packets_sent,
            each.errout,
            each.dropout,
        )
        for name, each in sorted(psutil.net_io_counters(pernic=True).items())
        if name != "lo"
    ]


def _processes() -> Mapping[str, int]:
    """The kernel's limit of processes and threads, and how many there are."""
    found: dict[str, int] = {}
    try:
        with open("/proc/sys/kernel/pid_max") as file:
            found["maxpid"] = int(file.read())
        with open("/proc/loadavg") as file:
            found["curproc"] = int(file.read().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        pass
    return found
