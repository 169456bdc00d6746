"""Leader election: of several copies of a daemon one is at work.

The protocol is client-go's (tools/leaderelection): a Lease names its holder and when it was last renewed. A candidate takes
a Lease that is free or that it has *seen* unchanged for the whole lease duration by its own clock, so clocks need not agree;
every write carries the resourceVersion that was read, so of two candidates one wins. A leader that could not renew within
the renew deadline stops working before anybody else may begin, and is a candidate again; one that ends in order gives the
Lease back.

One thing is better than upstream: identities say which process the holder is, so a successor on the same machine that can
see that this process is dead (same boot, same pid namespace, pid gone or reused) does not wait for the lease to run out.
"""

import asyncio
import contextlib
import logging
import os
import platform
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kube.client import Client
from kube.coordination import Lease
from kube.errors import ApiError, ApiUnreachable, NotFound, UsageError
from kube.meta import micro_timestamp
from kube.resources import LEASES

log = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """Somebody else may be at work soon: what we do must have stopped by then."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds; the renew deadline is shorter than the lease, the retry period shorter than the deadline."""

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_period < self.renew_deadline < self.lease_duration:
            raise UsageError(
                f"--leader-elect-retry-period ({self.retry_period:g} s), --leader-elect-renew-deadline "
                f"({self.renew_deadline:g} s) and --leader-elect-lease-duration ({self.lease_duration:g} s): "
                "give three times that grow in this order"
            )


def identity() -> str:
    """`host_boot-id_pidns_pid_starttime` of this process."""
    pid = os.getpid()
    return f"{platform.node()}_{_machine()}_{pid}_{_started(pid)}"


def _machine() -> str:
    """Where pids mean the same: this boot and this pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}_{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    """The process's start in clock ticks, field 22 of /proc/PID/stat; "" when there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def is_dead(holder: str) -> bool:
    """Whether `holder` is a process that this one could see and does not."""
    parts = holder.rsplit("_", 4)
    if len(parts) != 5 or f"{parts[1]}_{parts[2]}" != _machine() or not parts[3].isdigit():
        return False
    return _started(int(parts[3])) != parts[4]


class Election:
    """One candidate for the Lease `namespace/name`."""

    def __init__(self, client: Client, name: str, namespace: str, terms: Terms = Terms(), me: str = "") -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._terms = terms
        self.me = me or identity()
        self.leading = False
        self._seen: tuple[str, float] = ("", 0.0)
        self._trouble = ""

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then run `work` while renewing it; when it is lost, cancel `work` and wait for it again, so
        `work` begins each term anew. Returns when `work` does."""
        ended = False
        while not ended:
            await self._win()
            try:
                async with asyncio.TaskGroup() as group:
                    renewing = group.create_task(self._renew())
                    await work()
                    ended = True
                    renewing.cancel()
            except* LeadershipLost as lost:
                log.warning("%s; standing by", lost.exceptions[0])
            finally:
                self.leading = False
                await self._release()

    async def _win(self) -> None:
        while not await self._attempt():  # noqa: ASYNC110 (a Lease is polled: that is the protocol)
            # A server that does not answer yet is asked again soon: at a cluster's start everybody waits for this.
            await asyncio.sleep(min(0.25, self._terms.retry_period) if self._trouble else self._terms.retry_period)
        log.info("leading: %s/%s", self._namespace, self._name)
        self.leading = True

    async def _renew(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(self._terms.retry_period)
            left = last + self._terms.renew_deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(left, 0.0)):
                    renewed = await self._attempt()
            except TimeoutError:
                renewed = False
            if renewed:
                last = time.monotonic()
            elif time.monotonic() - last >= self._terms.renew_deadline:
                raise LeadershipLost(f"Lease {self._namespace}/{self._name} could not be renewed in time")

    async def _attempt(self) -> bool:
        """Take or renew the Lease; whether it is ours now."""
        try:
            taken = await self._take()
        except (ApiError, ApiUnreachable) as error:
            if str(error) != self._trouble:  # once, not every retry period
                log.warning("lease %s/%s: %s; trying on", self._namespace, self._name, error)
            self._trouble = str(error)
            return False
        self._trouble = ""
        return taken

    async def _take(self) -> bool:
        stamp = micro_timestamp(datetime.now(UTC))
        spec: dict[str, Any] = {
            "holderIdentity": self.me,
            "leaseDurationSeconds": max(1, round(self._terms.lease_duration)),
            "renewTime": stamp,
        }
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
        except NotFound:
            spec |= {"acquireTime": stamp, "leaseTransitions": 0}
            await self._client.create(LEASES, {"metadata": {"name": self._name}, "spec": spec}, self._namespace)
            return True
        holder = lease.spec.holder_identity
        if holder != self.me:
            if not self._is_free(lease):
                return False
            spec |= {"acquireTime": stamp, "leaseTransitions": (lease.spec.lease_transitions or 0) + 1}
        body = {"metadata": {"resourceVersion": lease.metadata.resource_version}, "spec": spec}
        await self._client.patch(LEASES, self._name, body, self._namespace)
        return True

    def _is_free(self, lease: Lease) -> bool:
        holder = lease.spec.holder_identity
        if not holder or is_dead(holder):
            return True
        version, since = self._seen
        if version != lease.metadata.resource_version:
            self._seen = (lease.metadata.resource_version, time.monotonic())
            return False
        return time.monotonic() - since >= max(lease.spec.lease_duration_seconds, self._terms.lease_duration)

    async def _release(self) -> None:
        """Give the Lease back, so that the next one need not wait. Nothing depends on it."""
        with contextlib.suppress(ApiError, ApiUnreachable, TimeoutError):
            async with asyncio.timeout(2.0):
                lease = await self._client.get(LEASES, self._name, self._namespace)
                if lease.spec.holder_identity != self.me:
                    return
                version = {"resourceVersion": lease.metadata.resource_version}
                spec = {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.patch(LEASES, self._name, {"metadata": version, "spec": spec}, self._namespace)
