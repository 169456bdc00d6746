"""The table of families: one row a metric. Names, types, labels, units and help are cAdvisor's (metrics/prometheus.go there);
`group` is what its --disable_metrics calls it, empty for what it never leaves out.

A column takes its values from one source of `metrics.rows`; a family with several adds a constant label for each. A value
of None is a row that has nothing to say, which is not zero. `scale` divides: nanoseconds and microseconds become seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from metrics.model import Part

Kind = Literal["counter", "gauge"]
Value = Callable[[Any], float | None]

_NS = 10**9
_US = 10**6
_MS = 10**3


class Column(NamedTuple):
    source: str
    value: Value
    extra: str = ""
    """A rendered label."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    kind: Kind
    help: str
    group: str
    parts: tuple[Part, ...]
    """What must be read for it; nothing where every snapshot has it."""
    columns: tuple[Column, ...]
    scale: int = 1
    timed: bool = True
    """May carry a time: what a container was given (spec, start) never does."""


def _one(
    name: str, kind: Kind, help_text: str, group: str, part: Part, source: str, value: str | Value, scale: int = 1
) -> Family:
    get = attrgetter(value) if isinstance(value, str) else value
    return Family(f"container_{name}", kind, help_text, group, (part,), (Column(source, get),), scale)


def _spec(name: str, help_text: str, value: Value, source: str = "limits") -> Family:
    return Family(f"container_{name}", "gauge", help_text, "", (), (Column(source, value),), timed=False)


def _itself(value: float) -> float:
    return value


def _cpu(
    name: str, help_text: str, value: str, part: Part = Part.CPU, source: str = "limited", scale: int = 1
) -> Family:
    return _one(f"cpu_{name}", "counter", help_text, "cpu", part, source, value, scale)


def _memory(name: str, help_text: str, value: str, part: Part = Part.MEMORY, kind: Kind = "gauge") -> Family:
    return _one(f"memory_{name}", kind, help_text, "memory", part, "memory", value)


def _io(name: str, help_text: str, value: str) -> Family:
    return _one(f"fs_{name}", "counter", help_text, "diskIO", Part.IO, "io", value)


def _disk(name: str, help_text: str, value: str, *layer: Column) -> Family:
    columns = (Column("filesystem", attrgetter(value)), *layer)
    parts = (Part.FILESYSTEMS, Part.LAYERS) if layer else (Part.FILESYSTEMS,)
    return Family(f"container_fs_{name}", "gauge", help_text, "disk", parts, columns)


def _device(name: str, help_text: str, value: str, scale: int = 1, kind: Kind = "counter") -> Family:
    """What only whole devices have figures of; on the root's rows."""
    return _one(f"fs_{name}", kind, help_text, "diskIO", Part.FILESYSTEMS, "disk", value, scale)


def _network(name: str, help_text: str, value: str) -> Family:
    return _one(f"network_{name}", "counter", help_text, "network", Part.NETWORK, "network", value)


def _process(name: str, help_text: str, value: str | Value, part: Part, source: str) -> Family:
    return _one(name, "gauge", help_text, "process", part, source, value)


def _pressure(resource: str, how: str, value: str, help_text: str) -> Family:
    name = f"pressure_{resource}_{how}_seconds_total"
    return _one(name, "counter", help_text, "pressure", Part.PRESSURE, f"pressure_{resource}", value, _US)


def _faults(kind: str, scope: str, value: Value) -> Column:
    return Column("memory", value, f'failure_type="{kind}",scope="{scope}"')


FAMILIES: tuple[Family, ...] = (
    Family(
        "container_blkio_device_usage_total",
        "counter",
        "Blkio Device bytes usage",
        "diskIO",
        (Part.IO,),
        (
            Column("blkio", attrgetter("read_bytes"), 'operation="Read"'),
            Column("blkio", attrgetter("write_bytes"), 'operation="Write"'),
        ),
    ),
    _cpu("cfs_burst_periods_total", "Number of periods when burst occurs.", "bursts"),
    _cpu("cfs_burst_seconds_total", "Total time duration the container has been bursted.", "burst_ns", scale=_NS),
    _cpu("cfs_periods_total", "Number of elapsed enforcement period intervals.", "periods"),
    _cpu("cfs_throttled_periods_total", "Number of throttled period intervals.", "throttled_periods"),
    _cpu(
        "cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        "throttled_ns",
        scale=_NS,
    ),
    _cpu(
        "system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        "system_ns",
        Part.CPU_SPLIT,
        "cpu",
        _NS,
    ),
    Family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        "cpu",
        (Part.CPU,),
        (Column("cpu", attrgetter("usage_ns"), 'cpu="total"'),),
        _NS,
    ),
    _cpu("user_seconds_total", "Cumulative user cpu time consumed in seconds.", "user_ns", Part.CPU_SPLIT, "cpu", _NS),
    _process(
        "file_descriptors",
        "Number of open file descriptors for the container.",
        "descriptors",
        Part.PROCESSES,
        "processes",
    ),
    _disk("inodes_free", "Number of available Inodes", "inodes_free"),
    _disk("inodes_total", "Number of Inodes", "inodes"),
    _device("io_current", "Number of I/Os currently in progress", "in_progress", kind="gauge"),
    _device("io_time_seconds_total", "Cumulative count of seconds spent doing I/Os", "io_ms", _MS),
    _device("io_time_weighted_seconds_total", "Cumulative weighted I/O time in seconds", "weighted_ms", _MS),
    _disk(
        "limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        "total",
        Column("layer_limit", _itself),
    ),
    _device("read_seconds_total", "Cumulative count of seconds spent reading", "read_ms", _MS),
    _io("reads_bytes_total", "Cumulative count of bytes read", "read_bytes"),
    _device("reads_merged_total", "Cumulative count of reads merged", "reads_merged"),
    _io("reads_total", "Cumulative count of reads completed", "reads"),
    _device("sector_reads_total", "Cumulative count of sector reads completed", "sectors_read"),
    _device("sector_writes_total", "Cumulative count of sector writes completed", "sectors_written"),
    _disk(
        "usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        "used",
        Column("layer", attrgetter("bytes")),
    ),
    _device("write_seconds_total", "Cumulative count of seconds spent writing", "write_ms", _MS),
    _io("writes_bytes_total", "Cumulative count of bytes written", "write_bytes"),
    _device("writes_merged_total", "Cumulative count of writes merged", "writes_merged"),
    _io("writes_total", "Cumulative count of writes completed", "writes"),
    Family(
        "container_health_state",
        "gauge",
        "The result of the container's health check",
        "",
        (),
        (Column("health", _itself),),
    ),
    Family(
        "container_last_seen",
        "gauge",
        "Last time a container was seen by the exporter",
        "",
        (),
        (Column("seen", _itself),),
    ),
    _memory("cache", "Number of bytes of page cache memory.", "cache"),
    _memory("failcnt", "Number of memory usage hits limits", "failcnt", Part.MEMORY_PEAK, "counter"),
    Family(
        "container_memory_failures_total",
        "counter",
        "Cumulative count of memory allocation failures.",
        "memory",
        (Part.MEMORY,),
        (
            _faults(
                "pgfault", "container", lambda m: m.page_faults if m.own_page_faults is None else m.own_page_faults
            ),
            _faults(
                "pgmajfault",
                "container",
                lambda m: m.major_page_faults if m.own_major_page_faults is None else m.own_major_page_faults,
            ),
            _faults("pgfault", "hierarchy", attrgetter("page_faults")),
            _faults("pgmajfault", "hierarchy", attrgetter("major_page_faults")),
        ),
    ),
    _memory("kernel_usage", "Size of kernel memory allocated in bytes.", "kernel", Part.MEMORY_PEAK),
    _memory("mapped_file", "Size of memory mapped files in bytes.", "mapped_file"),
    _memory("max_usage_bytes", "Maximum memory usage recorded in bytes", "max_usage", Part.MEMORY_PEAK),
    _memory("rss", "Size of RSS in bytes.", "rss"),
    _memory("swap", "Container swap usage in bytes.", "swap"),
    _memory("total_active_file_bytes", "Current total active file in bytes.", "active_file"),
    _memory("total_inactive_file_bytes", "Current total inactive file in bytes.", "inactive_file"),
    _memory(
        "usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        "usage",
    ),
    _memory("working_set_bytes", "Current working set in bytes.", "working_set"),
    _network("receive_bytes_total", "Cumulative count of bytes received", "receive_bytes"),
    _network("receive_errors_total", "Cumulative count of errors encountered while receiving", "receive_errors"),
    _network("receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", "receive_dropped"),
    _network("receive_packets_total", "Cumulative count of packets received", "receive_packets"),
    _network("transmit_bytes_total", "Cumulative count of bytes transmitted", "transmit_bytes"),
    _network("transmit_errors_total", "Cumulative count of errors encountered while transmitting", "transmit_errors"),
    _network(
        "transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        "transmit_dropped",
    ),
    _network("transmit_packets_total", "Cumulative count of packets transmitted", "transmit_packets"),
    _one(
        "oom_events_total",
        "counter",
        "Count of out of memory events observed for the container",
        "oom_event",
        Part.OOM,
        "oom",
        _itself,
    ),
    _pressure(
        "cpu",
        "stalled",
        "full_us",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
    ),
    _pressure(
        "cpu", "waiting", "some_us", "Total time duration tasks in the container have waited due to CPU congestion."
    ),
    _pressure(
        "io",
        "stalled",
        "full_us",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
    ),
    _pressure(
        "io", "waiting", "some_us", "Total time duration tasks in the container have waited due to IO congestion."
    ),
    _pressure(
        "memory",
        "stalled",
        "full_us",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
    ),
    _pressure(
        "memory",
        "waiting",
        "some_us",
        "Total time duration tasks in the container have waited due to memory congestion.",
    ),
    _process(
        "processes", "Number of processes running inside the container.", "processes", Part.PROCESSES, "processes"
    ),
    _process("sockets", "Number of open sockets for the container.", "sockets", Part.PROCESSES, "processes"),
    _spec("spec_cpu_period", "CPU period of the container.", attrgetter("cpu_period_us")),
    _spec("spec_cpu_quota", "CPU quota of the container.", attrgetter("cpu_quota_us")),
    _spec("spec_cpu_shares", "CPU share of the container.", attrgetter("cpu_shares")),
    _spec("spec_memory_limit_bytes", "Memory limit for the container.", lambda s: s.memory_bytes or 0),
    _spec(
        "spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        lambda s: s.reservation_bytes or 0,
    ),
    _spec("spec_memory_swap_limit_bytes", "Memory swap limit for the container.", lambda s: s.swap_bytes or 0),
    _spec("start_time_seconds", "Start time of the container since unix epoch in seconds.", int, "started"),
    _process("threads", "Number of threads running inside the container", attrgetter("pids"), Part.PIDS, "threads"),
    _process(
        "threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        lambda usage: usage.limits.pids or 0,
        Part.PIDS,
        "threads",
    ),
    _process(
        "ulimits_soft",
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
        _itself,
        Part.PROCESSES,
        "ulimits",
    ),
)

MIXIN = frozenset(
    [
        *(f"container_cpu_{name}_total" for name in ("usage_seconds", "cfs_periods", "cfs_throttled_periods")),
        *(f"container_memory_{name}" for name in ("working_set_bytes", "usage_bytes", "rss", "cache", "swap")),
        *(
            f"container_network_{way}_{what}_total"
            for way in ("receive", "transmit")
            for what in ("bytes", "packets", "packets_dropped")
        ),
        *(f"container_fs_{name}_total" for name in ("reads", "reads_bytes", "writes", "writes_bytes")),
    ]
)
"""What kubernetes-mixin's dashboards and rules read of cAdvisor."""
