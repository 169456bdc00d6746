"""From the nodes' claims and this machine to what is wanted here. Pure.

Claims that contradict each other cannot both be right: of nodes that announce one public IP, one MAC or key, or subnets that
overlap, the oldest stays. Our own claim is judged beside the others': a node whose address or subnet an older node has refuses
itself, in the same words with which the others refuse it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from linux.iptables.rules import Family
from overlay.backends import host_gw, vxlan, wireguard
from overlay.model import (
    Address,
    Here,
    Lease,
    NotYet,
    PublicKey,
    Range,
    Route,
    RouteKind,
    Tunnel,
    Vtep,
    Wanted,
)
from overlay.netconf import HostGwSettings, Network, VxlanSettings, WireGuardSettings
from overlay.spans import Spans

_LAST = 2**32 - 1
"""The metric of the route that counts when there is no other."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Of one tunnel: what is wanted in the kernel, the MTU that pods get, the peers, and of other nodes, in words, why they
    are left out."""

    wanted: Wanted
    mtu: int
    peers: tuple[Lease, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Leases that can stand beside each other, and in words why the others cannot."""

    leases: tuple[Lease, ...]
    refused: dict[str, str]


def tunnels(net: Network) -> tuple[Tunnel, ...]:
    """What there is to keep true: a tunnel for each family, or one for both."""
    devices = _devices(net)
    if not devices:
        return tuple(Tunnel("", (family,)) for family in net.families)
    return tuple(Tunnel(name, families, frozenset(devices)) for name, families in devices.items())


def _devices(net: Network) -> Mapping[str, tuple[Family, ...]]:
    """Their names, and the families each carries."""
    match net.backend:
        case VxlanSettings() as settings:
            return vxlan.names(settings, net.families)
        case WireGuardSettings() as settings:
            return wireguard.names(settings, net.families)
        case HostGwSettings():
            return {}


def asks_direct(net: Network) -> bool:
    """Whether a wish depends on which peers a link of ours reaches without a router (`Here.direct`)."""
    match net.backend:
        case HostGwSettings():
            return True
        case VxlanSettings(direct_routing=direct):
            return direct
        case WireGuardSettings():
            return False


def wish(
    tunnel: Tunnel,
    own: Mapping[Family, Lease],
    leases: Iterable[Lease],
    net: Network,
    here: Mapping[Family, Here],
) -> Wish:
    """The wish of one tunnel; of `own`, `here` and `leases` what is of other families does not count. Raises NotYet."""
    own = {family: own[family] for family in tunnel.families}
    here = {family: here[family] for family in tunnel.families}
    pods = {family: span for family in tunnel.families if (span := net.pods(family)) is not None}
    names = {lease.node for lease in own.values()}
    others = [lease for lease in leases if lease.family in pods and lease.node not in names]
    standing = accepted((*others, *own.values()), net, pods)
    for name in names & standing.refused.keys():
        raise NotYet(standing.refused[name])
    for family, lease in own.items():
        if here[family].underlay.address in lease.subnet:
            raise NotYet(_among_pods(lease, here[family].underlay.address, "this node"))
    refused = dict(standing.refused)
    peers: list[Lease] = []
    theirs = [lease for lease in standing.leases if lease.node not in names]
    taken = _taken_here(theirs, here)
    for lease in theirs:
        words = taken.get(lease) or _unreachable(lease, net, here[lease.family])
        if words:
            refused[lease.node] = words
        else:
            peers.append(lease)
    wanted, mtu = _wanted(tunnel, own, peers, net, here, pods)
    holes = tuple(
        Route(lease.subnet, None, metric=_LAST, kind=RouteKind.BLACKHOLE)
        for family, lease in own.items()
        if here[family].blackhole
    )
    wanted = replace(wanted, routes=(*wanted.routes, *holes), subnets=tuple(lease.subnet for lease in peers))
    return Wish(wanted, mtu, tuple(peers), refused)


def _taken_here(leases: Iterable[Lease], here: Mapping[Family, Here]) -> dict[Lease, str]:
    """Those in whose subnet other interfaces of this node have addresses, which may be thousands; and in words, which."""
    spans = Spans((lease.subnet, lease) for lease in leases)
    found: dict[Lease, str] = {}
    for place in here.values():
        for address, interface in place.elsewhere.items():
            if lease := spans.at(address):
                words = (
                    f"node {lease.node}: subnet {lease.subnet} holds {address}, an address of this node's {interface}, which "
                    f"would be cut off: give pods a Network that is not the nodes', or {interface} another address"
                )
                found.setdefault(lease, words)
    return found


def _unreachable(lease: Lease, net: Network, here: Here) -> str | None:
    """Why this node cannot reach a peer that others may."""
    if here.underlay.address in lease.subnet:
        return _among_pods(lease, here.underlay.address, "this node")
    return host_gw.refusal(lease, here) if isinstance(net.backend, HostGwSettings) else None


def _wanted(
    tunnel: Tunnel,
    own: Mapping[Family, Lease],
    peers: list[Lease],
    net: Network,
    here: Mapping[Family, Here],
    pods: Mapping[Family, Range],
) -> tuple[Wanted, int]:
    """(the wish, the MTU inside)."""
    ((family, lease), *_) = own.items()
    match net.backend:
        case VxlanSettings() as settings:
            return vxlan.wanted(lease, peers, here[family], settings), vxlan.mtu(settings, family, here[family])
        case HostGwSettings():
            return host_gw.wanted(lease, peers, here[family]), host_gw.mtu(here[family])
        case WireGuardSettings() as settings:
            least = min(wireguard.mtu(settings, here[family]) for family in own)
            return wireguard.wanted(tunnel.name, own, peers, here, pods, settings), least


def accepted(leases: Iterable[Lease], net: Network, pods: Mapping[Family, Range]) -> Accepted:
    """Of rivals the oldest node's lease stands; what the backend cannot reach, and rivals, are refused in words."""
    ordered = sorted(leases, key=lambda one: (one.since, one.node, one.family))
    standing = _Standing({lease.subnet.prefixlen for lease in ordered})
    refused: dict[str, str] = {}
    for lease in ordered:
        words = _outside(lease, pods[lease.family]) or _elsewhere(lease, net) or standing.rivalry(lease)
        if words:
            refused.setdefault(lease.node, words)
        else:
            standing.add(lease)
    return Accepted(tuple(sorted(standing.leases, key=lambda one: (one.node, one.family))), refused)


class _Standing:
    """Leases beside which another may stand or not. `lengths` are the prefix lengths that there are, a few: by them it is told
    at once whether a host lies in a subnet."""

    def __init__(self, lengths: Iterable[int]) -> None:
        self.leases: list[Lease] = []
        self._lengths = tuple(lengths)
        self._claims: dict[object, Lease] = {}
        self._spans = Spans[Lease]()
        self._hosts = Spans[Lease]()

    def add(self, lease: Lease) -> None:
        self.leases.append(lease)
        self._claims.setdefault(lease.public_ip, lease)
        if lease.data is not None:
            self._claims.setdefault(lease.data, lease)
        self._spans.add(lease.subnet, lease)
        for length in self._lengths:
            if length <= lease.public_ip.max_prefixlen:
                self._hosts.put(lease.public_ip, length, lease)

    def rivalry(self, lease: Lease) -> str | None:
        """Why the lease cannot stand beside those that do, all of them older."""
        rival = self._claims.get(lease.public_ip)
        if rival and rival.node != lease.node:
            return (
                f"nodes {rival.node} and {lease.node} both announce the public IP {lease.public_ip}; {rival.node} is older "
                f"and stays. Give one of them another address (--public-ip or --iface), or delete the Node that is no more"
            )
        rival = self._claims.get(lease.data) if lease.data is not None else None
        if rival and rival.node != lease.node:
            return _same_data(lease, rival)
        rival = self._spans.overlapping(lease.subnet)
        if rival:
            return (
                f"nodes {rival.node} ({rival.subnet}) and {lease.node} ({lease.subnet}) have subnets that overlap; "
                f"{rival.node} is older and stays. Delete the Node {lease.node} and let it register again"
            )
        held = self._hosts.same(lease.subnet) or (lease if lease.public_ip in lease.subnet else None)
        if held:
            return _among_pods(lease, held.public_ip, f"node {held.node}")
        rival = self._spans.at(lease.public_ip)
        return _among_pods(rival, lease.public_ip, f"node {lease.node}") if rival else None


def _among_pods(lease: Lease, address: Address, whose: str) -> str:
    """Why a subnet cannot have the address of a node in it."""
    return (
        f"node {lease.node}: subnet {lease.subnet} holds {address}, the address of {whose}, and packets for it would go to "
        f"pods: give pods a Network that is not the nodes'"
    )


def _outside(lease: Lease, pods: Range) -> str | None:
    inside = (
        lease.subnet.version == pods.version
        and lease.subnet.network_address in pods
        and lease.subnet.prefixlen >= pods.prefixlen
    )
    if inside:
        return None
    return (
        f"node {lease.node}: subnet {lease.subnet} lies outside the network {pods}; "
        "make net-conf.json's Network and the controllers' --cluster-cidr agree"
    )


def _elsewhere(lease: Lease, net: Network) -> str | None:
    """Why our backend cannot speak with the node's."""
    if lease.backend != net.kind:
        return f"node {lease.node} uses the backend {lease.backend}, here it is {net.kind}: give all nodes one net-conf.json"
    match net.backend:
        case VxlanSettings() as settings:
            return vxlan.refusal(lease, settings)
        case WireGuardSettings():
            return wireguard.refusal(lease)
        case HostGwSettings():
            return None


def _same_data(lease: Lease, rival: Lease) -> str:
    both = f"nodes {rival.node} and {lease.node} both announce"
    match lease.data:
        case PublicKey():
            return (
                f"{both} one WireGuard key; {rival.node} is older and stays. Delete the key file (/run/flannel/wgkey) of "
                f"{lease.node}, whose disk was probably cloned, and restart its overlay"
            )
        case Vtep(_, mac):
            return (
                f"{both} the VTEP MAC {mac}; {rival.node} is older and stays. Delete the VXLAN device and the backend-data "
                f"annotation of {lease.node}, whose disk was probably cloned"
            )
        case None:
            raise AssertionError(lease)
