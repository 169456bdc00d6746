"""The rules of --ip-masq: flannel's chains, under flannel's names.

    nat     POSTROUTING -> FLANNEL-POSTRTG (last)
        mark 0x4000/0x4000                  RETURN       kube-proxy masquerades those itself
        from our pods to the network        RETURN       pod to pod: the source is kept
        from the network to our pods        RETURN
        from elsewhere to our pods          RETURN       NodePort traffic that has reached its node
        from the network to elsewhere       MASQUERADE   (multicast aside) the world cannot answer a pod's address
        from elsewhere to the network       MASQUERADE   so that the answer comes back through this node
    filter  FORWARD -> FLANNEL-FWD (last)
        from or to the network              ACCEPT       even where the policy is DROP, as dockerd sets it

Jumps are appended, as flannel does: kube-proxy puts its own first, and must see a packet before we return it. The chains
are ours whole and are compared whole, by the stamp in their first rule.
"""

from ipaddress import IPv4Network

from linux.iptables.changes import Key, Wanted, changes, missing, removals
from linux.iptables.restore import PacketFilter
from linux.iptables.rules import Chain, Jump, Position, Rule, Table

NAT_CHAIN = "FLANNEL-POSTRTG"
FILTER_CHAIN = "FLANNEL-FWD"
_MASQ = "flanneld masq"
_FORWARD = "flanneld forward"


def wanted(network: IPv4Network, subnet: IPv4Network, *, random_fully: bool) -> Wanted:
    masquerade = "-j MASQUERADE --random-fully" if random_fully else "-j MASQUERADE"
    nat = Chain(
        Table.NAT,
        NAT_CHAIN,
        tuple(
            Rule(spec, _MASQ)
            for spec in (
                "-m mark --mark 0x4000/0x4000 -j RETURN",
                f"-s {subnet} -d {network} -j RETURN",
                f"-s {network} -d {subnet} -j RETURN",
                f"! -s {network} -d {subnet} -j RETURN",
                f"-s {network} ! -d 224.0.0.0/4 {masquerade}",
                f"! -s {network} -d {network} {masquerade}",
            )
        ),
    )
    forward = Chain(
        Table.FILTER,
        FILTER_CHAIN,
        (Rule(f"-s {network} -j ACCEPT", _FORWARD), Rule(f"-d {network} -j ACCEPT", _FORWARD)),
    )
    jumps = (
        Jump(Table.NAT, "POSTROUTING", Rule(f"-j {NAT_CHAIN}", _MASQ), Position.LAST),
        Jump(Table.FILTER, "FORWARD", Rule(f"-j {FILTER_CHAIN}", _FORWARD), Position.LAST),
    )
    return Wanted(groups=[[nat], [forward]], jumps=jumps, owns=owns)


def owns(key: Key) -> bool:
    return key in ((Table.NAT, NAT_CHAIN), (Table.FILTER, FILTER_CHAIN))


async def sync(rules: PacketFilter, wish: Wanted) -> list[str]:
    """Write what differs; the chains and jumps that were written, by name. Raises what the filter raises."""
    snapshot = await rules.read(Table.NAT, Table.FILTER)
    absent = missing(wish.jumps, snapshot)
    todo = changes(wish, snapshot.marks(), absent, chains_per_section=rules.chains_per_section)
    if todo.writes:
        await rules.write(todo.writes)
    return [chain.name for section in todo.writes for chain in section.chains] + [
        f"{jump.chain} -> {jump.rule.target}" for jump in absent
    ]


async def remove(rules: PacketFilter, *, stamped_only: bool = False) -> bool:
    """Take the chains and the jumps to them away; whether there were any. With `stamped_only` not those of a stock flannel,
    which have flannel's names but not our stamp."""
    snapshot = await rules.read(Table.NAT, Table.FILTER)
    if stamped_only and not any(mark.stamp for key, mark in snapshot.marks().items() if owns(key)):
        return False
    todo = removals(snapshot, owns, chains_per_section=rules.chains_per_section)
    await rules.write(todo)
    return bool(todo)
