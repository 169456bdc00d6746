"""cAdvisor's info/v1 as JSON: machine, container, spec, stats. Field names, units and what is omitted when empty are its Go
structs' (info/v1/container.go, machine.go).

Limits that are none are 2**64-1, as cAdvisor has them. Of older moments the history has sums over devices and interfaces: they
are told under the device's or interface's name where the group has one, and only the newest moment tells several apart.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from linux.cgroup.usage import UNLIMITED, Limits
from metrics.history import COLUMNS, NONE
from metrics.model import FileSystem, Interface, Sample, Snapshot

NO_LIMIT = 2**64 - 1
ZERO_TIME = "0001-01-01T00:00:00Z"

_AT = {name: at for at, name in enumerate(COLUMNS)}
Json = dict[str, Any]


def moment(when: float | None) -> str:
    """RFC 3339 with microseconds; Go's zero time for none."""
    if not when:
        return ZERO_TIME
    return dt.datetime.fromtimestamp(when, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def machine(snapshot: Snapshot) -> Json:
    found = snapshot.machine
    return {
        "timestamp": moment(snapshot.when),
        "num_cores": found.cores,
        "num_physical_cores": found.physical_cores,
        "num_sockets": found.sockets,
        "cpu_frequency_khz": found.frequency_khz,
        "memory_capacity": found.memory_bytes,
        "swap_capacity": found.swap_bytes,
        "memory_by_type": {},
        "nvm": {"memory_mode_capacity": 0, "app direct_mode_capacity": 0, "avg_power_budget": 0},
        "hugepages": [],
        "machine_id": found.machine_id,
        "system_uuid": found.system_uuid,
        "boot_id": found.boot_id,
        "filesystems": [_filesystem(system) for system in snapshot.filesystems],
        "disk_map": {number: _disk(number, name) for number, name in sorted(snapshot.devices.items())},
        "network_devices": [],
        "topology": [{"node_id": node, "memory": size, "hugepages": []} for node, size in sorted(found.nodes.items())],
        "cloud_provider": "Unknown",
        "instance_type": "Unknown",
        "instance_id": "None",
    }


def _filesystem(system: FileSystem) -> Json:
    return {
        "device": system.device,
        "capacity": system.total,
        "type": "vfs",
        "inodes": system.inodes,
        "has_inodes": system.inodes > 0,
    }


def _disk(number: str, name: str) -> Json:
    major, minor = _major_minor(number)
    return {"name": name.removeprefix("/dev/"), "major": major, "minor": minor, "size": 0, "scheduler": "none"}


def reference(sample: Sample) -> Json:
    """ContainerReference: `name` is the cgroup's path; ids and aliases are the runtime's."""
    owner = sample.identity
    if owner is None or sample.kind == "pod":
        return {"name": sample.path}
    return {
        "id": owner.id,
        "name": sample.path,
        "aliases": list(owner.aliases) or [owner.name, owner.id],
        "namespace": owner.runtime or "docker",
    }


def container(sample: Sample, below: Iterable[Sample], stats: list[Json]) -> Json:
    """ContainerInfo. `below`: the groups directly in this one."""
    subcontainers = [{"name": child.path} for child in below]
    more: Json = {"subcontainers": subcontainers} if subcontainers else {}
    return {**reference(sample), **more, "spec": spec(sample), "stats": stats}


def spec(sample: Sample) -> Json:
    usage, owner = sample.usage, sample.identity if sample.kind != "pod" else None
    found: Json = {"creation_time": moment(sample.started)}
    if owner is not None:
        found |= {key: dict(value) for key, value in (("labels", owner.labels), ("envs", owner.env)) if value}
    found |= {
        "has_cpu": usage.cpu is not None,
        "cpu": _cpu_spec(usage.limits),
        "has_memory": usage.memory is not None,
        "memory": _memory_spec(usage.limits),
        "has_hugetlb": False,
        "has_network": bool(sample.interfaces),
        "has_processes": usage.pids is not None,
        "processes": {"limit": usage.limits.pids} if usage.limits.pids else {},
        "has_filesystem": sample.layer is not None or sample.kind == "root",
        "has_diskio": bool(usage.io),
        "has_custom_metrics": False,
    }
    if owner is not None and owner.image:
        found["image"] = owner.image
    return found


def _cpu_spec(limits: Limits) -> Json:
    found: Json = {"limit": limits.cpu_shares or 0, "max_limit": 0}
    if limits.cpuset:
        found["mask"] = limits.cpuset
    if limits.cpu_quota_us is not None and limits.cpu_quota_us > 0:
        found["quota"] = limits.cpu_quota_us
    if limits.cpu_period_us:
        found["period"] = limits.cpu_period_us
    return found


def _memory_spec(limits: Limits) -> Json:
    none = limits.memory_bytes is None or limits.memory_bytes >= UNLIMITED
    found: Json = {"limit": NO_LIMIT if none else limits.memory_bytes}
    if limits.reservation_bytes:
        found["reservation"] = limits.reservation_bytes
    if limits.swap_bytes:
        found["swap_limit"] = limits.swap_bytes
    return found


def stats(when: float, row: Sequence[int], sample: Sample, snapshot: Snapshot, *, newest: bool) -> Json:
    """ContainerStats of one moment. `sample` is the group as it is now: of it come the names, and, for the newest moment, what
    no row has (each device, each interface, processes, file systems)."""

    def value(name: str) -> int:
        found = row[_AT[name]]
        return 0 if found == NONE else found

    faults = {"pgfault": value("faults"), "pgmajfault": value("major_faults")}
    memory = ("usage", "max_usage", "cache", "rss", "swap", "mapped_file", "working_set", "failcnt")
    return {
        "timestamp": moment(when),
        "cpu": {
            "usage": {"total": value("cpu"), "user": value("cpu_user"), "system": value("cpu_system")},
            "cfs": {
                "periods": value("periods"),
                "throttled_periods": value("throttled_periods"),
                "throttled_time": value("throttled_ns"),
            },
            "schedstat": {"run_time": 0, "runqueue_time": 0, "run_periods": 0},
            "load_average": 0,
        },
        "diskio": _disk_io(row, sample, snapshot, newest=newest),
        "memory": {name: value(name) for name in memory} | {"container_data": faults, "hierarchical_data": faults},
        "network": _network(row, sample, newest=newest),
        **_filesystems(sample, snapshot, newest=newest),
        "processes": _processes(value("pids"), sample, newest=newest),
        "oom_events": value("oom_kills"),
    }


def _major_minor(number: str) -> tuple[int, int]:
    major, _, minor = number.partition(":")
    return int(major or 0), int(minor or 0)


def _disk_io(row: Sequence[int], sample: Sample, snapshot: Snapshot, *, newest: bool) -> Json:
    counted: dict[str, tuple[int, int, int, int]] = {}
    if newest:
        counted = {n: (d.read_bytes, d.write_bytes, d.reads, d.writes) for n, d in sample.usage.io.items()}
    elif len(sample.usage.io) == 1:
        names = ("read_bytes", "write_bytes", "reads", "writes")
        numbers = [max(0, row[_AT[name]]) for name in names]
        counted = {next(iter(sample.usage.io)): (numbers[0], numbers[1], numbers[2], numbers[3])}
    if not counted:
        return {}
    sizes, operations = [], []
    for number, (read_bytes, write_bytes, reads, writes) in counted.items():
        major, minor = _major_minor(number)
        where = {"device": snapshot.devices.get(number, number), "major": major, "minor": minor}
        sizes.append({**where, "stats": {"Read": read_bytes, "Write": write_bytes, "Total": read_bytes + write_bytes}})
        operations.append({**where, "stats": {"Read": reads, "Write": writes, "Total": reads + writes}})
    return {"io_service_bytes": sizes, "io_serviced": operations}


def _network(row: Sequence[int], sample: Sample, *, newest: bool) -> Json:
    if not sample.interfaces:
        return {}
    names = [f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")]
    if newest:
        interfaces = [interface(found) for found in sample.interfaces]
    else:
        numbers = {name: max(0, row[_AT[name]]) for name in names}
        label = sample.interfaces[0].name if len(sample.interfaces) == 1 else "all"
        interfaces = [{"name": label, **numbers}]
    return {**interfaces[0], "interfaces": interfaces}


def interface(found: Interface) -> Json:
    return {
        "name": found.name,
        "rx_bytes": found.receive_bytes,
        "rx_packets": found.receive_packets,
        "rx_errors": found.receive_errors,
        "rx_dropped": found.receive_dropped,
        "tx_bytes": found.transmit_bytes,
        "tx_packets": found.transmit_packets,
        "tx_errors": found.transmit_errors,
        "tx_dropped": found.transmit_dropped,
    }


def _filesystems(sample: Sample, snapshot: Snapshot, *, newest: bool) -> Json:
    if not newest:
        return {}
    if sample.kind == "root":
        return {
            "filesystem": [
                {
                    **_filesystem(found),
                    "usage": found.used,
                    "base_usage": 0,
                    "available": found.available,
                    "inodes_free": found.inodes_free,
                }
                for found in snapshot.filesystems
            ]
        }
    layer = sample.layer
    if layer is None:
        return {}
    used = {"usage": layer.bytes, "base_usage": layer.bytes, "inodes": layer.inodes, "has_inodes": True}
    return {"filesystem": [{"type": "vfs", "capacity": 0, **used, "available": 0, "inodes_free": 0}]}


def _processes(pids: int, sample: Sample, *, newest: bool) -> Json:
    """The pids controller counts threads; processes, descriptors and sockets are counted now, for the newest moment only."""
    found: Json = {"process_count": 0, "fd_count": 0, "socket_count": 0, "threads_current": pids}
    if sample.usage.limits.pids:
        found["threads_max"] = sample.usage.limits.pids
    inside = sample.processes
    if newest and inside is not None:
        found |= {
            "process_count": inside.processes,
            "fd_count": inside.descriptors or 0,
            "socket_count": inside.sockets or 0,
        }
        limits = sorted(inside.ulimits.items())
        found["ulimits"] = [{"name": name, "soft_limit": soft, "hard_limit": 0} for name, soft in limits]
    return found
