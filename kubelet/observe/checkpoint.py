"""What the API last said of this node, kept on disk for a kubelet that starts while the API is away.

    <root-dir>/seen/pods/<uid>.json      each pod bound to this node, mirrors too, with its last status
    <root-dir>/seen/services.json        the Services, for the variables of containers that are started again
    <root-dir>/seen/runtimeclasses.json  the RuntimeClasses, for the handlers that these are run by

It is read at the start and used until the API has answered: pods that run go on and are started again when they exit.
Upstream's kubelet knows of no pod then. Written a moment after a change, and only what changed; readable by root alone,
because a pod's variables may hold secrets. ConfigMaps and Secrets are not kept: what needs one that is not in a volume
already waits for the API. A file that a power cut left half-written is passed over; so nothing is synced to the disk. Pods of
another node (a machine that was copied, or has a new name) are not ours to run, and of two pods of one name, left by a
kubelet that was killed between writing and removing, the newer one is.
"""

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from kube.core import Service
from kube.informer import Change, Informer
from kube.meta import ObjectMeta, Typed
from kube.pods import Pod
from kube.reconcile import Wake
from kube.runtimeclass import RuntimeClass
from kubelet.observe import wanted

log = logging.getLogger(__name__)
T = TypeVar("T")

SERVICES, CLASSES = "services.json", "runtimeclasses.json"
CALM = 1.0  # seconds that changes are gathered for
AGAIN = 10.0  # seconds after which a disk that refused is tried again


class Checkpoint:
    """Follows the informers; `recall` gives them what was kept, `run` keeps it."""

    def __init__(
        self,
        root: str,
        node: str,
        pods: Informer[Pod],
        services: Informer[Service],
        classes: Informer[RuntimeClass],
    ) -> None:
        self._folder = Path(root) / "seen"
        self._node = node
        self._pods = pods
        self._services = services
        self._classes = classes
        self._dirty: set[str] = set()
        self._lists_dirty: set[str] = set()  # names of files
        self._written: dict[str, bytes] = {}
        self._wake = Wake()

    def recall(self) -> None:
        """To be called before the informers run."""
        found = [pod for path in self._folder.glob("pods/*.json") if (pod := _read(path, wanted.Pod))]
        ours = sorted((pod for pod in found if pod.spec.node_name == self._node), key=_age)
        pods = list({pod.metadata.key: pod for pod in ours}.values())
        if pods:
            log.info("%d pods of before are known until the API answers", len(pods))
        self._pods.recall(pods)
        self._services.recall(_read(self._folder / SERVICES, list[Service]) or [])
        self._classes.recall(_read(self._folder / CLASSES, list[RuntimeClass]) or [])
        self._pods.subscribe(self._pod_changed)
        self._services.subscribe(lambda _: self._list_changed(SERVICES))
        self._classes.subscribe(lambda _: self._list_changed(CLASSES))

    def _pod_changed(self, change: Change[Pod]) -> None:
        self._dirty.update(pod.metadata.uid for pod in (change.old, change.new) if pod is not None)
        self._wake.set()

    def _list_changed(self, name: str) -> None:
        self._lists_dirty.add(name)
        self._wake.set()

    async def run(self) -> None:
        """Keep what changes, until cancelled. A disk that refuses is said, and tried again."""
        await self._pods.synced.wait()
        self._dirty.update(path.stem for path in self._folder.glob("pods/*.json"))
        try:
            while True:
                pods, lists = self._changed()
                patience = None
                try:
                    await asyncio.to_thread(self._keep, pods, lists)
                except OSError as error:
                    log.warning("what the API said cannot be kept in %s: %s", self._folder, error.strerror or error)
                    self._dirty |= pods.keys()
                    self._lists_dirty |= lists.keys()
                    patience = AGAIN
                await self._wake.wait(patience)
                await asyncio.sleep(CALM)
        finally:
            with contextlib.suppress(OSError):
                self._keep(*self._changed())

    def _changed(self) -> tuple[Mapping[str, Pod | None], Mapping[str, Sequence[Typed]]]:
        known = {pod.metadata.uid: pod for pod in self._pods.items()}
        pods = {uid: known.get(uid) for uid in self._dirty}
        every: Mapping[str, Sequence[Typed]] = {
            SERVICES: [_short(service) for service in self._services.items()],
            CLASSES: self._classes.items(),
        }
        lists = {name: every[name] for name in self._lists_dirty}
        self._dirty, self._lists_dirty = set(), set()
        return pods, lists

    def _make(self) -> None:
        for folder in (self._folder, self._folder / "pods"):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _keep(self, pods: Mapping[str, Pod | None], lists: Mapping[str, Sequence[Typed]]) -> None:
        """What is gone first: a full disk does not refuse that, and a pod that was deleted must not run again."""
        self._make()
        paths = {uid: self._folder / "pods" / f"{uid}.json" for uid in pods}
        for uid in [uid for uid, pod in pods.items() if pod is None]:
            paths[uid].unlink(missing_ok=True)
            self._written.pop(paths[uid].name, None)
        for uid, pod in pods.items():
            if pod is not None:
                self._write(paths[uid], msgspec.json.encode(pod))
        for name, found in lists.items():
            content = msgspec.json.encode(sorted(found, key=lambda each: each.metadata.key))
            self._write(self._folder / name, content)

    def _write(self, path: Path, content: bytes) -> None:
        if self._written.get(path.name) == content:
            return
        temporary = path.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        temporary.rename(path)
        self._written[path.name] = content


def _short(service: Service) -> Service:
    """What variables are made of."""
    meta = service.metadata
    return Service(metadata=ObjectMeta(name=meta.name, namespace=meta.namespace), spec=service.spec)


def _age(pod: Pod) -> tuple[int, str]:
    """Oldest first: resource versions that are numbers grow."""
    version = pod.metadata.resource_version
    return int(version) if re.fullmatch(r"[0-9]{1,20}", version) else 0, pod.metadata.uid


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is passed over: %s", path, error)
        return None
