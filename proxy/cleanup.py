"""Taking the proxy's rules away: all of them for `--cleanup`, the other mode's after a change of modes.

What is deleted is what a proxy writes, ours or a stock one: the chains of its names in both kernel interfaces of iptables,
and the table `kube-proxy`. `KUBE-FIREWALL` stays, because the kubelet shares it, and so does everything of others. ipvs
leftovers are not ours to delete: no proxy of ours makes any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from kube.errors import Retry, UsageError
from linux.iptables.rules import Family
from proxy import host, modes
from proxy.backend import Backend
from proxy.metrics import Metrics

log = logging.getLogger(__name__)


async def everything() -> None:
    """Of all modes and families. Does nothing on a clean node; may be run any number of times."""
    families = [family for family in Family if not host.lacking(family)]
    deleted, refused = 0, []
    for mode in modes.OTHER:
        try:
            deleted += await modes.forget(mode, families)
        except Retry as error:
            refused.append(str(error))
    log.info("%d chains, tables and jumps deleted", deleted)
    if refused:
        raise UsageError(f"--cleanup: {'; '.join(refused)}; run it again when nobody else changes these rules")


class Leftovers:
    """What was there before one family's rules. Looked for when they are in; where it cannot be deleted (a lock is held) the
    next try is a `period` of seconds later, because it costs far more than a pass."""

    def __init__(
        self,
        mode: str,
        family: Family,
        backend: Backend,
        metrics: Metrics,
        period: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._try = partial(other, mode, family, backend, metrics)
        self._period = period
        self._clock = clock
        self._due: float | None = clock()  # None: it is done

    async def clear(self) -> None:
        if self._due is not None and self._clock() >= self._due:
            self._due = None if await self._try() else self._clock() + self._period


async def other(mode: str, family: Family, backend: Backend, metrics: Metrics) -> bool:
    """The rules of `mode` are in: what the other one left in this family goes, and what was written to the other interface of
    the same. Whether that is done."""
    try:
        deleted = await modes.forget(modes.OTHER[mode], [family])
        elsewhere = await backend.forget_others()
    except Retry as error:
        failures = metrics.families[f"IPv{family}"].cleanup_failures
        if failures is not None:
            failures.inc()
        log.warning("IPv%d: what was there before these rules could not be deleted: %s", family, error)
        return False
    if deleted:
        log.info("IPv%d: %d chains and tables of mode %s deleted", family, deleted, modes.OTHER[mode])
    if elsewhere:
        log.info("IPv%d: %d chains deleted that %s are not", family, elsewhere, backend.words)
    return True
