"""hostPort by iptables: the reference plugin's own chains, names, comments and order, so that the two can follow each other.

    nat PREROUTING, OUTPUT   -m addrtype --dst-type LOCAL                       -> CNI-HOSTPORT-DNAT    appended: Services first
    nat CNI-HOSTPORT-DNAT    "dnat name: NETWORK id: CONTAINER" tcp 8080,8443   -> CNI-DN-<hash>        the newest first
    nat CNI-DN-<hash>        tcp 8080 from the pod's range                      -> CNI-HOSTPORT-SETMARK
                             tcp 8080 from 127.0.0.1                            -> CNI-HOSTPORT-SETMARK
                             tcp 8080                                           DNAT to 10.244.1.7:80
    nat CNI-HOSTPORT-SETMARK                                                    mark 0x2000
    nat POSTROUTING                                                             -> CNI-HOSTPORT-MASQ    prepended: before all who
    nat CNI-HOSTPORT-MASQ    mark 0x2000                                        MASQUERADE              say RETURN for pods

The mark is set for packets whose answers would not come back this way: a pod on the same bridge answers its neighbour
directly, itself included, and nobody can answer 127.0.0.1.

A call is one ``iptables-restore --noflush``, one transaction: the lines assert (``-C``) what all containers share, make the
container's chain anew (``-N`` refuses one that is there) and jump to it. Where that is refused, because something is
missing or left over, the chains are read and what differs is written. A chain that is shared is never written whole: it
holds others' jumps.
"""

from __future__ import annotations

from cni.digest import digest
from cni.nat import Tables
from cni.spec import IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni.hostports.mapping import Pod, Port, Wish
    from cni.nat import Host

DNAT, SETMARK, MASQ = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"
_ATTEMPTS = 5
_AT_ONCE = 15  # ports that one multiport match can hold
_LONGEST_COMMENT = 255


def chain_of(network: str, container: str) -> str:
    return "CNI-DN-" + digest(network + container)[:21]


def shared(wish: Wish) -> list[tuple[str, str, str]]:
    """(how, chain, rule) of what all containers share, in the order in which it is made."""
    rules = []
    if wish.snat and not wish.marker:
        mark = f"{wish.mark:#x}/{wish.mark:#x}"
        marking = f'-m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}'
        jump = f'-m comment --comment "CNI portfwd requiring masquerade" -j {MASQ}'
        rules += [
            ("-A", SETMARK, marking),
            ("-A", MASQ, f"-m mark --mark {mark} -j MASQUERADE"),
            ("-I", "POSTROUTING", jump),
        ]
    entry = f"-m addrtype --dst-type LOCAL -j {DNAT}"
    return [*rules, ("-A", "PREROUTING", entry), ("-A", "OUTPUT", entry)]


def entries(wish: Wish, pod: Pod) -> list[str]:
    """The jumps into the container's chain, in the order in which they shall stand."""
    comment = f'dnat name: "{wish.network}" id: "{wish.container}"'
    if len(comment) > _LONGEST_COMMENT:
        comment = comment[: _LONGEST_COMMENT - 2] + "..."[:2]
    quoted = comment.replace('"', '\\"')
    words = "".join(f" {_quoted(word)}" for word in wish.conditions.get(pod.family, ()))
    chain, found = chain_of(wish.network, wish.container), []
    ports = wish.of(pod.family)
    for protocol in sorted({port.protocol for port in ports}):
        numbers = list(dict.fromkeys(port.host for port in ports if port.protocol == protocol))
        for start in range(0, len(numbers), _AT_ONCE):
            listed = ",".join(map(str, numbers[start : start + _AT_ONCE]))
            head = f'-m comment --comment "{quoted}" -m multiport -p {protocol} --destination-ports {listed}'
            found.append(f"{head}{words} -j {chain}")
    return found


def rules_of(wish: Wish, pod: Pod) -> list[str]:
    """The container's chain."""
    return [rule for port in wish.of(pod.family) for rule in _rules_of(wish, pod, port)]


def _rules_of(wish: Wish, pod: Pod, port: Port) -> list[str]:
    head = f"-p {port.protocol} --dport {port.host}" + (f" -d {port.address}" if port.address else "")
    target = f"[{pod.address}]:{port.pod}" if pod.family == 6 else f"{pod.address}:{port.pod}"
    sources: list[str] = []
    if wish.snat and wish.everything:
        sources = ["::/0" if pod.family == 6 else "0.0.0.0/0"]
    elif wish.snat:
        sources = [pod.range] if pod.family == 6 else [pod.range, "127.0.0.1"]
    marks = [f"{head} -s {source} -j {wish.marker or SETMARK}" for source in sources]
    return [*marks, f"{head} -j DNAT --to-destination {target}"]


def forward(wish: Wish, pod: Pod, host: Host) -> None:
    """The pod's ports lead to it."""
    tables = Tables(pod.family, host)
    chain = chain_of(wish.network, wish.container)
    own = [f"-A {chain} {rule}" for rule in rules_of(wish, pod)]
    jumps = [f"-I {DNAT} 1 {rule}" for rule in reversed(entries(wish, pod))]
    asserted = [f"-C {where} {rule}" for _, where, rule in shared(wish)]
    refusal = tables.write([*asserted, f"-N {chain}", *own, *jumps])
    if not refusal:
        return
    for _ in range(_ATTEMPTS):
        refusal = tables.write([*_repair(tables, wish), *_cleared(tables, chain), f"-N {chain}", *own, *jumps])
        if not refusal:
            return
    raise CniError(IO_FAILURE, f"hostPort rules for container {wish.container}: {refusal}")


def obstacle(host: Host) -> str:
    """Why no hostPort can be had, in the command's words; "" when it can."""
    return Tables(4, host).usable()


def _repair(tables: Tables, wish: Wish) -> list[str]:
    """What makes the shared part whole."""
    wanted = shared(wish)
    ours = [DNAT, *(chain for _, chain, _ in wanted if chain in (SETMARK, MASQ))]
    made = [chain for chain in ours if tables.rules(chain) is None]
    missing = [f"{how} {where} {rule}" for how, where, rule in wanted if where in made or not tables.holds(where, rule)]
    return [*(f"-N {chain}" for chain in made), *missing]


def _cleared(tables: Tables, chain: str) -> list[str]:
    """What removes a container's chain and the jumps to it, as they are now."""
    jumps = [rule for rule in tables.rules(DNAT) or () if rule.endswith(f" -j {chain}")]
    gone = [f"-D {DNAT} {rule}" for rule in jumps]
    return gone if tables.rules(chain) is None else [*gone, f"-F {chain}", f"-X {chain}"]


def unforward(wish: Wish, family: int, pod: Pod | None, host: Host) -> bool:
    """Removes the container's chain and its jumps; whether there was something to remove."""
    tables = Tables(family, host)
    chain = chain_of(wish.network, wish.container)
    if pod is not None and wish.of(family):  # then it is known what there should be, and there is no need to read first
        jumps = [f"-D {DNAT} {rule}" for rule in entries(wish, pod)]
        if not tables.write([*jumps, f"-F {chain}", f"-X {chain}"]):
            return True
    refusal = ""
    for _ in range(_ATTEMPTS):
        gone = _cleared(tables, chain)
        refusal = tables.write(gone) if gone else ""
        if not refusal:
            return bool(gone)
    raise CniError(IO_FAILURE, f"removing the hostPort rules of container {wish.container}: {refusal}")


def differences(wish: Wish, pod: Pod, host: Host) -> list[str]:
    """The rules that are not there, in words."""
    tables = Tables(pod.family, host)
    chain = chain_of(wish.network, wish.container)
    wanted = [(where, rule) for _, where, rule in shared(wish)]
    wanted += [(DNAT, rule) for rule in entries(wish, pod)]
    wanted += [(chain, rule) for rule in rules_of(wish, pod)]
    if not tables.write([f"-C {where} {rule}" for where, rule in wanted]):
        return []
    return [
        f"nat table of IPv{tables.family}: no rule in {where}: {rule}"
        for where, rule in wanted
        if not tables.holds(where, rule)
    ]


def collect(network: str, containers: Iterable[str], family: int, host: Host) -> None:
    """Removes the network's rules of all containers but these."""
    tables = Tables(family, host)
    valid = {chain_of(network, container) for container in containers}
    # The command prints a comment with its quotes escaped.
    stale = {
        rule.rpartition(" -j ")[2] for rule in tables.rules(DNAT) or () if f'dnat name: \\"{network}\\" id: ' in rule
    } - valid
    for chain in sorted(stale):
        gone = _cleared(tables, chain)
        refusal = tables.write(gone) if gone else ""
        if refusal and tables.rules(chain) is not None:
            raise CniError(IO_FAILURE, f"removing hostPort rules that nobody owns: {refusal}")


def _quoted(word: str) -> str:
    if not any(each.isspace() or each in "\"'\\" for each in word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
