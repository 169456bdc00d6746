"""Giving disk back: images that nothing uses any more, the longest unused first.

Every five minutes the images are looked at. Where their filesystem is fuller than imageGCHighThresholdPercent, as many are
removed as bring it down to imageGCLowThresholdPercent; and those unused for imageMaximumGCAge go in any case. Never: what a
container (running or dead) or a pod of this node names, what the runtime has pinned, what was first seen less than
imageMinimumGCAge ago. An image's last use is remembered while the kubelet runs; after a restart all are new.

100 percent turns the first part off, which is right where a runtime is shared with somebody: an image is not known to be
another's. (Upstream: pkg/kubelet/images/image_gc_manager.go.)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from kube.errors import Retry
from kubelet.runtime import Image, Runtime, RuntimeRefused

log = logging.getLogger(__name__)

Tell = Callable[[str, str], None]  # reason and message of a Warning about the Node
Disk = Callable[[str], Awaitable[tuple[int, int]]]  # capacity and available bytes of the filesystem of a path


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    high: int = 85  # percent used
    low: int = 80
    least_age: float = 120.0  # seconds
    most_age: float = 0.0  # 0: no limit


@dataclass(frozen=True, slots=True)
class Known:
    """An image, when it was first seen, and when it was last in use."""

    image: Image
    first_seen: datetime
    last_used: datetime


def normal(name: str) -> str:
    """An image's name as every runtime means it: docker.io/library/busybox:latest is busybox."""
    for prefix in ("docker.io/library/", "docker.io/"):
        name = name.removeprefix(prefix)
    tagged = "@" in name or ":" in name.rpartition("/")[2]
    return name if tagged else f"{name}:latest"


def names_of(image: Image) -> set[str]:
    return {image.id, *(normal(name) for name in (*image.tags, *image.digests))}


def remember(
    before: Mapping[str, Known], images: Iterable[Image], used: Iterable[str], now: datetime
) -> dict[str, Known]:
    """Pure: what is known of the images that are there now, by id."""
    names = {name for each in used for name in (each, normal(each))}
    found = {}
    for image in images:
        known = before.get(image.id)
        last = now if names & names_of(image) else known.last_used if known else datetime.min.replace(tzinfo=now.tzinfo)
        found[image.id] = Known(image, known.first_seen if known else now, last)
    return found


def candidates(known: Iterable[Known], policy: Policy, now: datetime) -> list[Known]:
    """Pure: what may go, the longest unused first."""
    free = [
        each
        for each in known
        if each.last_used < now
        and not each.image.pinned
        and now - each.first_seen >= timedelta(seconds=policy.least_age)
    ]
    return sorted(free, key=lambda each: (each.last_used, each.first_seen, each.image.id))


def to_free(policy: Policy, capacity: int, available: int) -> int:
    """Pure: bytes to be freed; 0 while the filesystem is not too full."""
    used = 100 - available * 100 // capacity
    return capacity * (100 - policy.low) // 100 - available if policy.high < 100 and used >= policy.high else 0


async def disk_of(path: str) -> tuple[int, int]:
    found = await asyncio.to_thread(os.statvfs, path)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


class Collection:
    """`used` names the images of containers and pods; `collected` counts what was removed, by upstream's reasons."""

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        used: Callable[[], Iterable[str]],
        tell: Tell,
        now: Callable[[], datetime],
        *,
        disk: Disk = disk_of,
        collected: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._runtime = runtime
        self._policy = policy
        self._used = used
        self._tell = tell
        self._now = now
        self._disk = disk
        self._collected = collected
        self._known: dict[str, Known] = {}
        self._begun = now()
        self._failed_before = False

    async def sync(self) -> None:
        """One look. A failure is told to the world when it is the second in a row."""
        try:
            await self._collect()
        except (Retry, RuntimeRefused, OSError) as error:
            log.warning("image garbage collection failed: %s", error)
            if self._failed_before:
                self._tell("ImageGCFailed", str(error))
            self._failed_before = True
        else:
            self._failed_before = False

    async def _collect(self) -> None:
        now = self._now()
        self._known = remember(self._known, await self._runtime.list_images(), self._used(), now)
        await self._collect_old(now)
        if self._policy.high >= 100:
            return
        where = (await self._runtime.image_fs()).mountpoint
        capacity, available = await self._disk(where)
        if capacity <= 0:
            message = f"invalid capacity {capacity} on image filesystem"
            self._tell("InvalidDiskCapacity", message)
            raise OSError(message)
        wanted = to_free(self._policy, capacity, available)
        if wanted <= 0:
            return
        log.info("image filesystem %s: %d of %d bytes are left; freeing %d", where, available, capacity, wanted)
        freed = 0
        for each in candidates(self._known.values(), self._policy, now):
            if freed >= wanted:
                break
            if await self._remove(each, "space"):
                freed += each.image.size
        if freed < wanted:
            message = (
                f"Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found "
                f"{freed} bytes eligible to free."
            )
            self._tell("FreeDiskSpaceFailed", message)
            raise OSError(message)

    async def _collect_old(self, now: datetime) -> None:
        age = timedelta(seconds=self._policy.most_age)
        if not age or now - self._begun <= age:  # how long they were unused before we started nobody knows
            return
        for each in candidates(self._known.values(), self._policy, now):
            if now - max(each.last_used, each.first_seen) > age:
                await self._remove(each, "age")

    async def _remove(self, each: Known, reason: str) -> bool:
        image = each.image
        try:
            for name in (*image.tags, image.id):  # a runtime may refuse an id that has several names
                await self._runtime.remove_image(name)
        except (Retry, RuntimeRefused) as error:
            log.warning("image %s %s: %s", image.id, " ".join(image.tags), error)
            return False
        log.info("removed image %s %s: %d bytes", image.id, " ".join(image.tags), image.size)
        self._known.pop(image.id, None)
        self._collected(reason)
        return True
