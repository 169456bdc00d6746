"""Reading the cgroup tree: one scrape's snapshot.

The tree is walked in one hierarchy (memory on version 1, the only one on version 2) below the configured root. A directory
is a container when its name is, or ends in, a container id that the runtime knows; it is a pod when it is named `pod<uid>`
as a kubelet names it; of all others only the root, the kubepods tree and its QoS classes are reported, because nobody asks
for a row per systemd slice.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from linux.cgroup import v1, v2
from linux.cgroup.tree import Hierarchies, hierarchies
from linux.cgroup.files import text
from linux.cgroup.usage import Usage
from metrics import observe
from metrics.model import MIXIN, Counted, Identity, Interface, Machine, Part, Sample, Snapshot
from metrics.observe import identity

# What the kubelet needs to serve its own containers.
__all__ = [
    "MIXIN",
    "Collector",
    "Counted",
    "Identity",
    "Interface",
    "Machine",
    "Part",
    "Sample",
    "Snapshot",
    "identity",
]

_CONTAINER = re.compile(r"(?:.*[-/])?([0-9a-f]{64})(?:\.scope)?$")
_POD = re.compile(r"(?:kubepods-(?:\w+-)?)?pod([0-9a-f_-]{32,36})(?:\.slice)?$")
_QOS = re.compile(r"(?:kubepods-)?(kubepods|burstable|besteffort)(?:\.slice)?$")

Identities = Callable[[], Mapping[str, Identity]]


@dataclass(frozen=True, slots=True)
class _Group:
    path: str
    container: str = ""
    pod_uid: str = ""


class Collector:
    """Snapshots of the cgroups below `root`. `snapshot` blocks (call it in a thread) and is shared by scrapes that come
    within `fresh` seconds of one another."""

    def __init__(
        self, identities: Identities, root: str = "/", *, trees: Hierarchies | None = None, fresh: float = 1.0
    ) -> None:
        self._identities = identities
        self._root = "/" + root.strip("/")
        self._trees = trees or hierarchies()
        self._fresh = fresh
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._taken = float("-inf")
        self._machine: Machine = observe.machine()

    def snapshot(self, _wanted: frozenset[Part] = MIXIN) -> Snapshot:
        with self._lock:
            if self._last is None or time.monotonic() - self._taken > self._fresh:
                self._last = self._take()
                self._taken = time.monotonic()
            return self._last

    def read(self, path: str) -> Usage:
        if self._trees.unified is not None:
            return v2.read(self._trees.unified, path)
        return v1.read(self._trees.controllers, path)

    def _take(self) -> Snapshot:
        known = self._identities()
        groups = list(self._groups())
        pods = _pods(groups, known)
        samples: list[Sample] = []
        failed = False
        for group in groups:
            if group.container and group.container not in known:
                continue  # another node's, or none of the runtime's
            sample = self._sample(group, known, pods)
            if sample is not None:
                samples.append(sample)
            elif os.path.isdir(f"{self._base()}{group.path}"):  # gone by now is no error
                failed = True
        return Snapshot(
            when=time.time(),
            machine=self._machine,
            samples=tuple(samples),
            filesystems=observe.filesystems(),
            devices=observe.devices(),
            failed=failed,
        )

    def _base(self) -> str:
        trees = self._trees
        root = trees.unified or trees.controllers.get("memory") or next(iter(trees.controllers.values()))
        return str(root)

    def _groups(self) -> Iterator[_Group]:
        base = self._base()
        yield _Group(self._root)
        pending = [self._root]
        while pending:
            parent = pending.pop()
            try:
                with os.scandir(f"{base}{parent}") as entries:
                    names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
            for name in names:
                path = f"{parent.rstrip('/')}/{name}"
                if container := _CONTAINER.fullmatch(name):
                    yield _Group(path, container=container[1])
                    continue  # what a container makes inside itself is its own business
                if pod := _POD.fullmatch(name):
                    yield _Group(path, pod_uid=pod[1].replace("_", "-"))
                elif _QOS.fullmatch(name):
                    yield _Group(path)
                pending.append(path)

    def _sample(
        self, group: _Group, known: Mapping[str, Identity], pods: Mapping[str, tuple[Identity, str]]
    ) -> Sample | None:
        """None when neither CPU nor memory can be read: the group is gone, or its files are not as the kernel's."""
        usage = self.read(group.path)
        if usage.cpu is None and usage.memory is None:
            return None
        if owner := known.get(group.container):
            return Sample(group.path, _labels(group.path, owner), usage, owner.started)
        sandbox = pods.get(group.pod_uid)
        if not sandbox:
            return Sample(group.path, _labels(group.path), usage)
        who, where = sandbox
        pid = observe.first_process(text(f"{self._base()}{where}/cgroup.procs"))
        labels = {**_labels(group.path), "namespace": who.namespace, "pod": who.pod}
        return Sample(group.path, labels, usage, who.started, observe.interfaces(pid) if pid else ())


def _pods(groups: list[_Group], known: Mapping[str, Identity]) -> dict[str, tuple[Identity, str]]:
    """Each pod's sandbox and the sandbox's cgroup, by pod uid."""
    found: dict[str, tuple[Identity, str]] = {}
    for group in groups:
        owner = known.get(group.container)
        if owner and owner.sandbox:
            found[owner.pod_uid] = (owner, group.path)
    return found


def _labels(path: str, owner: Identity | None = None) -> dict[str, str]:
    if owner is None:
        return {"container": "", "id": path, "image": "", "name": "", "namespace": "", "pod": ""}
    return {
        "container": owner.container,
        "id": path,
        "image": owner.image,
        "name": owner.name,
        "namespace": owner.namespace,
        "pod": owner.pod,
    }
