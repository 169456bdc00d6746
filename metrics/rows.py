"""Which rows a family may have: from a snapshot to pairs of labels and the value read, one list a source, made once a page.

A pod's network is its sandbox's, as the kubelet's cAdvisor has it: the rows carry the sandbox's id, name and image, with an
empty `container`; they are the pod's own only where the sandbox's group is not to be read. What the machine's filesystems
hold and its disks did is on the root's rows.
"""

from collections.abc import Callable, Mapping
from typing import Any

from linux.cgroup.usage import Cpu, DeviceIo
from metrics.labels import Prefix, Prefixes, escaped, joined
from metrics.model import Interface, Sample, Snapshot

Pairs = tuple[list[Prefix], list[Any]]
"""Two lists of the same length: a hundred thousand small tuples would cost as much as the lines."""

_ROOT = {"container": "", "id": "/", "image": "", "name": "", "namespace": "", "pod": ""}


class Rows:
    """The rows of one snapshot."""

    def __init__(self, snapshot: Snapshot, prefixes: Prefixes) -> None:
        prefixes.next()
        self.snapshot = snapshot
        self.samples = snapshot.samples
        self.prefixes = [prefixes.of(sample) for sample in snapshot.samples]
        self._made: dict[str, Pairs] = {}

    def of(self, source: str) -> Pairs:
        """`source` is a key of SOURCES."""
        made = self._made.get(source)
        if made is None:
            made = self._made[source] = SOURCES[source](self)
        return made


class _Devices(dict[str, str]):
    """The rendered label of a device, by `major:minor`."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, number: str) -> str:
        label = self[number] = joined([("device", self._names.get(number, number))])
        return label


def _each(value: Callable[[Sample], Any]) -> Callable[[Rows], Pairs]:
    """A row for each group that has the value."""

    def rows(view: Rows) -> Pairs:
        values = [value(sample) for sample in view.samples]
        there = [found for found in values if found is not None]
        if len(there) == len(values):
            return view.prefixes, values
        return [prefix for prefix, found in zip(view.prefixes, values, strict=True) if found is not None], there

    return rows


def _io(view: Rows) -> Pairs:
    return _per_device(view, _Devices(view.snapshot.devices))


def _blkio(view: Rows) -> Pairs:
    class Numbered(_Devices):
        def __missing__(self, number: str) -> str:
            major, _, minor = number.partition(":")
            numbers = joined([("major", major), ("minor", minor)])
            label = self[number] = f"{super().__missing__(number)},{numbers}"
            return label

    return _per_device(view, Numbered(view.snapshot.devices))


def _per_device(view: Rows, labels: _Devices) -> Pairs:
    prefixes: list[Prefix] = []
    values: list[DeviceIo] = []
    for prefix, sample in zip(view.prefixes, view.samples, strict=True):
        for number, counters in sample.usage.io.items():
            prefixes.append(prefix.more(labels[number]))
            values.append(counters)
    return prefixes, values


def _network(view: Rows) -> Pairs:
    told = {id(sample.interfaces) for sample in view.samples if sample.kind == "sandbox"}
    labels: dict[str, str] = {}
    prefixes: list[Prefix] = []
    values: list[Interface] = []
    for prefix, sample in zip(view.prefixes, view.samples, strict=True):
        if sample.kind == "pod" and id(sample.interfaces) in told:
            continue
        for one in sample.interfaces:
            label = labels.get(one.name)
            if label is None:
                label = labels[one.name] = joined([("interface", one.name)])
            prefixes.append(prefix.more(label))
            values.append(one)
    return prefixes, values


def _ulimits(view: Rows) -> Pairs:
    prefixes: list[Prefix] = []
    values: list[int] = []
    for prefix, sample in zip(view.prefixes, view.samples, strict=True):
        if sample.processes is not None:
            for name, limit in sample.processes.ulimits.items():
                prefixes.append(prefix.more(f'ulimit="{escaped(name)}"'))
                values.append(limit)
    return prefixes, values


def _root(view: Rows) -> Prefix:
    kinds = zip(view.prefixes, view.samples, strict=True)
    found = next((prefix for prefix, sample in kinds if sample.kind == "root"), None)
    return found or Prefix(joined(_ROOT.items()))


def _filesystems(view: Rows) -> Pairs:
    root, found = _root(view), view.snapshot.filesystems
    return [root.more(joined([("device", one.device)])) for one in found], list(found)


def _disks(view: Rows) -> Pairs:
    """Without those that nobody ever used: a machine has dozens of loop and RAM devices."""
    root = _root(view)
    used = {name: one for name, one in view.snapshot.disks.items() if one.reads or one.writes}
    return [root.more(joined([("device", name)])) for name in used], list(used.values())


def _layers(view: Rows) -> Pairs:
    """Containers' own layers that were counted to the end: half a count would be a lie."""
    labels = _Devices(view.snapshot.devices)
    layers = zip(view.prefixes, [sample.layer for sample in view.samples], strict=True)
    found = [
        (prefix.more(labels[layer.device]), layer) for prefix, layer in layers if layer is not None and layer.whole
    ]
    return [prefix for prefix, _ in found], [layer for _, layer in found]


def _layer_limits(view: Rows) -> Pairs:
    """The size of the filesystem that a container's layer is on."""
    sizes = {one.device: one.total for one in view.snapshot.filesystems}
    names = view.snapshot.devices
    prefixes, layers = _layers(view)
    devices = [names.get(layer.device, "") for layer in layers]
    known = [(prefix, sizes[device]) for prefix, device in zip(prefixes, devices, strict=True) if device in sizes]
    return [prefix for prefix, _ in known], [size for _, size in known]


def _limited(sample: Sample) -> Cpu | None:
    return sample.usage.cpu if sample.usage.limits.cpu_quota_us else None


def _health(sample: Sample) -> int | None:
    who = sample.identity
    return int(who.health == "healthy") if who is not None and who.health and sample.kind == "container" else None


def _seen(view: Rows) -> Pairs:
    return view.prefixes, [int(view.snapshot.when)] * len(view.prefixes)


SOURCES: dict[str, Callable[[Rows], Pairs]] = {
    "blkio": _blkio,
    "cpu": _each(lambda s: s.usage.cpu),
    "disk": _disks,
    "filesystem": _filesystems,
    "health": _each(_health),
    "io": _io,
    "layer": _layers,
    "layer_limit": _layer_limits,
    "limited": _each(_limited),
    "limits": _each(lambda s: s.usage.limits),
    "memory": _each(lambda s: s.usage.memory),
    "network": _network,
    "oom": _each(lambda s: s.usage.oom_kills),
    "pressure_cpu": _each(lambda s: s.usage.pressure and s.usage.pressure.cpu),
    "pressure_io": _each(lambda s: s.usage.pressure and s.usage.pressure.io),
    "pressure_memory": _each(lambda s: s.usage.pressure and s.usage.pressure.memory),
    "processes": _each(lambda s: s.processes),
    "seen": _seen,
    "started": _each(lambda s: s.started),
    "threads": _each(lambda s: s.usage if s.usage.pids is not None else None),
    "ulimits": _ulimits,
}
