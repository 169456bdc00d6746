"""hostPort by nftables: the reference plugin's table ``cni_hostport``, one in each family, and its chains.

    prerouting, output (dstnat)   -> hostip_hostports; if the destination is the node's own: -> hostports
    hostip_hostports, hostports   rules of the containers, the newest first: mark what needs it, then dnat
    masquerading (srcnat)         rules of the containers: what is marked and goes to the pod
    attachments                   on no hook: a note for each container, of which network it is (the reference has none)

Each rule carries its container's name as comment, which is how it is found again, ours and the reference's alike: the two can
follow each other. Two of the reference's wounds are not copied: its prerouting redirects also what only passes through the
node to that port elsewhere, and a neighbour on the pod's bridge, whose answers would come straight from the pod, is not
masqueraded.

A call reads the table and writes one transaction, which replaces what the container had.
"""

from __future__ import annotations

from cni.codec import decode
from cni.digest import digest
from cni.spec import IO_FAILURE, NOT_AVAILABLE, CniError

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


class Found:
    """A rule in the kernel: where, its number, its comment, and where it sends packets to ("10.244.1.7:80")."""

    __slots__ = ("chain", "comment", "handle", "target")

    def __init__(self, said: Mapping[str, Json]) -> None:
        self.chain: Final = str(said.get("chain"))
        self.handle: Final = said.get("handle")
        self.comment: Final = str(said.get("comment", ""))
        self.target: Final = _target(said.get("expr"))


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

    def rules(self) -> list[Found]:
        """The containers' rules; none where there is no table."""
        ended = self._run("-j", "-a", "list", "table", *self.name.split())
        if ended.status:
            if b"No such file" in ended.stderr:
                return []
            raise CniError(IO_FAILURE, str(ended))
        try:
            said = decode(ended.stdout)
        except ValueError as error:
            raise CniError(IO_FAILURE, f"nft's list of the table {self.name}: {error}") from None
        listed = said.get("nftables") if isinstance(said, dict) else None
        rules = (
            [each.get("rule") for each in listed or () if isinstance(each, dict)] if isinstance(listed, list) else []
        )
        return [found for rule in rules if isinstance(rule, dict) and (found := Found(rule)).chain in _HELD]

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


def rules_of(wish: Wish, pod: Pod) -> list[tuple[str, str, str]]:
    """(chain, rule, where it sends packets to or "") of one container, in their order."""
    found = [rule for port in wish.of(pod.family) for rule in _rules_of(wish, pod, port)]
    if wish.snat and found:
        ip = "ip6" if pod.family == 6 else "ip"
        mark = f"{wish.mark:#x}"
        rule = f"meta mark & {mark} == {mark} {ip} daddr {pod.address} masquerade"
        found.append(("masquerading", rule, ""))
    return found


def _rules_of(wish: Wish, pod: Pod, port: Port) -> list[tuple[str, str, str]]:
    ip = "ip6" if pod.family == 6 else "ip"
    chain = "hostip_hostports" if port.address else "hostports"
    head = (f"{ip} daddr {port.address} " if port.address else "") + f"{port.protocol} dport {port.host}"
    target = f"[{pod.address}]:{port.pod}" if pod.family == 6 else f"{pod.address}:{port.pod}"
    sources: list[str] = []
    if wish.snat and wish.everything:
        sources = [""]
    elif wish.snat:
        sources = [f"{ip} saddr {source} " for source in ([pod.range] if pod.family == 6 else [pod.range, "127.0.0.1"])]
    mark = f"meta mark set meta mark | {wish.mark:#x}"
    return [*((chain, f"{source}{head} {mark}", "") for source in sources), (chain, f"{head} dnat to {target}", target)]


def forward(wish: Wish, pod: Pod, host: Host) -> None:
    """The pod's ports lead to it."""
    table = Table(pod.family, host)
    comment = comment_of(wish.container)
    rules = rules_of(wish, pod)
    made = [
        f'insert rule {table.name} {chain} {rule} comment "{comment}"' for chain, rule, _ in reversed(rules) if rules
    ]
    note = f'add rule {table.name} attachments continue comment "{note_of(wish.network, wish.container)}"'
    refusal = ""
    for _ in range(_ATTEMPTS):
        gone = _removals(table, {comment, note_of(wish.network, wish.container)})
        refusal = table.write([*structure(table, wish), *gone, *made, note])
        if not refusal:
            return
    raise CniError(IO_FAILURE, f"hostPort rules for container {wish.container}: {refusal}")


def unforward(wish: Wish, family: int, pod: Pod | None, host: Host) -> bool:
    """Removes the container's rules, whatever their addresses are; whether there was something to remove."""
    del pod
    return _remove(Table(family, host), {comment_of(wish.container), note_of(wish.network, wish.container)})


def differences(wish: Wish, pod: Pod, host: Host) -> list[str]:
    """The rules that are not there, in words."""
    table = Table(pod.family, host)
    rules = table.rules()
    mine = [(each.chain, each.target) for each in rules if each.comment == comment_of(wish.container)]
    missing = []
    for chain, rule, target in rules_of(wish, pod):
        if (chain, target) in mine:
            mine.remove((chain, target))
        else:
            missing.append(f"table {table.name}: no rule in {chain}: {rule}")
    return missing


def collect(network: str, containers: Iterable[str], family: int, host: Host) -> None:
    """Removes the network's rules of all containers but these."""
    table = Table(family, host)
    valid = {note_of(network, container) for container in containers}
    head = f"{digest(network)[:16]} "
    stale = {
        each.comment
        for each in table.rules()
        if each.chain == "attachments" and each.comment.startswith(head) and each.comment not in valid
    }
    _remove(table, stale | {comment.removeprefix(head) for comment in stale})


def obstacle(host: Host) -> str:
    """Why no hostPort can be had, in the command's words; "" when it can."""
    return Table(4, host).usable()


def _remove(table: Table, comments: set[str]) -> bool:
    refusal = ""
    for _ in range(_ATTEMPTS):
        gone = _removals(table, comments)
        refusal = table.write(gone) if gone else ""
        if not refusal:
            return bool(gone)
    raise CniError(IO_FAILURE, f"removing hostPort rules: {refusal}")


def _removals(table: Table, comments: set[str]) -> list[str]:
    return [
        f"delete rule {table.name} {each.chain} handle {each.handle}"
        for each in table.rules()
        if each.comment in comments
    ]


def _target(expressions: Json) -> str:
    for each in expressions if isinstance(expressions, list) else ():
        said = each.get("dnat") if isinstance(each, dict) else None
        if isinstance(said, dict):
            address, port = said.get("addr"), said.get("port")
            return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    return ""
