"""One group from scrape to scrape: its open files, whose it is, its network and layer."""

import os
import time
from collections.abc import Callable, Mapping

from linux.cgroup import v1, v2
from linux.cgroup.files import content, text
from linux.cgroup.usage import Ask, Usage
from metrics import observe, processes
from metrics.model import Identity, Interface, Kind, Processes
from metrics.tree import Place

Reader = v1.Group | v2.Group
Watch = Callable[[str, tuple[str, ...]], Callable[[], None] | None]
"""`Tree.watch_limits`."""

_YOUNG = 10.0
"""Seconds in which a runtime may still make the group in hierarchies where it is not yet; limits are read each time."""


class Network:
    """The interfaces of the namespace that a group's first process is in.

    The process's directory in /proc is held, not a file of its namespace, which would keep the namespace there. When the process
    is gone the directory says so, whoever has its number by then."""

    __slots__ = ("_folder", "_last", "_procs")

    def __init__(self, procs: str) -> None:
        self._procs = procs
        self._folder = -1
        self._last: tuple[bytes, tuple[Interface, ...]] = (b"", ())

    def read(self, host: int) -> tuple[Interface, ...]:
        """None of those of the namespace `host` (an inode): they are the machine's."""
        for _ in range(2):
            if self._folder < 0 and not self._open(host):
                return ()
            data = content("net/dev", self._folder)
            if data is None:
                self.close()  # that process is gone; there may be another
                continue
            if data != self._last[0]:
                self._last = data, observe.parse_interfaces(data)
            return self._last[1]
        return ()

    def _open(self, host: int) -> bool:
        pids = observe.pids(content(self._procs))
        if not pids:
            return False
        try:
            self._folder = os.open(f"/proc/{pids[0]}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if os.stat("ns/net", dir_fd=self._folder).st_ino != host:
                return True
        except OSError:
            pass
        self.close()
        return False

    @property
    def held(self) -> bool:
        return self._folder >= 0

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1


class Group:
    """`reader` reads the cgroup's files; `folder` is its directory where processes are listed. Close it."""

    __slots__ = (
        *(
            "_folder",
            "_layer",
            "_network",
            "_reader",
            "_since",
            "_unwatch",
            "_watch",
            "identity",
            "kind",
            "labels",
            "made",
            "place",
        ),
    )

    def __init__(self, place: Place, reader: Reader, folder: str, watch: Watch) -> None:
        self.place = place
        self.kind: Kind = place.kind
        self.identity: Identity | None = None
        self.labels: Mapping[str, str] = _labels(place.shown, None, place.kind)
        self._reader = reader
        self._folder = folder
        self._watch = watch
        self._unwatch: Callable[[], None] | None = None
        self._since = time.monotonic()
        self._network = Network(f"{folder}/cgroup.procs")
        self._layer = ""
        try:
            self.made: float | None = os.stat(folder).st_mtime
        except OSError:
            self.made = None

    def owned(self, owner: Identity | None) -> None:
        """Whose it is from now on."""
        if owner is self.identity or owner == self.identity:
            return
        self.identity = owner
        if self.place.kind in ("container", "service"):
            self.kind = "sandbox" if owner and owner.sandbox else "container" if owner else self.place.kind
        self.labels = _labels(self.place.shown, owner, self.kind)

    def read(self, ask: Ask) -> Usage:
        """Raises Gone."""
        if self._unwatch is None:
            late = time.monotonic() - self._since > _YOUNG
            self._unwatch = self._watch(self.place.path, self._reader.folders(late))
            self._reader.forget_limits()
        return self._reader.read(ask)

    def limits_written(self) -> None:
        self._reader.forget_limits()

    def interfaces(self, host: int) -> tuple[Interface, ...]:
        return self._network.read(host)

    def processes(self) -> Processes:
        return processes.count(observe.pids(content(f"{self._folder}/cgroup.procs")))

    def layer(self) -> str:
        """Where the container writes; empty where that cannot be told."""
        if not self._layer and (pids := observe.pids(content(f"{self._folder}/cgroup.procs"))):
            self._layer = observe.layer(text(f"/proc/{pids[0]}/mountinfo") or "")
        return self._layer

    @property
    def descriptors(self) -> int:
        return self._reader.descriptors + self._network.held

    def there(self) -> bool:
        return os.path.isdir(self._folder)

    def close(self) -> None:
        self._reader.close()
        self._network.close()
        if self._unwatch is not None:
            self._unwatch()


def _labels(path: str, owner: Identity | None, kind: Kind) -> dict[str, str]:
    """cAdvisor's six. A pod's own group has its sandbox's pod and namespace, and no image: sums over containers leave it out."""
    if owner is None:
        return {"container": "", "id": path, "image": "", "name": "", "namespace": "", "pod": ""}
    pod = kind == "pod"
    return {
        "container": "" if pod else owner.container,
        "id": path,
        "image": "" if pod else owner.image,
        "name": "" if pod else owner.name,
        "namespace": owner.namespace,
        "pod": owner.pod,
    }
