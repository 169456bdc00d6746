"""Our table in the kernel: reading it, and the transactions that carry out what `shadow` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from linux.iptables.rules import Family
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection
from linux.nftables.elements import DROP, GOTO, Element, Verdict
from linux.nftables.objects import MAP, VERDICT_TYPE, Chain, Rule, Set
from proxy.nftables import chains
from proxy.nftables.layout import TABLE, VALUES, VERDICTS, Map, socket_family
from proxy.nftables.plan import Layout, Leads, Value
from proxy.nftables.shadow import ChainSeen, Delta, Seen

_DROPPED = Verdict(DROP)
_DORMANT = 1  # NFT_TABLE_F_*
_GONE = "table kube-proxy was gone"


def read(connection: Connection, family: Family, layout: Layout) -> Seen:
    """Blocks for some 8 µs an element. Raises Refused."""
    number = socket_family(family)
    table = next((each for each in connection.tables(number) if each.name == TABLE), None)
    if table is None:
        return Seen(_GONE)
    if table.flags & _DORMANT:
        return Seen("table kube-proxy was switched off")
    sets = {each.name: each for each in connection.sets(number, TABLE)}
    wanted = {each.name: each for each in layout.sets(family)}
    made_as = table.comment  # kernels before 5.10 keep none: there the first of the fallback's sets has it
    if made_as is None and next(iter(wanted)) in sets:
        made_as = sets[next(iter(wanted))].comment
    if made_as != layout.name:
        return Seen(f"table kube-proxy was somebody else's ({made_as or 'no comment'})")
    for name, shape in wanted.items():
        if name not in sets or _shape(sets[name]) != _shape(shape):
            return Seen(f"map {name} was gone" if name not in sets else f"map {name} was of another kind")
    seen = Seen(
        "", _chains(connection.chains(number, TABLE), connection.rules(number, TABLE, decoded=False)), frozenset(sets)
    )
    seen.maps = tuple(_content(connection, number, which) if which.title in wanted else {} for which in Map)
    return seen


def _shape(found: Set) -> tuple[object, ...]:
    length = 0 if found.data_type == VERDICT_TYPE else found.data_length
    return found.key_length, found.data_type, length, found.flags & ~MAP, found.counts


def _chains(found: Iterable[Chain], rules: Iterable[Rule]) -> dict[str, ChainSeen]:
    counts: dict[str, int] = {}
    stamps: dict[str, str] = {}
    for rule in rules:
        stamp = chains.stamp_of(rule.comment)
        if stamps.setdefault(rule.chain, stamp) != stamp:
            stamps[rule.chain] = ""  # a rule of somebody else
        counts[rule.chain] = counts.get(rule.chain, 0) + 1
    return {chain.name: ChainSeen(stamps.get(chain.name, ""), counts.get(chain.name, 0), chain.hook) for chain in found}


def _content(connection: Connection, number: int, which: Map) -> dict[bytes, Value]:
    if which in VALUES:
        return {**connection.pairs(number, TABLE, which.title)}
    found = connection.elements(number, TABLE, which.title)
    if which in VERDICTS:
        return {element.key: _leads(element) for element, _ in found}
    return {element.key: None for element, _ in found}


def _leads(element: Element) -> Leads:
    data = element.data
    if isinstance(data, Verdict) and data.code in (GOTO, DROP):
        return Leads(data.chain, element.comment or "")
    return Leads("?", "")  # nothing that we would write


def batch(delta: Delta, family: Family, layout: Layout, table: str = TABLE) -> Batch:
    """All of it but what is idle, as one transaction."""
    made = Batch(socket_family(family), table)
    if delta.rebuild:
        made.add_table()
        made.delete_table()
        made.add_table(comment=layout.name)
    for each in delta.sets:
        made.add_set(each)
    for chain in delta.chains:
        made.add_chain(chain.name, chain.hook)
        if not delta.rebuild:
            made.flush_chain(chain.name)
    for chain in delta.chains:
        for rule, comment in zip(chain.rules, chain.comments(), strict=True):
            made.add_rule(chain.name, rule.expressions, comment=comment or None)
    for which in Map:
        if delta.gone[which]:
            made.delete_elements(which.title, (Element(key) for key in delta.gone[which]))
    for which in Map:
        put = delta.put[which]
        if which in VALUES:
            made.add_pairs(which.title, [(key, value) for key, value in put if isinstance(value, bytes)])
        elif put:
            made.add_elements(which.title, _elements(put))
    return made


def _elements(put: Iterable[tuple[bytes, Value]]) -> Iterator[Element]:
    """Of sets and verdict maps."""
    for key, value in put:
        if isinstance(value, Leads):
            verdict = Verdict(GOTO, value.chain) if value.chain else _DROPPED
            yield Element(key, verdict, comment=value.about)
        else:
            yield Element(key)


def idle(delta: Delta, family: Family) -> Iterator[Batch]:
    """What nothing leads to any more. Emptied first: kernels before 6.2 hold on to what a deleted rule led to for a while."""
    if not delta.idle and not delta.idle_sets:
        return
    emptied, deleted = Batch(socket_family(family), TABLE), Batch(socket_family(family), TABLE)
    for name in delta.idle:
        emptied.flush_chain(name)
    for name in delta.idle_sets:  # their elements may lead into those chains
        deleted.delete_set(name)
    for name in delta.idle:
        deleted.delete_chain(name)
    yield emptied
    yield deleted
