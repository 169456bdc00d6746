"""Others' last words: base chains of other tables that drop what none of their rules accepted.

An accept is final in its own base chain only; the packet goes on to the next chain at the same hook, and a policy of drop
there is the end of it. So a firewall that drops by policy must itself let Service traffic through, and nothing that we
write can do so for it. One dump of chains, no rules: whether the firewall has such rules is for people to judge.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from linux.nftables.connection import Connection
from linux.nftables.objects import Chain

_BOTH = 1  # NFPROTO_INET
_HOOKS = ("input", "forward", "output")
_FAMILIES = {_BOTH: "inet", socket.AF_INET: "ip", socket.AF_INET6: "ip6"}


@dataclass(frozen=True, slots=True)
class Dropping:
    """A base chain with policy drop, as nft names it: family `ip`, `ip6` or `inet`."""

    family: str
    table: str
    chain: str
    hook: str

    def __str__(self) -> str:
        return (
            f"chain {self.chain} of table {self.family} {self.table} drops what it does not accept (hook {self.hook})"
        )

    @property
    def listing(self) -> str:
        """The command that shows it."""
        return f"nft list chain {self.family} {self.table} {self.chain}"


def dropping(kernel: Connection, family: int, ours: Collection[str] = ("kube-proxy",)) -> list[Dropping]:
    """Those that packets of this family meet, without tables named in `ours`. iptables-nft's own tables are among them
    (FORWARD, when docker has set its policy); what legacy iptables has is not."""
    return list(_dropping(kernel.base_chains(), family, ours))


def _dropping(chains: list[Chain], family: int, ours: Collection[str]) -> Iterator[Dropping]:
    for chain in chains:
        hook = chain.hook
        if hook is None or not hook.drops or hook.kind != "filter" or chain.family not in (family, _BOTH):
            continue
        if hook.name in _HOOKS and chain.table not in ours:
            yield Dropping(_FAMILIES[chain.family], chain.table, chain.name, hook.name)
