"""Keeping containers' logs small, where the runtime only writes them (CRI).

    0.log                        what is written now; past containerLogMaxSize it is renamed, and the runtime told to reopen
    0.log.20260102-030405        the last one that was renamed: a reader may still be in it
    0.log.20260102-020304.gz     older ones

Together at most containerLogMaxFiles. A kubelet that died between renaming and reopening left a container that writes into a
file of another name and no file of its own: whoever finds that says "reopen" again. On a full disk older ones stay
uncompressed until there is room, and what is too many goes all the same.
(Upstream: pkg/kubelet/logs/container_log_manager.go.)
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from kube.errors import Retry
from kubelet.containerlogs import loglinks
from kubelet.containerlogs.logs import open_log
from kubelet.runtime import ContainerState, NotFound, PodRecord, Runtime, RuntimeRefused

log = logging.getLogger(__name__)

_TEMPORARY = ".tmp"
_COMPRESSED = ".gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    size: int  # bytes
    files: int = 5
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Chore:
    """What is to be done with the rotated files before another one joins them."""

    remove: tuple[str, ...]
    compress: tuple[str, ...]


def chore(names: Iterable[str], files: int) -> Chore:
    """Pure. `names` are the rotated files, in any order; room is left for the current file and one more."""
    known = set(names)
    torn = {name for name in known if name.endswith(_TEMPORARY)}
    # compressed already: the original was about to go
    torn |= {name for name in known if name + _COMPRESSED in known}
    kept = sorted(known - torn)
    excess = kept[: max(0, len(kept) - max(0, files - 2))]
    compress = [name for name in kept if name not in excess and not name.endswith(_COMPRESSED)]
    return Chore((*sorted(torn), *excess), tuple(compress))


def tidy(path: str, files: int) -> None:
    """Blocking: removes and compresses what was rotated away before. OSError is told, not raised."""
    plan = chore(loglinks.rotated(path), files)
    for name in plan.remove:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    for name in plan.compress:
        try:
            _compress(name)
        except OSError as error:
            log.warning("log %s stays uncompressed: %s", name, error.strerror)


def _compress(name: str) -> None:
    """All or nothing: the compressed file has its name only when it is whole."""
    temporary = name + _TEMPORARY
    try:
        with open_log(name) as source, open(temporary, "xb") as target:
            os.fchmod(target.fileno(), os.fstat(source.fileno()).st_mode & 0o777)
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=target) as packed:
                shutil.copyfileobj(source, packed, 1 << 18)
        os.replace(temporary, name + _COMPRESSED)
        os.unlink(name)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class Rotation:
    def __init__(
        self,
        runtime: Runtime,
        pod_logs_dir: str,
        limits: Limits,
        records: Callable[[], Iterable[PodRecord]],
        now: Callable[[], datetime],
    ) -> None:
        self._runtime = runtime
        self._root = pod_logs_dir.rstrip("/")
        self._limits = limits
        self._records = records
        self._now = now
        self._turns = asyncio.Semaphore(limits.workers)

    async def sync(self) -> None:
        """One look at the logs of all running containers. What fails is told and tried again at the next look."""
        due = [
            (container.id, path)
            for record in list(self._records())
            for container in record.containers
            if container.state is ContainerState.RUNNING
            and self._due(path := self._path(record, container.name, container.attempt))
        ]
        async with asyncio.TaskGroup() as group:
            for identity, path in due:
                group.create_task(self._rotate(identity, path))

    def _path(self, record: PodRecord, container: str, attempt: int) -> str:
        pod = record.pod
        return f"{self._root}/{pod.namespace}_{pod.name}_{pod.uid}/{container}/{attempt}.log"

    def _due(self, path: str) -> bool:
        try:
            return os.stat(path).st_size > self._limits.size
        except FileNotFoundError:
            return os.path.isdir(os.path.dirname(path))  # renamed, and never reopened
        except OSError as error:
            log.warning("log %s: %s", path, error.strerror)
            return False

    async def _rotate(self, identity: str, path: str) -> None:
        async with self._turns:
            try:
                if not os.path.lexists(path):
                    await self._runtime.reopen_log(identity)
                    return
                await asyncio.to_thread(tidy, path, self._limits.files)
                await self._rename(identity, path)
            except NotFound:
                pass  # it has gone meanwhile
            except (Retry, RuntimeRefused, OSError) as error:
                log.warning("rotating log %s: %s", path, error)

    async def _rename(self, identity: str, path: str) -> None:
        aside = f"{path}.{self._now():%Y%m%d-%H%M%S}"
        if os.path.lexists(aside) or os.path.lexists(aside + _COMPRESSED):
            return  # twice in a second: at the next look
        os.rename(path, aside)
        try:
            await self._runtime.reopen_log(identity)
        except (Retry, RuntimeRefused):
            if not os.path.lexists(path):
                os.rename(aside, path)
            raise
