"""Whose each container is: what the machine's runtimes say.

A `Source` is one runtime's containers by id. It blocks no scrape for long: what it cannot find out in time it says as it was
last known, with an `error`. A runtime that is not on this machine is none.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from metrics.model import Identity

__all__ = ["Source", "Sources", "identity"]

_KUBERNETES = "io.kubernetes."
_SANDBOX_NAME = "POD"


class Source(Protocol):
    error: str
    """Why names may be missing or old, and what to do; empty when all is well."""
    version: str
    """Docker's; empty elsewhere."""

    def __call__(self) -> Mapping[str, Identity]: ...

    def close(self) -> None: ...


class Sources:
    """Several runtimes as one."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def __call__(self) -> Mapping[str, Identity]:
        if len(self._sources) == 1:
            return self._sources[0]()
        return {key: found for source in self._sources for key, found in source().items()}

    @property
    def error(self) -> str:
        return "; ".join(source.error for source in self._sources if source.error)

    @property
    def version(self) -> str:
        return next((source.version for source in self._sources if source.version), "")

    def close(self) -> None:
        for source in self._sources:
            source.close()


def identity(container_id: str, name: str, image: str, labels: Mapping[str, str], started: float | None) -> Identity:
    """A container from what its runtime says of it; the labels are those every kubelet sets."""
    container = labels.get(f"{_KUBERNETES}container.name", "")
    kind = labels.get(f"{_KUBERNETES}docker.type", "")
    sandbox = kind == "podsandbox" or container == _SANDBOX_NAME or name.startswith(f"k8s_{_SANDBOX_NAME}_")
    return Identity(
        id=container_id,
        name=name,
        image=image,
        pod=labels.get(f"{_KUBERNETES}pod.name", ""),
        namespace=labels.get(f"{_KUBERNETES}pod.namespace", ""),
        container="" if sandbox else container,
        pod_uid=labels.get(f"{_KUBERNETES}pod.uid", ""),
        sandbox=sandbox,
        started=started,
        labels=labels,
    )


class Bundles:
    """Containers by what their runtime wrote down: a directory for each, described by `describe` when it is new, and again when
    its `stamp`, a file that is written at each start, is another one. None while it is being made, and when it has just gone."""

    def __init__(
        self, folders: Callable[[], Iterable[str]], stamp: str, describe: Callable[[str, str], Identity | None]
    ) -> None:
        self._folders = folders
        self._stamp = stamp
        self._describe = describe
        self._known: dict[str, tuple[tuple[int, int], Identity]] = {}

    def __call__(self) -> Mapping[str, Identity]:
        """Of two with one id in different folders that of the last folder."""
        found: dict[str, Identity] = {}
        known: dict[str, tuple[tuple[int, int], Identity]] = {}
        for folder in self._folders():
            try:
                names = os.listdir(folder)
            except OSError:
                continue  # made with the first container
            for name in names:
                bundle = f"{folder}/{name}"
                try:
                    status = os.stat(f"{bundle}/{self._stamp}")
                except OSError:
                    continue
                stamp = (status.st_ino, status.st_mtime_ns)
                before = self._known.get(bundle)
                each = before[1] if before and before[0] == stamp else self._describe(name, bundle)
                if each is not None:
                    found[name] = each
                    known[bundle] = stamp, each
        self._known = known
        return found
