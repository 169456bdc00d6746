"""The table of families: one row a metric. Names, types and label sets are cAdvisor's (docs/storage/prometheus.md there).

A row's function gives (extra labels, value) pairs for one sample; no pair means the sample has nothing to say, which is not
the same as zero.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from linux.cgroup.usage import Cpu, DeviceIo, Memory
from metrics.model import Interface, Sample

Pair = tuple[tuple[tuple[str, str], ...], float]
Devices = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    kind: Literal["counter", "gauge"]
    help: str
    values: Callable[[Sample, Devices], Iterator[Pair]]


def _cpu(
    value: Callable[[Cpu], float], *, limited: bool = False, total: bool = False
) -> Callable[[Sample, Devices], Iterator[Pair]]:
    def values(sample: Sample, _devices: Devices) -> Iterator[Pair]:
        cpu = sample.usage.cpu
        if cpu and (not limited or sample.usage.limits.cpu_quota_us):
            yield ((("cpu", "total"),) if total else ()), value(cpu)

    return values


def _memory(value: Callable[[Memory], float | None]) -> Callable[[Sample, Devices], Iterator[Pair]]:
    def values(sample: Sample, _devices: Devices) -> Iterator[Pair]:
        if sample.usage.memory and (amount := value(sample.usage.memory)) is not None:
            yield (), amount

    return values


def _io(value: Callable[[DeviceIo], float]) -> Callable[[Sample, Devices], Iterator[Pair]]:
    def values(sample: Sample, devices: Devices) -> Iterator[Pair]:
        for number, counters in sample.usage.io.items():
            yield (("device", devices.get(number, number)),), value(counters)

    return values


def _network(value: Callable[[Interface], float]) -> Callable[[Sample, Devices], Iterator[Pair]]:
    def values(sample: Sample, _devices: Devices) -> Iterator[Pair]:
        for interface in sample.interfaces:
            yield (("interface", interface.name),), value(interface)

    return values


def _faults(sample: Sample, _devices: Devices) -> Iterator[Pair]:
    memory = sample.usage.memory
    if memory:
        # The kernel counts hierarchically; cAdvisor's `container` scope is the group alone, which only a leaf's count is.
        for kind, amount in (("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)):
            for scope in ("container", "hierarchy"):
                yield (("failure_type", kind), ("scope", scope)), amount


def _pids(sample: Sample, _devices: Devices) -> Iterator[Pair]:
    if sample.usage.pids is not None:
        yield (), sample.usage.pids


def _limit(name: str) -> Callable[[Sample, Devices], Iterator[Pair]]:
    def values(sample: Sample, _devices: Devices) -> Iterator[Pair]:
        amount = getattr(sample.usage.limits, name)
        if amount is not None:
            yield (), amount

    return values


def _memory_limit(sample: Sample, _devices: Devices) -> Iterator[Pair]:
    if sample.usage.memory:
        yield (), sample.usage.limits.memory_bytes or 0


def _started(sample: Sample, _devices: Devices) -> Iterator[Pair]:
    if sample.started is not None:
        yield (), sample.started


def _blkio(sample: Sample, devices: Devices) -> Iterator[Pair]:
    for number, counters in sample.usage.io.items():
        major, _, minor = number.partition(":")
        where = (("device", devices.get(number, number)), ("major", major), ("minor", minor))
        yield (*where, ("operation", "Read")), counters.read_bytes
        yield (*where, ("operation", "Write")), counters.write_bytes


FAMILIES: tuple[Family, ...] = (
    Family("container_blkio_device_usage_total", "counter", "Blkio device bytes usage.", _blkio),
    Family(
        "container_cpu_cfs_periods_total",
        "counter",
        "Elapsed enforcement period intervals.",
        _cpu(lambda c: c.periods, limited=True),
    ),
    Family(
        "container_cpu_cfs_throttled_periods_total",
        "counter",
        "Throttled period intervals.",
        _cpu(lambda c: c.throttled_periods, limited=True),
    ),
    Family(
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Time the container has been throttled.",
        _cpu(lambda c: c.throttled_ns / 1e9, limited=True),
    ),
    Family(
        "container_cpu_system_seconds_total",
        "counter",
        "System CPU time consumed.",
        _cpu(lambda c: (c.system_ns or 0) / 1e9),
    ),
    Family(
        "container_cpu_usage_seconds_total",
        "counter",
        "CPU time consumed.",
        _cpu(lambda c: c.usage_ns / 1e9, total=True),
    ),
    Family(
        "container_cpu_user_seconds_total", "counter", "User CPU time consumed.", _cpu(lambda c: (c.user_ns or 0) / 1e9)
    ),
    Family("container_fs_reads_bytes_total", "counter", "Bytes read.", _io(lambda i: i.read_bytes)),
    Family("container_fs_reads_total", "counter", "Reads completed.", _io(lambda i: i.reads)),
    Family("container_fs_writes_bytes_total", "counter", "Bytes written.", _io(lambda i: i.write_bytes)),
    Family("container_fs_writes_total", "counter", "Writes completed.", _io(lambda i: i.writes)),
    Family("container_memory_cache", "gauge", "Page cache memory.", _memory(lambda m: m.cache)),
    Family("container_memory_failures_total", "counter", "Memory allocation failures.", _faults),
    Family("container_memory_mapped_file", "gauge", "Size of memory mapped files.", _memory(lambda m: m.mapped_file)),
    Family(
        "container_memory_max_usage_bytes", "gauge", "Highest memory usage recorded.", _memory(lambda m: m.max_usage)
    ),
    Family("container_memory_rss", "gauge", "Anonymous memory.", _memory(lambda m: m.rss)),
    Family("container_memory_swap", "gauge", "Swap used.", _memory(lambda m: m.swap)),
    Family("container_memory_total_active_file_bytes", "gauge", "Active file pages.", _memory(lambda m: m.active_file)),
    Family(
        "container_memory_total_inactive_file_bytes",
        "gauge",
        "Inactive file pages.",
        _memory(lambda m: m.inactive_file),
    ),
    Family("container_memory_usage_bytes", "gauge", "Memory usage, page cache included.", _memory(lambda m: m.usage)),
    Family(
        "container_memory_working_set_bytes",
        "gauge",
        "Memory usage without inactive file pages.",
        _memory(lambda m: m.working_set),
    ),
    Family("container_network_receive_bytes_total", "counter", "Bytes received.", _network(lambda i: i.receive_bytes)),
    Family(
        "container_network_receive_errors_total",
        "counter",
        "Errors while receiving.",
        _network(lambda i: i.receive_errors),
    ),
    Family(
        "container_network_receive_packets_dropped_total",
        "counter",
        "Packets dropped while receiving.",
        _network(lambda i: i.receive_dropped),
    ),
    Family(
        "container_network_receive_packets_total", "counter", "Packets received.", _network(lambda i: i.receive_packets)
    ),
    Family("container_network_transmit_bytes_total", "counter", "Bytes sent.", _network(lambda i: i.transmit_bytes)),
    Family(
        "container_network_transmit_errors_total",
        "counter",
        "Errors while sending.",
        _network(lambda i: i.transmit_errors),
    ),
    Family(
        "container_network_transmit_packets_dropped_total",
        "counter",
        "Packets dropped while sending.",
        _network(lambda i: i.transmit_dropped),
    ),
    Family(
        "container_network_transmit_packets_total", "counter", "Packets sent.", _network(lambda i: i.transmit_packets)
    ),
    Family("container_processes", "gauge", "Processes and threads running inside.", _pids),
    Family("container_spec_cpu_period", "gauge", "CPU period.", _limit("cpu_period_us")),
    Family("container_spec_cpu_quota", "gauge", "CPU quota.", _limit("cpu_quota_us")),
    Family("container_spec_cpu_shares", "gauge", "CPU shares.", _limit("cpu_shares")),
    Family("container_spec_memory_limit_bytes", "gauge", "Memory limit; 0 is none.", _memory_limit),
    Family("container_start_time_seconds", "gauge", "Unix time of the start.", _started),
)
