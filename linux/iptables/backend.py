"""Which of the kernel's two iptables interfaces this machine uses: nf_tables or the legacy x_tables.

Both may hold rules at once, and packets pass both, so a daemon must write where the others on the machine write. The
order of questions is that of Kubernetes' iptables-wrappers: where the kubelet left its hint chain; where any Kubernetes
chain is; what the distribution made the default. As there, the families are asked together: a hint in IPv4 decides for IPv6.

Only mangle and filter are read, where every kubelet and every proxy has chains: nat may be 18 MB of text. Asking for a legacy
table by name loads its module, so that is done only for tables that are there.
"""

from __future__ import annotations

import enum
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linux import process
from linux.iptables.rules import Family, Snapshot, Table, parse

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)(?: \((nf_tables|legacy)\))?")
_TELLING = (Table.MANGLE, Table.FILTER)
_HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
_NO_ANSWER = re.compile("xtables lock|Resource temporarily unavailable")
RANDOM_FULLY = (1, 6, 2)  # the first release with MASQUERADE --random-fully

log = logging.getLogger(__name__)


class Flavor(enum.StrEnum):
    NFT = "nft"
    LEGACY = "legacy"


class Unusable(Exception):
    """There is no iptables here that we could use. Says what is missing and what to install."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One family's commands of one flavor."""

    family: Family
    flavor: Flavor
    version: tuple[int, int, int]
    save: str
    restore: str

    @property
    def chains_per_section(self) -> int:
        """Transactions of iptables-nft cost the square of their chains (measured: 100 to 600 chains are all as good, 1,200
        a third more). Legacy rewrites the whole table at each commit, so there one commit is best."""
        return 300 if self.flavor is Flavor.NFT else 1_000_000

    @property
    def random_fully(self) -> bool:
        return self.version >= RANDOM_FULLY


async def detect(family: Family = Family.V4) -> Backend:
    """The backend to use in this network namespace. Raises Unusable, and CommandFailed when a command cannot be run."""
    version, default = await _version(family.command)
    seen = {flavor: [await _saved(each, flavor) for each in Family] for flavor in Flavor}
    holding = [flavor for flavor, snapshots in seen.items() if any(map(_has_kubernetes, snapshots))]
    if len(holding) > 1:
        log.warning(
            "both nf_tables and legacy iptables hold KUBE-* chains, and packets pass both: a proxy or kubelet of the other kind "
            "left them, or runs still; stop it, then `wherry-proxy --cleanup` removes a proxy's from both"
        )
    hinting = [flavor for flavor, snapshots in seen.items() if any(map(_has_hint, snapshots))]
    return backend(family, next(iter((*hinting, *holding)), default), version)


def backend(family: Family, flavor: Flavor, version: tuple[int, int, int]) -> Backend:
    stem = f"{family.command}-{flavor}"
    commands = shutil.which(f"{stem}-save"), shutil.which(f"{stem}-restore")
    if commands[0] is None or commands[1] is None:
        commands = shutil.which(f"{family.command}-save"), shutil.which(f"{family.command}-restore")
    if commands[0] is None or commands[1] is None:
        raise Unusable(f"{family.command}-restore is not on PATH: install the package iptables")
    return Backend(family, flavor, version, commands[0], commands[1])


async def named(family: Family, flavor: Flavor) -> Backend:
    """The commands of a flavor that the caller has chosen; the plain ones where they are of that flavor and there are no
    others. Raises Unusable."""
    try:
        version, _ = await _version(f"{family.command}-{flavor}")
    except Unusable:
        version, default = await _version(family.command)
        if default is not flavor:
            raise
    return backend(family, flavor, version)


async def nat_works(chosen: Backend) -> None:
    """Whether the kernel has this family's nat table, as kube-proxy asks it. Raises CommandFailed with its words; that somebody
    holds the lock, or that it lasts too long, is no answer, and whoever writes the table will see."""
    stem = chosen.family.command
    command = shutil.which(f"{stem}-{chosen.flavor}") or stem
    try:
        await process.run([command, "-w", "1", "-t", Table.NAT.value, "-S", "POSTROUTING"], timeout=30)
    except process.CommandFailed as error:
        if error.returncode is None or _NO_ANSWER.search(error.stderr):
            return
        raise


async def _version(command: str) -> tuple[tuple[int, int, int], Flavor]:
    if shutil.which(command) is None:
        raise Unusable(f"{command} is not on PATH: install the package iptables")
    done = await process.run([command, "--version"], timeout=10, check=False)
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    if found is None:
        raise Unusable(f"{command} --version said {done.stdout!r}, which names no version")
    flavor = Flavor.NFT if found[4] == "nf_tables" else Flavor.LEGACY
    return (int(found[1]), int(found[2]), int(found[3])), flavor


async def _saved(family: Family, flavor: Flavor) -> Snapshot:
    """The tables that tell; nothing where there are none."""
    command = shutil.which(f"{family.command}-{flavor}-save")
    tables: Sequence[Table] = _TELLING
    if flavor is Flavor.LEGACY:
        names = present(family)
        tables = [table for table in _TELLING if table.value in names]
    if command is None:
        return parse("")
    text = ""
    for table in tables:
        done = await process.run([command, "-t", table.value], timeout=60, check=False)
        text += done.stdout.decode(errors="replace") if done.returncode == 0 else ""
    return parse(text)


def present(family: Family) -> list[str]:
    """The legacy tables that are there in this network namespace."""
    try:
        return Path(f"/proc/thread-self/net/{'ip' if family is Family.V4 else 'ip6'}_tables_names").read_text().split()
    except OSError:
        return []


def _has_hint(snapshot: Snapshot) -> bool:
    return any(name in snapshot.tables.get(Table.MANGLE, {}) for name in _HINTS)


def _has_kubernetes(snapshot: Snapshot) -> bool:
    return any(name.startswith("KUBE-") for chains in snapshot.tables.values() for name in chains)
