"""host-gw: no tunnel at all. Each node is the gateway to its pods, over the link that all nodes share.

    10.244.2.0/24 via <B's public IP> dev eth1

Nothing is wrapped, so the MTU is the underlay's, and a peer behind a router cannot be reached: the router would not know
where its pods are.
"""

from collections.abc import Iterable

from overlay.model import METRIC, Here, Lease, Route, Wanted


def mtu(here: Here) -> int:
    return here.underlay.mtu


def refusal(peer: Lease, here: Here) -> str | None:
    """Why the peer cannot be reached; None when it can."""
    if peer.public_ip in here.direct:
        return None
    return (
        f"node {peer.node}: no link of this node reaches its public IP {peer.public_ip} without a router, and host-gw needs "
        f"one; put the nodes on one link, or use vxlan with DirectRouting"
    )


def wanted(own: Lease, peers: Iterable[Lease], here: Here) -> Wanted:
    """Of one family; each peer is one that `refusal` lets pass."""
    metric = METRIC[own.family]
    return Wanted(
        routes=tuple(Route(peer.subnet, peer.public_ip, here.direct[peer.public_ip], metric=metric) for peer in peers)
    )
