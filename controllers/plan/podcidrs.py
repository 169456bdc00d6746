"""Node IPAM: each node gets a range for its pods, cut from the cluster's range.

What is taken is read from the nodes themselves, so there is nothing to remember and nothing to leak: the lowest range that
overlaps no node's is the next one. A node's own range, once set, is never changed (the field is immutable).
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controllers.model import Amend, Tell
from kube.core import Node
from kube.events import Reference
from kube.resources import NODES

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Pool:
    """A family's cluster range and the prefix length of a node's part of it."""

    cluster: Network
    prefix: int

    @property
    def size(self) -> int:
        return 1 << (self.prefix - self.cluster.prefixlen)

    def cut(self, index: int) -> Network:
        start = int(self.cluster.network_address) + (index << (self.cluster.max_prefixlen - self.prefix))
        return type(self.cluster)((start, self.prefix))

    def indexes(self, taken: Network) -> range:
        """The ranges of this pool that `taken` overlaps."""
        if taken.version != self.cluster.version or not self.cluster.overlaps(taken):
            return range(0)
        shift = self.cluster.max_prefixlen - self.prefix
        base = int(self.cluster.network_address)
        low = max(0, (int(taken.network_address) - base) >> shift)
        high = min(self.size - 1, (int(taken.broadcast_address) - base) >> shift)
        return range(low, high + 1)


def ranges_of(node: Node) -> list[Network]:
    """The node's ranges; what cannot be read as one takes nothing."""
    found = []
    for text in node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ()):
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue
    return found


def assignments(
    nodes: Iterable[Node], pools: Sequence[Pool], given: Mapping[str, Sequence[Network]]
) -> list[tuple[Node, tuple[Network, ...] | None]]:
    """Ranges for the nodes that have none, oldest first; None where a pool is used up. `given` are ranges that were just
    written, by node uid, and may not be shown yet."""
    everyone = list(nodes)
    taken = [set[int]() for _ in pools]

    def take(ranges: Iterable[Network]) -> None:
        for network in ranges:
            for used, pool in zip(taken, pools, strict=True):
                used.update(pool.indexes(network))

    for node in everyone:
        take(ranges_of(node))
        take(given.get(node.metadata.uid, ()))
    wanting = [n for n in everyone if not n.spec.pod_cidr and n.metadata.uid not in given]
    wanting.sort(key=lambda n: (n.metadata.creation_timestamp is None, n.metadata.creation_timestamp, n.metadata.name))
    result: list[tuple[Node, tuple[Network, ...] | None]] = []
    for node in wanting:
        picked = [
            next((i for i in range(pool.size) if i not in used), None) for used, pool in zip(taken, pools, strict=True)
        ]
        if any(i is None for i in picked):
            result.append((node, None))
            continue
        ranges = tuple(pool.cut(i) for pool, i in zip(pools, picked, strict=True) if i is not None)
        take(ranges)
        result.append((node, ranges))
    return result


def assign(node: Node, ranges: Sequence[Network]) -> Amend:
    """Refused when the node has changed since: it may have got a range."""
    texts = [str(r) for r in ranges]
    body = {
        "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
        "spec": {"podCIDR": texts[0], "podCIDRs": texts},
    }
    return Amend(NODES, "", node.metadata.name, body)


def exhausted(node: Node) -> Tell:
    name = node.metadata.name
    about = Reference("v1", "Node", "", name, node.metadata.uid)
    return Tell(about, "Normal", "CIDRNotAvailable", f"Node {name} status is now: CIDRNotAvailable")
