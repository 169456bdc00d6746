"""One look at one tunnel: what the nodes claim and what the kernel has -> wish -> plan.

It changes nothing: the daemon carries the steps out, and `wherry overlay show` tells them.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from linux import links, routes
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay import observe, plan, wish
from overlay.drift import interface_words
from overlay.model import OURS, Action, Address, Here, Lease, NotYet, Range, Seen, Tunnel
from overlay.netconf import Network
from overlay.situation import Standing
from overlay.wish import Wish

_TURN = 100
"""Peers that are asked about before the event loop gets its turn."""


@dataclass(frozen=True, slots=True)
class Look:
    """`own`: this node's leases in the tunnel's families; `steps` lead from what is `seen` to the wish."""

    own: Mapping[Family, Lease]
    wish: Wish
    seen: Seen
    steps: tuple[Action, ...]


def pods(tunnel: Tunnel, net: Network) -> tuple[Range, ...]:
    """The networks of the pods that the tunnel carries."""
    return tuple(one for family in tunnel.families if (one := net.pods(family)) is not None)


async def look(
    ip: Conversation,
    tunnel: Tunnel,
    net: Network,
    leases: Iterable[Lease],
    standing: Standing,
    *,
    blackhole: bool,
) -> Look:
    """`leases`: what the other nodes claim. Raises NotYet, OSError."""
    families = tunnel.families
    if lacking := [words for family in families if (words := standing.missing.get(family))]:
        raise NotYet("; ".join(dict.fromkeys(lacking)))
    own = {family: standing.own[family] for family in families}
    theirs = [lease for lease in leases if lease.family in families]
    seen = await observe.kernel(ip, tunnel, pods(tunnel, net))
    direct = await _reached(ip, theirs) if wish.asks_direct(net) else {}
    elsewhere = _elsewhere(ip, seen)
    here = {
        family: Here(standing.bases[family], direct, elsewhere, standing.private_key, blackhole) for family in families
    }
    found = wish.wish(tunnel, own, theirs, net, here)
    return Look(own, found, seen, tuple(plan.actions(found.wanted, seen)))


def _elsewhere(ip: Conversation, seen: Seen) -> dict[Address, str]:
    """Addresses of this node that pods cannot have, by those of the pods' bridge and the like; and the interfaces' names."""
    strays = {index for index, _ in seen.strays}
    others = (one for one in seen.addresses if one.device not in (OURS, *strays) and not one.leads_nowhere)
    names: dict[int, str] = {}
    found: dict[Address, str] = {}
    for one in sorted(others, key=lambda one: (one.device, one.interface.version, one.interface.ip)):
        if one.device not in names:
            link = links.link_at(ip, one.device)
            names[one.device] = link.name if link is not None else interface_words(one.device)
        found[one.interface.ip] = names[one.device]
    return found


async def _reached(ip: Conversation, leases: Iterable[Lease]) -> dict[Address, int]:
    """The public IPs that a link of ours reaches without a router, and over which interface."""
    found: dict[Address, int] = {}
    for number, lease in enumerate(leases):
        path = routes.path_to(ip, lease.public_ip)
        if path is not None and path.gateway is None and not path.local and path.device:
            found[lease.public_ip] = path.device
        if number % _TURN == _TURN - 1:
            await asyncio.sleep(0)
    return found
