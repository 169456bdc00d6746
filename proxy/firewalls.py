"""Other people's firewalls: base chains whose policy is to drop, told once in words.

A packet meets every base chain of a hook, and one that drops by policy ends it whatever ours have accepted; no rule of ours
can let it through. Whether the firewall's own rules do is for people to judge, so this is a hint where to look when a
Service is silent, not a verdict. Looked at when the rules are in and again after somebody changed them; an idle node is
never asked.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from linux.iptables.rules import Family
from linux.nftables.connection import Connection
from linux.nftables.policies import Dropping, dropping

_FAMILIES = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}

log = logging.getLogger(__name__)


class Firewalls:
    """What has been told of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._told: frozenset[Dropping] = frozenset()

    async def look(self) -> None:
        """Tell of those that were not told before. Where nf_tables cannot be asked there is nothing to tell."""
        try:
            found = frozenset(await asyncio.to_thread(_found, self._family))
        except OSError as error:
            log.debug("other tables cannot be read: %s", error)
            return
        for each in sorted(found - self._told, key=str):
            log.warning("IPv%d: %s", self._family, words(each))
        self._told = found


def words(found: Dropping) -> str:
    what = "NodePorts and health checks" if found.hook == "input" else "what goes to and from pods"
    return (
        f"{found}, after our rules or before them: it must accept {what} itself, or Services are silent;"
        f" see `{found.listing}`"
    )


def _found(family: Family) -> list[Dropping]:
    with Connection() as kernel:
        return dropping(kernel, _FAMILIES[family])
