"""Snapshots as Prometheus text (exposition format 0.0.4).

Lines are joined by hand: building them through prometheus-client costs about 18 times as much for container series, of which
there are many; a daemon's own metrics do go through it. Each sample's labels are rendered once and shared by all its lines.

Three of cAdvisor's names do not pass `promtool check metrics` and are left out: cadvisor_version_info (labels in camelCase),
container_fs_inodes_total (a gauge that ends in _total), container_memory_failcnt (a counter that does not).
"""

import re
from collections.abc import Iterator

from metrics.families import FAMILIES
from metrics.model import Snapshot

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
