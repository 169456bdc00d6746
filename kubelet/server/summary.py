"""/stats/summary: what the node, its pods and their containers use, as one document (upstream: pkg/kubelet/server/stats).

CPU and memory come from the cgroup tree, networks from the pods' namespaces, filesystems from statfs. A rate
(usageNanoCores) needs two looks: it is there from the second question on, over at least ten seconds where questions come
faster. What a volume on disk holds is counted by walking it, at most each volumeStatsAggPeriod, and only while somebody
asks. What a container has written into its root filesystem is not told: runtimes need a second for each to find out.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psutil

from kubelet.containerlogs import loglinks
from kubelet.runtime import ContainerState, PodRecord
from metrics.collector import Interface, Sample, Snapshot

Json = dict[str, Any]

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


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
            before = self._newer if snapshot.when - self._newer[0] >= 1.0 else self._older
            if snapshot.when - before[0] < 1.0:
                before = (0.0, {})

        def rate(sample: Sample) -> int | None:
            since = before[1].get(sample.path)
            if since is None or sample.usage.cpu is None:
                return None
            return max(0, int((sample.usage.cpu.usage_ns - since) / (snapshot.when - before[0])))

        return rate


class Volumes:
    """Bytes and inodes of directories, counted now and then. Blocking."""

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = period or 60.0
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[int, int]]] = {}

    def used(self, path: str) -> tuple[int, int] | None:
        """None where nobody wants it counted."""
        if self._period < 0:
            return None
        now = self._clock()
        at, found = self._known.get(path, (float("-inf"), (0, 0)))
        if now - at >= self._period:
            found = disk_usage(path)
            self._known = {name: each for name, each in self._known.items() if now - each[0] < 10 * self._period}
            self._known[path] = (now, found)
        return found


def disk_usage(path: str) -> tuple[int, int]:
    """Bytes and inodes below a directory on its own filesystem, as du counts them."""
    try:
        top = os.lstat(path)
    except OSError:
        return (0, 0)
    size, seen, pending = top.st_blocks * 512, {top.st_ino}, [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != top.st_dev or status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                    size += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:  # gone meanwhile, or not ours to read
            continue
    return size, len(seen)


def filesystem(path: str, when: str) -> Json:
    """Of the filesystem that holds `path`; {} when there is none."""
    try:
        found = os.statvfs(path)
    except OSError:
        return {}
    return {
        "time": when,
        "availableBytes": found.f_bavail * found.f_frsize,
        "capacityBytes": found.f_blocks * found.f_frsize,
        "usedBytes": (found.f_blocks - found.f_bfree) * found.f_frsize,
        "inodesFree": found.f_ffree,
        "inodes": found.f_files,
        "inodesUsed": found.f_files - found.f_ffree,
    }


def _with_used(whole: Json, used: tuple[int, int] | None) -> Json:
    if not whole or used is None:
        return {key: value for key, value in whole.items() if key not in ("usedBytes", "inodesUsed")}
    return {**whole, "usedBytes": used[0], "inodesUsed": used[1]}


class Summary:
    """Makes the document. `make` blocks (call it in a thread)."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rates = Rates()
        self._volumes = Volumes(site.volume_period)

    def make(self, snapshot: Snapshot, records: Iterable[PodRecord], image_fs: str, *, brief: bool) -> Json:
        """`image_fs` is a path on the images' filesystem, "" when the runtime does not say; `brief` is
        only_cpu_and_memory."""
        page = _Page(self._site, snapshot, self._rates.look(snapshot), self._volumes, brief)
        return {"node": page.node(image_fs), "pods": list(page.pods(list(records)))}


class _Page:
    def __init__(
        self, site: Site, snapshot: Snapshot, rate: Callable[[Sample], int | None], volumes: Volumes, brief: bool
    ) -> None:
        self._site = site
        self._snapshot = snapshot
        self._rate = rate
        self._volumes = volumes
        self._brief = brief
        self._when = _moment(snapshot.when)

    def _usage(self, sample: Sample, capacity: int | None = None) -> Json:
        """cpu, memory and swap of one cgroup."""
        cpu, memory, found = sample.usage.cpu, sample.usage.memory, Json()
        if cpu is not None:
            rate = self._rate(sample)
            found["cpu"] = {
                "time": self._when,
                **({"usageNanoCores": rate} if rate is not None else {}),
                "usageCoreNanoSeconds": cpu.usage_ns,
            }
        if memory is not None:
            limit = sample.usage.limits.memory_bytes or capacity
            found["memory"] = {
                "time": self._when,
                **({"availableBytes": max(0, limit - memory.working_set)} if limit else {}),
                "usageBytes": memory.usage,
                "workingSetBytes": memory.working_set,
                "rssBytes": memory.rss,
                "pageFaults": memory.page_faults,
                "majorPageFaults": memory.major_page_faults,
            }
            found["swap"] = {"time": self._when, "swapUsageBytes": memory.swap}
        return found

    def node(self, image_fs: str) -> Json:
        machine, root = self._snapshot.machine, "/" + self._site.cgroup_root.strip("/")
        found: Json = {"nodeName": self._site.node, "startTime": _moment(psutil.boot_time())}
        for sample in self._snapshot.samples:
            if sample.path == root:
                found |= self._usage(sample, machine.memory_bytes)
        found["systemContainers"] = [
            {"name": "pods", "startTime": found["startTime"], **self._usage(sample)}
            for sample in self._snapshot.samples
            if sample.path == f"{root.rstrip('/')}/kubepods"
        ]
        if self._brief:
            return found
        found["network"] = self._network(_own_interfaces())
        found["fs"] = filesystem(self._site.root_dir, self._when)
        if image_fs:
            whole = filesystem(image_fs, self._when)
            found["runtime"] = {"imageFs": whole, "containerFs": whole}
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
                "startTime": _moment(started),
                "containers": [
                    {
                        "name": each.name,
                        "startTime": _moment(each.created_at.timestamp()),
                        **(self._usage(by_container[each.id]) if each.id in by_container else {}),
                        **({} if self._brief else {"logs": self._logs(record, each.name, each.attempt)}),
                    }
                    for each in running
                ],
                **(self._usage(sample) if sample is not None else {}),
            }
            if not self._brief:
                self._add_rest(found, record, sample)
            yield found

    def _add_rest(self, found: Json, record: PodRecord, sample: Sample | None) -> None:
        if sample is not None:
            found["network"] = self._network(sample.interfaces)
            if sample.usage.pids is not None:
                found["process_stats"] = {"process_count": sample.usage.pids}
        volumes = list(self._pod_volumes(record.pod.uid))
        found["volume"] = [volume for volume, _ in volumes]
        counted = [volume for volume, on_disk in volumes if on_disk]
        counted += [each["logs"] for each in found["containers"]]
        used = tuple(sum(each.get(key, 0) for each in counted) for key in ("usedBytes", "inodesUsed"))
        found["ephemeral-storage"] = _with_used(filesystem(self._site.root_dir, self._when), (used[0], used[1]))

    def _logs(self, record: PodRecord, container: str, attempt: int) -> Json:
        pod, root = record.pod, self._site.pod_logs_dir.rstrip("/")
        log = f"{root}/{pod.namespace}_{pod.name}_{pod.uid}/{container}/{attempt}.log"
        size = count = 0
        for path in (log, *loglinks.rotated(log)):
            try:
                size += os.stat(path).st_size
            except OSError:
                continue
            count += 1
        return _with_used(filesystem(self._site.pod_logs_dir, self._when), (size, count))

    def _pod_volumes(self, uid: str) -> Iterator[tuple[Json, bool]]:
        """Each volume of a pod, and whether it is on the node's own disk."""
        base = os.path.join(self._site.root_dir, "pods", uid, "volumes")
        disk = _device(base)
        for plugin in _names(base):
            for name in _names(os.path.join(base, plugin)):
                path = os.path.join(base, plugin, name)
                whole = filesystem(path, self._when)
                if _device(path) != disk:  # a filesystem of its own: it knows what it holds
                    yield {"name": name, **whole}, False
                else:
                    yield {"name": name, **_with_used(whole, self._volumes.used(path))}, True


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1


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
