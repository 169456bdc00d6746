"""From the Nodes and the underlay to what is wanted on this one. Pure.

Our own claim is judged beside the others': a node whose address or subnet an older node has refuses itself, in the same
words with which the others refuse it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from kube.core import Node
from overlay import annotations, plan
from overlay.config import Network
from overlay.model import Device, Lease, Seen, Wanted


class NotYet(Exception):
    """Nothing can be wished for yet. The message says what is missing and who provides it; its coming wakes us."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface that carries the overlay, by index, with the address and MTU that it has now."""

    index: int
    name: str
    address: IPv4Address
    mtu: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are: our node's name, the annotations' prefix, the address of --public-ip, a MAC for a first start."""

    node: str
    prefix: str
    public_ip: IPv4Address | None
    fresh_mac: str


@dataclass(frozen=True, slots=True)
class Wish:
    """`own` is what we claim; `refused` says of other nodes, in words, why they are left out."""

    wanted: Wanted
    own: Lease
    refused: dict[str, str]


def wish(who: Identity, net: Network, nodes: Sequence[Node], base: Underlay, seen: Seen) -> Wish:
    """Raises NotYet."""
    node = next((one for one in nodes if one.metadata.name == who.node), None)
    if node is None:
        raise NotYet(f"there is no Node {who.node}: its kubelet registers it; --hostname-override names another")
    own = _own_lease(who, node, base, seen)
    leases, refused = _claims(who, net, nodes)
    standing = plan.accepted((*leases, own), net.pods)
    if who.node in standing.refused:
        raise NotYet(standing.refused[who.node])
    device = Device(net.device, net.vni, net.port, base.index, base.address, net.mtu(base.mtu), own.mac)
    peers = tuple(lease for lease in standing.leases if lease.node != who.node)
    return Wish(Wanted(device, own.gateway, peers), own, {**refused, **standing.refused})


def claim(node: Node | None, prefix: str) -> object:
    """All of a Node that a wish depends on, to tell its changes from heartbeats."""
    if node is None:
        return None
    notes = {key: value for key, value in node.metadata.annotations.items() if key.startswith(prefix)}
    return notes, node.spec.pod_cidr, node.spec.pod_cidrs, node.metadata.uid, node.metadata.deletion_timestamp


def _own_lease(who: Identity, node: Node, base: Underlay, seen: Seen) -> Lease:
    try:
        subnet: IPv4Network | None = annotations.pod_subnet(node)
        overwritten = annotations.overwritten_ip(node, who.prefix)
    except annotations.Unreadable as error:
        raise NotYet(str(error)) from error
    if subnet is None:
        raise NotYet(
            f"node {who.node} has no podCIDR: the controllers' node IPAM assigns it "
            "(wherry-controllers, or kube-controller-manager --allocate-node-cidrs=true)"
        )
    there = seen.device.device.mac if seen.device and seen.device.device else None
    return Lease(
        node=who.node,
        subnet=subnet,
        public_ip=overwritten or who.public_ip or base.address,
        mac=annotations.known_mac(node, who.prefix) or there or who.fresh_mac,
        since=annotations.since(node),
    )


def _claims(who: Identity, net: Network, nodes: Sequence[Node]) -> tuple[list[Lease], dict[str, str]]:
    leases: list[Lease] = []
    unreadable: dict[str, str] = {}
    for node in nodes:
        if node.metadata.name == who.node:
            continue
        try:
            lease = annotations.lease_of(node, who.prefix, net.vni)
        except annotations.Unreadable as error:
            unreadable[node.metadata.name] = str(error)
            continue
        if lease is not None:
            leases.append(lease)
    return leases, unreadable
