"""VXLAN: frames between nodes in UDP, and a plain route to those that a link of ours reaches (DirectRouting).

How a packet crosses. A pod on node A (10.244.1.0/24) sends to a pod on node B (10.244.2.0/24):

    route        10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink     A must reach "the router" 10.244.2.0
    neighbour    10.244.2.0 is at <MAC of B's flannel.1>               no ARP is asked: nobody could answer
    FDB entry    <MAC of B's flannel.1> is behind <B's public IP>      the frame travels to B in UDP

B's flannel.1 gets the frame, sees its own MAC, and B routes the packet to its pod bridge. So one entry of each kind per
peer is enough, whatever the number of pods: the network is routed between nodes, never bridged. Our own device carries
10.244.1.0/32: the source address of what the node itself sends to remote pods, and for B the way back. It is a /32 (/128)
so that no connected route appears. `onlink`, because no address of the device covers the gateway.

IPv6 has a device of its own over an IPv6 underlay, whose header is 20 bytes longer: 70 bytes go off the MTU. (flannel takes
50 there, and its full-sized packets are lost.) With `Learning` the device also learns; it changes nothing for peers, since
the kernel never moves a permanent entry.
"""

from collections.abc import Iterable

from linux.iptables.rules import Family
from overlay.model import (
    METRIC,
    Fdb,
    Here,
    Lease,
    LocalAddress,
    Neighbour,
    Route,
    Vtep,
    VxlanDevice,
    Wanted,
    host,
)
from overlay.netconf import VxlanSettings

OVERHEAD = {Family.V4: 50, Family.V6: 70}
"""Bytes: IP header 20 (40), UDP 8, VXLAN 8, inner Ethernet 14."""


def names(settings: VxlanSettings, families: Iterable[Family]) -> dict[str, tuple[Family, ...]]:
    """Our devices, and the families each carries."""
    return {f"flannel{'-v6' if family is Family.V6 else ''}.{settings.vni}": (family,) for family in families}


def mtu(settings: VxlanSettings, family: Family, here: Here) -> int:
    """Never more than the underlay carries: the kernel makes such a device smaller, and refuses to set it right."""
    return min(settings.mtu or here.underlay.mtu, here.underlay.mtu) - OVERHEAD[family]


def refusal(peer: Lease, settings: VxlanSettings) -> str | None:
    """Why the peer cannot be reached; None when it can."""
    if not isinstance(peer.data, Vtep):
        return f"node {peer.node} announces no VTEP"
    if peer.data.vni != settings.vni:
        return f"node {peer.node} has VNI {peer.data.vni}, here it is {settings.vni}: give all nodes one net-conf.json"
    return None


def wanted(own: Lease, peers: Iterable[Lease], here: Here, settings: VxlanSettings) -> Wanted:
    """Of one family; each peer is one that `refusal` lets pass."""
    assert isinstance(own.data, Vtep)
    (name,) = names(settings, [own.family])
    base = here.underlay
    device = VxlanDevice(
        name,
        settings.vni,
        settings.port,
        base.index,
        base.address,
        mtu(settings, own.family, here),
        own.data.mac,
        settings.learning,
        settings.gbp,
    )
    neighbours: list[Neighbour] = []
    fdb: list[Fdb] = []
    routes: list[Route] = []
    metric = METRIC[own.family]
    for peer in peers:
        assert isinstance(peer.data, Vtep)
        link = here.direct.get(peer.public_ip) if settings.direct_routing else None
        if link is not None:
            routes.append(Route(peer.subnet, peer.public_ip, link, metric=metric))
            continue
        neighbours.append(Neighbour(peer.gateway, peer.data.mac))
        fdb.append(Fdb(peer.data.mac, peer.public_ip))
        routes.append(Route(peer.subnet, peer.gateway, onlink=True, metric=metric))
    addresses = (LocalAddress(host(own.gateway)),)
    return Wanted(device, addresses, tuple(neighbours), tuple(fdb), routes=tuple(routes))
