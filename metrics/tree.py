"""Which groups there are below a root, kept up to date by the kernel's word.

The tree is walked once, in one hierarchy (memory on version 1, the only one on version 2). Each directory is watched before
it is listed, so that nothing made in between is missed; from then on only directories in which something was made or
removed are listed again. Where the kernel gives no watch (its limits are few and shared) the directory is listed each time.
The same watches say when somebody wrote a group's limits, which are otherwise not read again.

A directory is a container when its name is, or ends in, an id of 64 hexadecimal digits (`docker-<id>.scope`,
`cri-containerd-<id>.scope`, `crio-<id>.scope`); what a container makes inside itself is its own business. It is a pod when
it is named `pod<uid>` as a kubelet names it.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from linux import inotify
from metrics.model import Kind

_CONTAINER: Final = re.compile(r"(?:.*[-/])?(?<!conmon-)([0-9a-f]{64})(?:\.scope)?")
_POD: Final = re.compile(r"(?:kubepods-(?:\w+-)?)?pod([0-9a-f_-]{32,36})(?:\.slice)?")
_QOS: Final = re.compile(r"(?:kubepods-)?(kubepods|burstable|besteffort)(?:\.slice)?")
_TREE: Final = inotify.MADE | inotify.REMOVED
_MASK: Final = inotify.MODIFIED | _TREE


@dataclass(frozen=True, slots=True)
class Place:
    """A group by what its name says."""

    path: str
    kind: Kind
    id: str = ""
    """The container's, the pod's uid, the service's name (by which a runtime may know it as well)."""

    @property
    def shown(self) -> str:
        """The path as text that can be written anywhere: bytes of a name that are not UTF-8 become `\\xff`."""
        return self.path if self.path.isascii() else os.fsencode(self.path).decode("utf-8", "backslashreplace")


@dataclass(slots=True)
class _Directory:
    place: Place
    watch: int | None = None
    children: dict[str, "_Directory"] = field(default_factory=dict)


class Tree:
    """`refresh` in one thread at a time. `limits` are the files whose writing is told."""

    def __init__(self, base: str, root: str, limits: frozenset[str]) -> None:
        self._base = base
        self._limits = limits
        self._top = _Directory(Place(root, "root"))
        self._watches: dict[int, _Directory] = {}
        self._written: dict[int, str] = {}
        self._unwatched: set[str] = set()
        self._places: dict[str, Place] | None = None
        self._events = _events()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()

    def refresh(self) -> tuple[Mapping[str, Place], frozenset[str] | None]:
        """The groups by path, parents before their children, and the paths of those whose limits were written. None: the kernel
        could not keep up, and everything that was watched and held is to be begun again."""
        changes = self._events.changes() if self._events is not None else []
        if changes is None or self._places is None:
            return self._begin(), None
        stale: set[str] = set()
        dirty: dict[str, _Directory] = {}
        for number, mask, name in changes:
            if mask & inotify.ENDED:
                self._written.pop(number, None)
                if ended := self._watches.pop(number, None):
                    ended.watch = None
                    self._unwatched.add(ended.place.path)  # the root may be made again, and nobody would say so
            elif name in self._limits and number in self._written:
                stale.add(self._written[number])
            elif mask & _TREE and (found := self._watches.get(number)):
                dirty[found.place.path] = found
                if mask & inotify.REMOVED and (gone := found.children.pop(name, None)):
                    self._drop(gone)  # even where one of the same name is there by now: its watches are not
        for each in dirty.values():
            self._list(each)
        again = sorted(self._unwatched)
        for path in again:
            if found := self._find(path):
                self._list(found)
        if dirty or again:
            self._places = {each.place.path: each.place for each in _flat(self._top)}
        return self._places, frozenset(stale)

    def _begin(self) -> Mapping[str, Place]:
        if self._places is not None:
            self.close()
            self._events = _events()
        self._watches, self._written = {}, {}
        self._unwatched.clear()
        self._top = _Directory(self._top.place)
        self._list(self._top)
        self._places = {each.place.path: each.place for each in _flat(self._top)}
        return self._places

    def watch_limits(self, path: str, folders: Iterable[str]) -> Callable[[], None] | None:
        """Tell from now on when limits of the group at `path` are written, in any of `folders`. What is returned ends it; None
        where the kernel gives no watch, and limits are to be read each time."""
        events = self._events
        if events is None:
            return None
        numbers: list[int] = []
        for folder in folders:
            number = events.watch(folder, _MASK)
            if number is None:
                for each in numbers:
                    self._forget(each)
                return None
            numbers.append(number)
            self._written[number] = path

        def end() -> None:
            for each in numbers:
                self._forget(each)

        return end

    def _forget(self, number: int) -> None:
        self._written.pop(number, None)
        if number not in self._watches and self._events is not None:
            self._events.unwatch(number)

    def _find(self, path: str) -> _Directory | None:
        found: _Directory | None = self._top
        for name in path[len(self._top.place.path) :].strip("/").split("/"):
            found = found.children.get(name) if found and name else found
        return found

    def _list(self, directory: _Directory) -> None:
        pending = [directory]
        while pending:
            parent = pending.pop()
            path = f"{self._base}{parent.place.path}"
            if parent.watch is None and self._events is not None:
                parent.watch = self._events.watch(path, _MASK)
                if parent.watch is not None:
                    self._watches[parent.watch] = parent
                    self._unwatched.discard(parent.place.path)
            if parent.watch is None:
                self._unwatched.add(parent.place.path)
            try:
                with os.scandir(path) as entries:
                    names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:
                names = []
            before, parent.children = parent.children, {}
            for name in names:
                child = before.pop(name, None)
                if child is None:
                    child = _Directory(_place(f"{parent.place.path.rstrip('/')}/{name}", name))
                    if child.place.kind != "container":
                        pending.append(child)
                parent.children[name] = child
            for gone in before.values():
                self._drop(gone)

    def _drop(self, directory: _Directory) -> None:
        for each in _flat(directory):
            self._unwatched.discard(each.place.path)
            if each.watch is not None:
                self._watches.pop(each.watch, None)
                if each.watch not in self._written and self._events is not None:
                    self._events.unwatch(each.watch)


def _events() -> inotify.Polled | None:
    try:
        return inotify.Polled()
    except OSError:
        return None


def _flat(top: _Directory) -> list[_Directory]:
    found = [top]
    for each in found:
        found += each.children.values()
    return found


def _place(path: str, name: str) -> Place:
    if container := _CONTAINER.fullmatch(name):
        return Place(path, "container", container[1])
    if pod := _POD.fullmatch(name):
        return Place(path, "pod", pod[1].replace("_", "-"))
    return Place(path, "qos", name) if _QOS.fullmatch(name) else Place(path, "service", name)
