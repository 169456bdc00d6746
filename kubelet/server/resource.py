"""/metrics/resource: what metrics-server and autoscalers read (upstream: pkg/kubelet/metrics/collectors/resource_metrics.go).

Usage carries the time at which it was read, in milliseconds: readers take rates between two points of a series and drop points
of equal time. A start is no measurement and carries none.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from linux.cgroup.usage import Limits
from metrics.collector import Part, Sample, Snapshot
from metrics.exposition import escaped

PARTS: Final = frozenset({Part.CPU, Part.MEMORY})

Row = tuple[Sample, str]  # with its labels, rendered


def _cpu(sample: Sample) -> float | None:
    return sample.usage.cpu.usage_ns / 1e9 if sample.usage.cpu else None


def _memory(sample: Sample) -> float | None:
    return sample.usage.memory.working_set if sample.usage.memory else None


def _swap(sample: Sample) -> float | None:
    return sample.usage.memory.swap if sample.usage.memory else None


def swap_limit(limits: Limits) -> int | None:
    """Bytes of swap alone; None is no limit."""
    if limits.swap_bytes is None:
        return None
    return max(0, limits.swap_bytes - (limits.memory_bytes or 0)) if limits.swap_with_memory else limits.swap_bytes


class Family(NamedTuple):
    name: str  # and the help in upstream's words, with how stable it is there
    help: str
    value: Callable[[Sample], float | None]
    timed: bool = True

    @property
    def kind(self) -> str:
        return "counter" if self.name.endswith("_total") else "gauge"


def _usage(what: str) -> tuple[Family, Family]:
    """CPU and memory of a node, a container or a pod."""
    cpu = f"[STABLE] Cumulative cpu time consumed by the {what} in core-seconds"
    return (
        Family(f"{what}_cpu_usage_seconds_total", cpu, _cpu),
        Family(f"{what}_memory_working_set_bytes", f"[STABLE] Current working set of the {what} in bytes", _memory),
    )


def _swapped(what: str, words: str, value: Callable[[Sample], float | None] = _swap) -> Family:
    return Family(f"{what}_bytes", f"[ALPHA] {words} in bytes. Reported only on non-windows systems", value)


_START: Final = "[STABLE] Start time of the container since unix epoch in seconds"
NODE: Final = (*_usage("node"), _swapped("node_swap_usage", "Current swap usage of the node"))
CONTAINER: Final = (
    *_usage("container"),
    Family("container_start_time_seconds", _START, lambda sample: sample.started, timed=False),
    _swapped(
        "container_swap_limit", "Current amount of the container swap limit", lambda s: swap_limit(s.usage.limits)
    ),
    _swapped("container_swap_usage", "Current amount of the container swap usage"),
)
POD: Final = (*_usage("pod"), _swapped("pod_swap_usage", "Current amount of the pod swap usage"))


def page(snapshot: Snapshot, node_path: str) -> str:
    """`node_path` is the group that stands for the whole node."""
    node, containers, pods = list[Row](), list[Row](), list[Row]()
    for sample in snapshot.samples:
        if sample.path == node_path:
            node.append((sample, ""))
        elif sample.labels["container"]:
            containers.append((sample, _labels(sample, "container", "namespace", "pod")))
        elif sample.labels["pod"] and not sample.labels["name"]:  # one with a name is the pod's sandbox
            pods.append((sample, _labels(sample, "namespace", "pod")))
    when = int(snapshot.when * 1000)
    wanted = ((NODE, node), (CONTAINER, containers), (POD, pods))
    lines = [line for families, rows in wanted for family in families for line in _family(family, rows, when)]
    name, words = "resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"
    lines += [f"# HELP {name} [STABLE] {words}", f"# TYPE {name} gauge", f"{name} {int(snapshot.failed)}", ""]
    return "\n".join(lines)


def _labels(sample: Sample, *names: str) -> str:
    return "{" + ",".join(f'{name}="{escaped(sample.labels[name])}"' for name in names) + "}"


def _family(family: Family, rows: list[Row], when: int) -> Iterator[str]:
    end = f" {when}" if family.timed else ""
    found = [f"{family.name}{labels} {value!r}{end}" for s, labels in rows if (value := family.value(s)) is not None]
    if found:
        yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}"
        yield from found
