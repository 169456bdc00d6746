"""Every rule that a packet of one family can meet in this network namespace, whoever wrote it.

Three interfaces may hold rules at once and a packet passes all of them: nf_tables as iptables-nft sees it, nf_tables tables
of others (the proxy's own among them, in nftables mode), and legacy x_tables. Tables that iptables-nft-save can print are read
from it, because their rules carry binary pieces of iptables' own; all other tables are read over netlink. Legacy tables are
only looked at where there are some: looking would load their modules.
"""

from __future__ import annotations

import errno
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from kube.errors import UsageError
from linux import process
from linux.iptables.matches import parsed
from linux.iptables.rules import Family, Snapshot, Table, parse
from linux.iptables.tracer import IptablesRules
from linux.nftables.connection import Connection, Refused
from linux.nftables.ruleset import FAMILIES, Ruleset, TableContent
from linux.nftables.tracer import NftablesRules
from linux.packets import Address, Base, Ending, Node, Packet, follow

IPTABLES_NFT, IPTABLES_LEGACY, NFTABLES = "iptables (nf_tables)", "iptables (legacy)", "nftables"
KUBE_TABLE = "kube-proxy"

_COUNTED = re.compile(r"^\[(\d+):(\d+)\] ")
_TABLES = {Family.V4: (1, socket.AF_INET), Family.V6: (1, socket.AF_INET6)}
_LEGACY = {
    Family.V4: Path("/proc/thread-self/net/ip_tables_names"),
    Family.V6: Path("/proc/thread-self/net/ip6_tables_names"),
}
_MIXED = re.compile(r"^# Table `([^']+)' contains incompatible base-chains", re.MULTILINE)
_NUMBERS = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}
_ENTRANCES = (
    (Table.NAT, "KUBE-SERVICES"),
    (Table.NAT, "KUBE-NODEPORTS"),
    (Table.FILTER, "KUBE-SERVICES"),
    (Table.FILTER, "KUBE-EXTERNAL-SERVICES"),
)
_STOCK_MAPS = ("service-ips", "service-nodeports", "no-endpoint-services", "no-endpoint-nodeports")
_OUR_MAPS = ("services-by-ip", "services-by-nodeport", "unserved-by-ip", "unserved-by-nodeport")
_ENTRANCE_MAPS = frozenset([*_STOCK_MAPS, *_OUR_MAPS])
_NAME = re.compile(r"(?<![\w./-])([a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9.-]*(?::[a-z0-9-]+)?)(?![\w/])")


class At(NamedTuple):
    """What a packet is sent to. `address` is None for a node port: any address of the node."""

    address: Address | None
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Entrance:
    """A rule or element that catches packets for one Service port. `packets` counts connections in nat, refusals in
    filter; None where the kernel counts nothing. `name` is empty where nothing says it."""

    at: At
    name: str
    packets: int | None = None
    octets: int | None = None


@dataclass(slots=True)
class Source:
    """One interface's rules. `proxy`: it holds rules of a Kubernetes proxy. `mixed`: tables in which others have base chains
    that iptables does not print."""

    words: str
    snapshot: Snapshot | None = None
    tables: tuple[TableContent, ...] = ()
    counters: Mapping[tuple[Table, str], tuple[tuple[int, int], ...]] = field(default_factory=dict)
    mixed: frozenset[str] = frozenset()

    @property
    def proxy(self) -> bool:
        if self.snapshot is not None:
            return any("KUBE-SERVICES" in chains for chains in self.snapshot.tables.values())
        return any(table.name == KUBE_TABLE for table in self.tables)

    def bases(self, node: Node, version: int) -> Iterator[Base]:
        if self.snapshot is not None:
            yield from IptablesRules(self.snapshot, node, lenient=True).bases()
        yield from NftablesRules(self.tables, version, node, lenient=True).bases()

    def entrances(self) -> Iterator[Entrance]:
        if self.snapshot is not None:
            yield from self._rules(self.snapshot)
        for table in self.tables:
            if table.name == KUBE_TABLE:
                yield from _elements(table)

    def _rules(self, snapshot: Snapshot) -> Iterator[Entrance]:
        for key in _ENTRANCES:
            counted = self.counters.get(key, ())
            for index, line in enumerate(snapshot.lines(*key)):
                rule = parsed(line)
                words = {
                    option.name: option.words[0] for option in rule.options if option.words and not option.inverted
                }
                port, address = words.get("--dport"), words.get("-d")
                if port is None or not port.isdigit() or "--nfacct-name" in line:
                    continue
                where = ip_address(address.partition("/")[0]) if address else None
                packets, octets = counted[index] if index < len(counted) else (None, None)
                yield Entrance(At(where, words.get("-p", ""), int(port)), service_named(rule.comment), packets, octets)


def _elements(table: TableContent) -> Iterator[Entrance]:
    """Elements of the maps that lead to Services: address . protocol . port, or protocol . port for node ports. Every
    field takes four bytes."""
    size = 4 if table.family == socket.AF_INET else 16
    for name, content in table.sets.items():
        about = content.about
        if name not in _ENTRANCE_MAPS or about.key_length not in (size + 8, 8):
            continue
        for counted in content:
            key = counted.element.key
            where = ip_address(key[:size]) if about.key_length == size + 8 else None
            protocol, port = key[-8], int.from_bytes(key[-4:-2], "big")
            said = service_named(counted.element.comment or "") or _of_chain(counted.element.data)
            packets, octets = counted.counter or (None, None)
            yield Entrance(At(where, _NUMBERS.get(protocol, str(protocol)), port), said, packets, octets)


def service_named(text: str) -> str:
    """The service port name in a rule's or element's comment: `namespace/name:port`; empty without one."""
    found = _NAME.search(text)
    return found[1] if found else ""


def _of_chain(data: object) -> str:
    """Stock kube-proxy's nftables mode puts names into its chains': service-HASH8-namespace/name/protocol/port."""
    chain = data[1] if isinstance(data, tuple) else ""
    _, _, rest = str(chain).partition("-")
    parts = rest.partition("-")[2].split("/")
    if len(parts) != 4:
        return ""
    return f"{parts[0]}/{parts[1]}:{parts[3]}" if parts[3] else f"{parts[0]}/{parts[1]}"


@dataclass(slots=True)
class KernelRules:
    """Of one family. `untold` are words about what could not be read."""

    family: Family
    sources: tuple[Source, ...]
    untold: tuple[str, ...] = ()

    @property
    def proxies(self) -> tuple[str, ...]:
        return tuple(source.words for source in self.sources if source.proxy)

    def trace(self, packet: Packet, node: Node) -> frozenset[Ending]:
        """Every way the packet may end; what is not understood becomes a doubt."""
        return follow(self.bases(node), packet, node)

    def bases(self, node: Node) -> list[Base]:
        return [base for source in self.sources for base in source.bases(node, self.family)]

    def entrances(self) -> Iterator[Entrance]:
        for source in self.sources:
            yield from source.entrances()


async def read(family: Family) -> KernelRules:
    """Raises UsageError where the kernel does not let us."""
    sources: list[Source] = []
    untold: list[str] = []
    nft = await _saved(family, "nft", untold)
    if nft is not None:
        sources.append(nft)
    legacy = _LEGACY[family]
    if _content(legacy).split():
        found = await _saved(family, "legacy", untold)
        if found is not None:
            sources.append(found)
    tables = _tables(family, nft)
    if tables:
        sources.append(Source(NFTABLES, tables=tables))
    return KernelRules(family, tuple(source for source in sources if _holds_any(source)), tuple(untold))


def _holds_any(source: Source) -> bool:
    snapshot = source.snapshot
    return bool(source.tables) or (snapshot is not None and any(snapshot.tables.values()))


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: rules are read as root (sudo)") from error


async def _saved(family: Family, flavor: str, untold: list[str]) -> Source | None:
    command = f"{family.command}-{flavor}-save"
    if shutil.which(command) is None:
        untold.append(f"{command} is not on PATH: what it would show is not considered")
        return None
    try:
        done = await process.run([command, "-c"], timeout=120)
    except process.CommandFailed as error:
        raise UsageError(f"{error}: rules are read as root (sudo)") from error
    text = done.stdout.decode(errors="replace")
    plain, counters = counted(text.splitlines())
    words = IPTABLES_NFT if flavor == "nft" else IPTABLES_LEGACY
    return Source(words, parse("\n".join(plain)), counters=counters, mixed=frozenset(_MIXED.findall(text)))


def counted(lines: Iterable[str]) -> tuple[list[str], Mapping[tuple[Table, str], tuple[tuple[int, int], ...]]]:
    """iptables-save -c without its counters, and they: (packets, bytes) of each rule of the chains that catch Services."""
    plain: list[str] = []
    found: dict[tuple[Table, str], list[tuple[int, int]]] = {key: [] for key in _ENTRANCES}
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:].strip()
        counter = _COUNTED.match(line)
        if counter is None:
            plain.append(line)
            continue
        rule = line[counter.end() :]
        plain.append(rule)
        chain = rule.split(" ", 2)[1]
        key = next((each for each in _ENTRANCES if each[0] == table and each[1] == chain), None)
        if key is not None:
            found[key].append((int(counter[1]), int(counter[2])))
    return plain, {key: tuple(each) for key, each in found.items()}


def _tables(family: Family, iptables: Source | None) -> tuple[TableContent, ...]:
    """Tables of this family and of inet that iptables did not print, or not all of."""
    snapshot = iptables.snapshot if iptables is not None else None
    printed = {table.value: chains for table, chains in snapshot.tables.items() if chains} if snapshot else {}
    mixed = iptables.mixed if iptables is not None else frozenset()
    ruleset = Ruleset()
    try:
        connection = Connection()
    except OSError as error:
        raise UsageError(f"nf_tables cannot be asked: {error.strerror}: rules are read as root (sudo)") from error
    with connection:
        try:
            for kind in _TABLES[family]:
                for table in connection.tables(kind):
                    known = printed.get(table.name, {}) if FAMILIES[kind] in ("ip", "ip6") else {}
                    if known and table.name not in mixed:
                        continue
                    ruleset.take(connection.raw(kind, table.name))
                    if known:
                        _forget_bases(ruleset.tables[kind, table.name], known)
        except Refused as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise UsageError(f"nf_tables: {error}: rules are read as root (sudo)") from error
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT):
                raise
    return tuple(ruleset.tables.values())


def _forget_bases(table: TableContent, known: Iterable[str]) -> None:
    """What iptables printed is met in its words; other base chains may still jump to the rest."""
    for name in known:
        if name in table.chains and table.chains[name].about.hook is not None:
            del table.chains[name]
