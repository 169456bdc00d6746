"""Which backend a mode has on this machine, family by family; and what the other mode may have left behind."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from kube.errors import UsageError
from linux import process
from linux.iptables.backend import Unusable
from linux.iptables.rules import Family
from proxy import host
from proxy.backend import Backend

OTHER: Mapping[str, str] = {"iptables": "nftables", "nftables": "iptables"}

log = logging.getLogger(__name__)


class Mode(Protocol):
    """What the module `proxy.<mode>.backend` has."""

    async def opened(self, family: Family) -> Backend:
        """Raises Unusable, or CommandFailed, in words when the machine cannot have it."""
        ...

    async def forget_all(self, families: Iterable[Family]) -> int:
        """Delete whatever proxies of this mode leave; how many objects there were. Raises Retry."""
        ...


async def usable(mode: str, families: Iterable[Family] = Family) -> dict[Family, Backend]:
    """The mode's backends, of every family that this machine can have. Raises UsageError where it can have none."""
    found: dict[Family, Backend] = {}
    reasons = []
    for family in families:
        why = host.lacking(family)
        if not why:
            try:
                found[family] = await _mode(mode).opened(family)
                log.info("IPv%d: writing %s", family, found[family].words)
                continue
            except (Unusable, process.CommandFailed) as error:
                why = str(error)
        reasons.append(f"IPv{family}: {why}")
    if not found:
        raise UsageError(f"mode (--proxy-mode) {mode} cannot be used here: {'; '.join(reasons)}")
    for reason in reasons:
        log.warning("%s; Services of that family have no rules on this node", reason)
    return found


async def forget(mode: str, families: Iterable[Family]) -> int:
    """Delete all that a proxy of this mode leaves, ours and a stock one's alike; how many objects. Raises Retry."""
    return await _mode(mode).forget_all(families)


def _mode(name: str) -> Mode:
    """Its module; the other mode's is not loaded before it is asked."""
    return cast("Mode", importlib.import_module(f"proxy.{name}.backend"))
