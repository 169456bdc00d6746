"""hostPort by nftables: the reference plugin's table ``cni_hostport``, one in each family, and its chains.

    prerouting, output (dstnat)   -> hostip_hostports; if the destination is the node's own: -> hostports
    hostip_hostports, hostports   rules of the containers, the newest first: mark what needs it, then dnat
    masquerading (srcnat)         rules of the containers: what is marked and goes to the pod
    attachments                   on no hook: a note for each container of a network, with its address there

Each rule carries its container's name as comment, which is how it is found again, ours and the reference's alike: the two can
follow each other. Three of the reference's wounds are not copied: a container that is in two networks loses one's ports by the
ADD or DEL of the other (what another network's note names is let alone here); its prerouting redirects also what only passes
through the node to that port elsewhere; and a neighbour on the pod's bridge, whose answers would come straight from the pod,
is not masqueraded.

A call reads the table and writes one transaction, which replaces what the container had.
"""

from __future__ import annotations

import itertools

from cni.codec import decode
from cni.digest import digest
from cni.hostports.rule import DNAT, MARK, MASQUERADE, NOTE, Rule, jumps, read
from cni.nat import is_nowhere
from cni.spec import IO_FAILURE, NOT_AVAILABLE, CniError
from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

    from cni.codec import Json
    from cni.hostports.mapping import Pod, Port, Wish
    from cni.nat import Host
    from linux.spawn import Ended

TABLE = "cni_hostport"
_HELD = ("hostip_hostports", "hostports", "masquerading", "attachments")
_BASE = {
    "prerouting": "nat hook prerouting priority -100",
    "output": "nat hook output priority -100",
    "masquerading": "nat hook postrouting priority 100",
}
_PATIENCE = 60.0
_ATTEMPTS = 5
_LONGEST = 100  # of 127 characters that a comment can have; "attachments" has 17 more


class Table:
    """One family's table in the thread's network namespace. CniError when nft is not installed."""

    __slots__ = ("_host", "_nft", "family", "name")

    def __init__(self, family: int, host: Host) -> None:
        program = host.find("nft")
        if program is None:
            raise CniError(
                NOT_AVAILABLE, 'nft is not on PATH: install the package nftables, or say "backend": "iptables"'
            )
        self.family: Final = family
        self.name: Final = f"{'ip' if family == 4 else 'ip6'} {TABLE}"
        self._nft: Final = program
        self._host: Final = host

    def rules(self) -> list[Rule]:
        """The containers' rules, chain by chain in their order; none where there is no table."""
        found = [rule for each in self.listed("rule") if (rule := read(each)).chain in _HELD]
        for rule, behind in reversed(list(itertools.pairwise(found))):
            if rule.action == MARK and (rule.chain, rule.comment) == (behind.chain, behind.comment):
                rule.pod = behind.pod
        return found

    def listed(self, kind: str) -> list[Mapping[str, Json]]:
        """What the table has of this kind ("rule", "chain"), as nft lists it."""
        ended = self._run("-j", "-a", "list", "table", *self.name.split())
        if ended.status:
            if is_nowhere(str(ended)):
                return []
            raise CniError(IO_FAILURE, str(ended))
        try:
            said = decode(ended.stdout)
        except ValueError as error:
            raise CniError(IO_FAILURE, f"nft's list of the table {self.name}: {error}") from None
        listed = said.get("nftables") if isinstance(said, dict) else None
        found = [each.get(kind) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        return [each for each in found if isinstance(each, dict)]

    def write(self, lines: Iterable[str]) -> str:
        """One transaction; "" or why it was refused, and then nothing of it was done."""
        text = "".join(f"{line}\n" for line in lines)
        ended = self._run("-f", "-", text=text)
        return str(ended) if ended.status else ""

    def usable(self) -> str:
        ended = self._run("list", "tables")
        return str(ended) if ended.status else ""

    def _run(self, *words: str, text: str = "") -> Ended:
        return self._host.run([self._nft, *words], text, timeout=_PATIENCE)


def comment_of(container: str) -> str:
    return container if len(container) <= _LONGEST else digest(container)[:64]


def note_of(network: str, container: str) -> str:
    return f"{digest(network)[:16]} {comment_of(container)}"


def structure(table: Table, wish: Wish) -> list[str]:
    """What all containers share, made or made anew."""
    name = table.name
    where = "".join(f"{word} " for word in wish.conditions.get(table.family, ()))
    lines = [f'add table {name} {{ comment "CNI portmap plugin"; }}']
    lines += [f"add chain {name} {chain}" for chain in _HELD if chain not in _BASE]
    lines += [f"add chain {name} {chain} {{ type {kind}; }}" for chain, kind in _BASE.items()]
    for chain in ("prerouting", "output"):
        lines.append(f"flush chain {name} {chain}")
        lines.append(f"add rule {name} {chain} {where}jump hostip_hostports")
        lines.append(f"add rule {name} {chain} {where}fib daddr type local jump hostports")
    return lines


def rules_of(wish: Wish, pod: Pod) -> list[Rule]:
    """Those of one container, in their order."""
    found = [rule for port in wish.of(pod.family) for rule in _rules_of(wish, pod, port)]
    if wish.snat and found:
        found.append(Rule("masquerading", MASQUERADE, destination=pod.address, mark=wish.mark))
    return found


def _rules_of(wish: Wish, pod: Pod, port: Port) -> list[Rule]:
    chain = "hostip_hostports" if port.address else "hostports"
    address = unpacked(packed(pod.address))  # spelt as nft spells it
    target = f"[{address}]:{port.pod}" if pod.family == 6 else f"{address}:{port.pod}"
    sources: list[str] = []
    if wish.snat and wish.everything:
        sources = [""]
    elif wish.snat:
        sources = [pod.range] if pod.family == 6 else [pod.range, "127.0.0.1"]

    def rule(action: str, source: str = "", mark: int = 0, target: str = "") -> Rule:
        return Rule(
            chain,
            action,
            source=source,
            destination=port.address,
            protocol=port.protocol,
            port=port.host,
            mark=mark,
            target=target,
        )

    return [*(rule(MARK, source, wish.mark) for source in sources), rule(DNAT, target=target)]


def forward(wish: Wish, pod: Pod, host: Host) -> None:
    """The pod's ports lead to it."""
    table, note = Table(pod.family, host), note_of(wish.network, wish.container)
    comment = comment_of(wish.container)
    made = [
        f'insert rule {table.name} {rule.chain} {rule.text()} comment "{comment}"'
        for rule in reversed(rules_of(wish, pod))
    ]
    noted = Rule("attachments", NOTE, destination=pod.address)
    made.append(f'add rule {table.name} {noted.chain} {noted.text()} comment "{note}"')
    refusal = ""
    for _ in range(_ATTEMPTS):
        refusal = table.write([*structure(table, wish), *_removals(table, {note}), *made])
        if not refusal:
            return
    raise CniError(IO_FAILURE, f"hostPort rules for container {wish.container}: {refusal}")


def unforward(wish: Wish, family: int, pod: Pod | None, host: Host) -> bool:
    """Removes what the container has of this network, whatever its addresses are; whether there was something to remove."""
    del pod
    return _remove(Table(family, host), {note_of(wish.network, wish.container)})


def differences(wish: Wish, pod: Pod, host: Host) -> list[str]:
    """The rules that are not there, in words: the container's, and the way that leads to them."""
    table = Table(pod.family, host)
    mine = [rule.meaning for rule in table.rules() if rule.comment == comment_of(wish.container)]
    missing = []
    for rule in rules_of(wish, pod):
        if rule.meaning in mine:
            mine.remove(rule.meaning)
        else:
            missing.append(f"table {table.name}: no rule in {rule.chain}: {rule.text()}")
    hooked = {each.get("name") for each in table.listed("chain") if each.get("hook")}
    missing += [f"table {table.name}: no chain {chain} with a hook" for chain in _BASE if chain not in hooked]
    shared = table.listed("rule")
    for chain in ("prerouting", "output"):
        reached = {target for each in shared if each.get("chain") == chain for target in jumps(each)}
        missing += [
            f"table {table.name}: no rule in {chain}: jump {target}"
            for target in ("hostip_hostports", "hostports")
            if target not in reached
        ]
    return missing


def collect(network: str, containers: Iterable[str], family: int, host: Host) -> None:
    """Removes the network's rules of all containers but these."""
    table = Table(family, host)
    valid = {note_of(network, container) for container in containers}
    head = f"{digest(network)[:16]} "
    noted = {rule.comment for rule in table.rules() if rule.chain == "attachments" and rule.comment.startswith(head)}
    if noted - valid:
        _remove(table, noted - valid)


def obstacle(host: Host) -> str:
    """Why no hostPort can be had, in the command's words; "" when it can."""
    return Table(4, host).usable()


def _remove(table: Table, notes: set[str]) -> bool:
    refusal = ""
    for _ in range(_ATTEMPTS):
        gone = _removals(table, notes)
        refusal = table.write(gone) if gone else ""
        if not refusal:
            return bool(gone)
    raise CniError(IO_FAILURE, f"removing hostPort rules: {refusal}")


def _removals(table: Table, notes: set[str]) -> list[str]:
    """What takes away these notes and their containers' rules, but for addresses that another network's notes name."""
    rules, containers = table.rules(), {note.partition(" ")[2] for note in notes}
    kept = {
        (rule.comment.partition(" ")[2], rule.pod)
        for rule in rules
        if rule.chain == "attachments" and rule.comment not in notes and rule.pod
    }
    return [
        f"delete rule {table.name} {rule.chain} handle {rule.handle}"
        for rule in rules
        if rule.comment in notes
        or (rule.chain != "attachments" and rule.comment in containers and (rule.comment, rule.pod) not in kept)
    ]
