"""Which families a page has.

`--metrics` lists them: `mixin` (the families that kubernetes-mixin reads; the default), `full` (all), or patterns of names,
so that `mixin,container_oom_events_total` adds one and `container_cpu_*` alone is only those. `--disable_metrics` takes away
cAdvisor's groups, `--deny_metrics` patterns. `--enable_metrics` is cAdvisor's: exactly these groups, and what has no group.

What is not selected is not read either: `parts` is what a snapshot for this page must hold.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from kube.errors import UsageError
from metrics import families, machine
from metrics.families import FAMILIES, Family
from metrics.machine import MACHINE, MachineFamily
from metrics.model import Part

ALL: tuple[Family | MachineFamily, ...] = (*FAMILIES, *MACHINE)
_BY_NAME = {one.name: one for one in ALL}
_MIXIN = families.MIXIN | machine.MIXIN

COLLECTED = frozenset(one.group for one in ALL if one.group)
GROUPS = COLLECTED | frozenset(
    [
        *("accelerator", "advtcp", "app", "cpuLoad", "cpuset", "hugetlb", "memory_numa", "percpu", "perf_event"),
        *("referenced_memory", "resctrl", "sched", "tcp", "udp"),
    ]
)
"""All that cAdvisor's --disable_metrics knows (container/factory.go). Disabling what is not collected changes nothing."""

ABSENT: tuple[str, ...] = (
    *("container_cpu_load_average_10s", "container_cpu_load_d_average_10s", "container_tasks_state"),
    *(f"container_cpu_schedstat_{name}_total" for name in ("run_periods", "run_seconds", "runqueue_seconds")),
    *("container_hugetlb_failcnt", "container_hugetlb_max_usage_bytes", "container_hugetlb_usage_bytes"),
    *("container_llc_occupancy_bytes", "container_memory_bandwidth_bytes", "container_memory_bandwidth_local_bytes"),
    *("container_memory_migrate", "container_memory_numa_pages", "container_network_advance_tcp_stats_total"),
    *(f"container_network_{protocol}_usage_total" for protocol in ("tcp", "tcp6", "udp", "udp6")),
    *("container_perf_events_total", "container_perf_events_scaling_ratio", "container_perf_uncore_events_total"),
    *("container_perf_uncore_events_scaling_ratio", "container_referenced_bytes", "machine_cpu_cache_capacity_bytes"),
    *("machine_dimm_capacity_bytes", "machine_dimm_count", "machine_node_distance", "machine_node_hugepages_count"),
    *("machine_nvm_avg_power_budget_watts", "machine_nvm_capacity", "machine_thread_siblings_count"),
)
"""cAdvisor's families that are not collected here; denying them, as people's flags do, is no mistake."""


@dataclass(frozen=True, slots=True)
class Selection:
    """In the order of the tables."""

    families: tuple[Family, ...]
    machine: tuple[MachineFamily, ...]
    parts: frozenset[Part]


def select(
    metrics: Sequence[str] = ("mixin",),
    *,
    enable: Sequence[str] = (),
    disable: Sequence[str] = (),
    deny: Sequence[str] = (),
) -> Selection:
    """Raises UsageError that names the flag, the word and the remedy."""
    _check_groups("--disable_metrics", disable, GROUPS)
    _check_groups("--enable_metrics", enable, COLLECTED)
    if enable and tuple(metrics) != ("mixin",):
        raise UsageError(
            "--metrics and --enable_metrics both say what there is; give one (--metrics takes patterns too)"
        )
    if enable:
        names = {name for name, one in _BY_NAME.items() if not one.group or one.group in enable}
    else:
        names = {name for word in metrics for name in _named("--metrics", word)}
        names -= {name for name, one in _BY_NAME.items() if one.group in disable}
    names |= machine.ALWAYS
    for pattern in deny:
        names -= _matching("--deny_metrics", pattern)
    if not names:
        raise UsageError("--metrics, --disable_metrics and --deny_metrics leave nothing; take one of them back")
    chosen = tuple(one for one in FAMILIES if one.name in names)
    return Selection(
        families=chosen,
        machine=tuple(one for one in MACHINE if one.name in names),
        parts=frozenset(part for one in chosen for part in one.parts),
    )


def _named(flag: str, word: str) -> Iterable[str]:
    match word:
        case "mixin":
            return _MIXIN
        case "full":
            return _BY_NAME
        case _:
            return _matching(flag, word)


def _matching(flag: str, pattern: str) -> set[str]:
    found = {name for name in _BY_NAME if fnmatchcase(name, pattern)}
    absent = [name for name in ABSENT if fnmatchcase(name, pattern)]
    if not found and absent and flag == "--metrics":
        raise UsageError(f"{flag}: {absent[0]} is cAdvisor's and not collected here; take {pattern!r} out")
    if not found and not absent:
        near = difflib.get_close_matches(pattern, ["mixin", "full", *_BY_NAME], 1)
        hint = f"did you mean {near[0]}?" if near else "docs/metrics.md lists them"
        raise UsageError(f"{flag}: no family is called {pattern!r}; {hint}")
    return found


def _check_groups(flag: str, words: Sequence[str], known: frozenset[str]) -> None:
    for word in words:
        if word in known:
            continue
        why = "is not collected" if word in GROUPS else "is not a group of metrics"
        raise UsageError(f"{flag}: {word!r} {why}; take it out, or choose from {', '.join(sorted(known))}")


MIXIN = select()
FULL = select(("full",))
