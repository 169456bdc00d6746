"""The families that are the machine's, or about the page itself: one row each, or a few.

The kubelet's cAdvisor and the stand-alone one put the same three labels on machine_*: which boot of which machine it is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kube.version import WHERRY
from metrics.families import Kind
from metrics.model import Machine, Snapshot

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MachineFamily:
    name: str
    kind: Kind
    help: str
    group: str
    values: Callable[[Snapshot], Iterable[tuple[Pairs, float]]]


def _labels(machine: Machine) -> Pairs:
    return (
        ("boot_id", machine.boot_id),
        ("machine_id", machine.machine_id),
        ("system_uuid", machine.system_uuid),
    )


def _machine(name: str, help_text: str, value: Callable[[Machine], int]) -> MachineFamily:
    def values(snapshot: Snapshot) -> Iterator[tuple[Pairs, float]]:
        yield _labels(snapshot.machine), value(snapshot.machine)

    return MachineFamily(f"machine_{name}", "gauge", help_text, "", values)


def _nodes(snapshot: Snapshot) -> Iterator[tuple[Pairs, float]]:
    for node, size in sorted(snapshot.machine.nodes.items()):
        yield (*_labels(snapshot.machine), ("node_id", str(node))), size


def _load(snapshot: Snapshot) -> Iterator[tuple[Pairs, float]]:
    for window, load in zip(("1m", "5m", "15m"), snapshot.load, strict=True):
        yield (*_labels(snapshot.machine), ("window", window)), load


def _version(snapshot: Snapshot) -> Iterator[tuple[Pairs, float]]:
    yield (
        (
            ("cadvisorRevision", ""),
            ("cadvisorVersion", f"wherry-{WHERRY}"),
            ("dockerVersion", snapshot.runtime_version),
            ("kernelVersion", snapshot.machine.kernel),
            ("osVersion", snapshot.machine.system),
        ),
        1,
    )


MACHINE: tuple[MachineFamily, ...] = (
    MachineFamily(
        "cadvisor_version_info",
        "gauge",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & "
        "cadvisor revision.",
        "",
        _version,
    ),
    MachineFamily(
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
        "",
        lambda snapshot: [((), int(snapshot.failed))],
    ),
    _machine("cpu_cores", "Number of logical CPU cores.", lambda m: m.cores),
    _machine("cpu_physical_cores", "Number of physical CPU cores.", lambda m: m.physical_cores),
    _machine("cpu_sockets", "Number of CPU sockets.", lambda m: m.sockets),
    MachineFamily(
        "machine_load_average",
        "gauge",
        "Tasks that run or wait for a CPU or a disk, over the last 1, 5 and 15 minutes. Not one of cAdvisor's.",
        "",
        _load,
    ),
    _machine("memory_bytes", "Amount of memory installed on the machine.", lambda m: m.memory_bytes),
    MachineFamily(
        "machine_node_memory_capacity_bytes",
        "gauge",
        "Amount of memory assigned to NUMA node.",
        "cpu_topology",
        _nodes,
    ),
    MachineFamily(
        "machine_scrape_error",
        "gauge",
        "1 if there was an error while getting machine metrics, 0 otherwise.",
        "",
        lambda snapshot: [((), int(not snapshot.machine.memory_bytes))],
    ),
    _machine("swap_bytes", "Amount of swap memory available on the machine.", lambda m: m.swap_bytes),
)

ALWAYS = frozenset({"container_scrape_error"})
"""What every page says, unless denied: the rest may be half the truth."""

MIXIN = ALWAYS | frozenset(
    f"machine_{name}" for name in ("cpu_cores", "cpu_physical_cores", "cpu_sockets", "memory_bytes", "swap_bytes")
)
"""What goes with the mixin's families: a handful of rows a machine, and names that promtool has nothing against."""
