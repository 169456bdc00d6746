"""Snapshots as Prometheus text (exposition format 0.0.4).

Lines are joined by hand: building them through prometheus-client costs about 18 times as much for container series, of which
there are many; a daemon's own metrics do go through it. Each sample's labels are rendered once and shared by all its lines.

Three of cAdvisor's names do not pass `promtool check metrics` and are left out: cadvisor_version_info (labels in camelCase),
container_fs_inodes_total (a gauge that ends in _total), container_memory_failcnt (a counter that does not).
"""

import re
from collections.abc import Iterator

from metrics.families import FAMILIES
from metrics.model import Sample, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_SPECIAL = re.compile(r'[\\"\n]')


def escaped(value: str) -> str:
    return _SPECIAL.sub(lambda m: _ESCAPES[m[0]], value)


def _labels(pairs: Iterator[tuple[str, str]]) -> str:
    return ",".join(f'{name}="{escaped(value)}"' for name, value in pairs)


def _value(number: float) -> str:
    if isinstance(number, int):
        return str(number)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def cadvisor(snapshot: Snapshot) -> str:
    """/metrics of cAdvisor, /metrics/cadvisor of the kubelet."""
    return "\n".join(_container_lines(snapshot)) + "\n" + "\n".join(_machine_lines(snapshot)) + "\n"


def _container_lines(snapshot: Snapshot) -> Iterator[str]:
    rendered = [(sample, _labels(iter(sorted(sample.labels.items())))) for sample in snapshot.samples]
    for family in FAMILIES:
        lines: list[str] = []
        for sample, labels in rendered:
            for extra, value in family.values(sample, snapshot.devices):
                more = f",{_labels(iter(extra))}" if extra else ""
                lines.append(f"{family.name}{{{labels}{more}}} {_value(value)}")
        if lines:
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}"
            yield from lines


def _machine_lines(snapshot: Snapshot) -> Iterator[str]:
    machine = snapshot.machine
    yield from _single(
        "container_scrape_error", "gauge", "1 if there was an error while reading, 0 otherwise.", int(snapshot.failed)
    )
    yield from _single("machine_cpu_cores", "gauge", "Logical CPU cores.", machine.cores)
    yield from _single("machine_cpu_physical_cores", "gauge", "Physical CPU cores.", machine.physical_cores)
    yield from _single("machine_memory_bytes", "gauge", "Memory installed.", machine.memory_bytes)
    yield from _single("machine_swap_bytes", "gauge", "Swap configured.", machine.swap_bytes)
    root = 'container="",id="/",image="",name="",namespace="",pod=""'
    for name, help_text, field in (
        ("container_fs_inodes_free", "Inodes that are free.", "inodes_free"),
        ("container_fs_limit_bytes", "Bytes that the file system has.", "total"),
        ("container_fs_usage_bytes", "Bytes that are used.", "used"),
    ):
        if snapshot.filesystems:
            yield f"# HELP {name} {help_text}\n# TYPE {name} gauge"
        for found in snapshot.filesystems:
            yield f'{name}{{{root},device="{escaped(found.device)}"}} {getattr(found, field)}'


def _single(name: str, kind: str, help_text: str, value: float, labels: str = "") -> Iterator[str]:
    yield f"# HELP {name} {help_text}\n# TYPE {name} {kind}"
    yield f"{name}{{{labels}}} {_value(value)}" if labels else f"{name} {_value(value)}"


def resource(snapshot: Snapshot, node_path: str) -> str:
    """/metrics/resource of the kubelet: what metrics-server reads. Timestamps are in milliseconds and required: it takes
    rates between two points and drops points of equal time."""
    when = int(snapshot.when * 1000)
    blocks: list[str] = []

    def block(name: str, kind: str, help_text: str, lines: list[str]) -> None:
        if lines:
            blocks.append("\n".join([f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines]))

    def lines(name: str, samples: list[Sample], keys: tuple[str, ...], what: str) -> list[str]:
        found = []
        for sample in samples:
            value = _resource_value(sample, what)
            if value is not None:
                labels = _labels((key, sample.labels[key]) for key in keys)
                found.append(
                    f"{name}{{{labels}}} {_value(value)} {when}" if labels else f"{name} {_value(value)} {when}"
                )
        return found

    node = [s for s in snapshot.samples if s.path == node_path]
    containers = [s for s in snapshot.samples if s.labels["container"]]
    pods = [s for s in snapshot.samples if s.labels["pod"] and not s.labels["name"]]
    for prefix, samples, keys in (
        ("node", node, ()),
        ("pod", pods, ("namespace", "pod")),
        ("container", containers, ("container", "namespace", "pod")),
    ):
        cpu, memory = f"{prefix}_cpu_usage_seconds_total", f"{prefix}_memory_working_set_bytes"
        block(
            cpu,
            "counter",
            f"[STABLE] Cumulative cpu time consumed by the {prefix} in core-seconds",
            lines(cpu, samples, keys, "cpu"),
        )
        block(
            memory,
            "gauge",
            f"[STABLE] Current working set of the {prefix} in bytes",
            lines(memory, samples, keys, "memory"),
        )
    started = "container_start_time_seconds"
    keys = ("container", "namespace", "pod")
    block(
        started,
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        lines(started, containers, keys, "start"),
    )
    failed = "resource_scrape_error"
    block(
        failed,
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        [f"{failed} {int(snapshot.failed)}"],
    )
    return "\n".join(blocks) + "\n"


def _resource_value(sample: Sample, what: str) -> float | None:
    cpu, memory = sample.usage.cpu, sample.usage.memory
    match what:
        case "cpu":
            return cpu.usage_ns / 1e9 if cpu else None
        case "memory":
            return memory.working_set if memory else None
        case _:
            return sample.started
