"""Leases as flannel's kube subnet manager writes them: annotations of the Node, and one condition.

    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"8e:1b:...:4d"}       wireguard: {"PublicKey":"..."}, host-gw: null
    flannel.alpha.coreos.com/backend-v6-data: {"VNI":1,"VtepMAC":"5a:c9:...:02"}
    flannel.alpha.coreos.com/public-ip: 192.168.0.11
    flannel.alpha.coreos.com/public-ipv6: fd00::11
    flannel.alpha.coreos.com/public-ip-overwrite: 203.0.113.7       (read: an administrator's word against what we found)
    flannel.alpha.coreos.com/node-public-ip: 192.168.0.11           (read: his word on which address to take at the start)

Both have IPv6 twins (`public-ipv6-overwrite`, `node-public-ipv6`). The subnets are the Node's podCIDRs, which the controllers'
node IPAM assigns. Nodes that run stock flannel and nodes that run this room read each other. A node that announces one family
and not the other is of that family alone; what it announces wrongly costs it that family, in words.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

from kube.core import Node
from linux.iptables.rules import Family
from overlay.documents import shortened
from overlay.model import Address, Backend, Lease, Range, Vtep
from overlay.registry import data
from overlay.subnets import Data

CONDITION = "NetworkUnavailable"
REASON = "FlannelIsUp"
MESSAGE = "Flannel is running on this node"

_PUBLIC = {Family.V4: "public-ip", Family.V6: "public-ipv6"}
_DATA = {Family.V4: "backend-data", Family.V6: "backend-v6-data"}


class Unreadable(ValueError):
    """A node's annotations say something that no lease can be made of; the message names node, key and value."""

    def __init__(self, words: str) -> None:
        super().__init__(shortened(words))


def leases_of(node: Node, prefix: str, families: Iterable[Family]) -> tuple[list[Lease], str]:
    """What the node claims, nothing when it makes no claim (yet), and in words what of that cannot be read."""
    name, notes = node.metadata.name, node.metadata.annotations
    if notes.get(f"{prefix}kube-subnet-manager") != "true" or node.metadata.deletion_timestamp:
        return [], ""
    found: list[Lease] = []
    troubles: list[str] = []
    announced = [family for family in families if f"{prefix}{_PUBLIC[family]}" in notes]
    if not announced:
        return [], f"node {name}: {prefix}{_PUBLIC[Family.V4]} is missing: its flannel has not said where it is"
    for family in announced:
        try:
            subnet = pod_subnet(node, family)
            if subnet is not None:
                backend = _backend(name, notes, prefix)
                public = _address(name, notes, f"{prefix}{_PUBLIC[family]}", family)
                about = _data(name, notes, f"{prefix}{_DATA[family]}", backend)
                found.append(Lease(name, subnet, public, backend, about, since(node)))
        except Unreadable as error:
            troubles.append(str(error))
    return found, "; ".join(dict.fromkeys(troubles))


def since(node: Node) -> float:
    """When the Node was created, in seconds; the older of two rivals stays."""
    created = node.metadata.creation_timestamp
    return created.timestamp() if created else 0.0


def pod_subnet(node: Node, family: Family) -> Range | None:
    """The node's first podCIDR of the family. Raises Unreadable."""
    for text in node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ()):
        if (":" in text) != (family is Family.V6):
            continue
        try:
            return ip_network(text)
        except ValueError as error:
            raise Unreadable(f"node {node.metadata.name}: podCIDR {text!r}: {error}") from error
    return None


def known_vtep(node: Node, prefix: str, family: Family) -> Vtep | None:
    """The device that the node has announced before: a restart keeps its MAC, so that peers have nothing to change."""
    try:
        found = _data(node.metadata.name, node.metadata.annotations, f"{prefix}{_DATA[family]}", Backend.VXLAN)
    except Unreadable:
        return None
    return found if isinstance(found, Vtep) else None


def overwritten(node: Node, prefix: str, family: Family) -> Address | None:
    """The administrator's public-ip-overwrite. Raises Unreadable."""
    return _optional(node, f"{prefix}{_PUBLIC[family]}-overwrite", family)


def asked(node: Node, prefix: str, family: Family) -> Address | None:
    """The administrator's node-public-ip. Raises Unreadable."""
    return _optional(node, f"{prefix}node-{_PUBLIC[family]}", family)


def wanted(prefix: str, own: Mapping[Family, Lease]) -> dict[str, str]:
    """The annotations that say `own`."""
    found = {f"{prefix}kube-subnet-manager": "true"}
    for family, lease in own.items():
        found[f"{prefix}backend-type"] = lease.backend
        found[f"{prefix}{_DATA[family]}"] = data.rendered(lease.data)
        found[f"{prefix}{_PUBLIC[family]}"] = str(lease.public_ip)
    return found


def patch_for(
    node: Node, prefix: str, own: Mapping[Family, Lease], now: datetime, *, condition: bool
) -> dict[str, Any] | None:
    """The strategic merge patch for nodes/<name>/status that makes the Node say what `own` says and, with `condition`, that
    its network is up; None when it does."""
    body: dict[str, Any] = {}
    notes = node.metadata.annotations
    changed = {key: value for key, value in wanted(prefix, own).items() if notes.get(key) != value}
    if changed:
        body["metadata"] = {"annotations": changed}
    there = next((one for one in node.status.conditions if one.type == CONDITION), None)
    if condition and (there is None or there.status != "False" or there.reason != REASON):
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        fresh = {"type": CONDITION, "status": "False", "reason": REASON, "message": MESSAGE, "lastHeartbeatTime": stamp}
        if there is None or there.status != "False":
            fresh["lastTransitionTime"] = stamp
        body["status"] = {"conditions": [fresh]}
    return body or None


def claim(node: Node | None, prefix: str) -> object:
    """All of a Node that anybody's network depends on, to tell its changes from heartbeats."""
    if node is None:
        return None
    notes = {key: value for key, value in node.metadata.annotations.items() if key.startswith(prefix)}
    about = node.metadata
    return notes, node.spec.pod_cidr, node.spec.pod_cidrs, about.uid, about.deletion_timestamp


def _backend(name: str, notes: Mapping[str, str], prefix: str) -> Backend:
    key = f"{prefix}backend-type"
    try:
        return data.backend(notes.get(key, ""))
    except data.UnreadableData as error:
        raise Unreadable(f"node {name}: {key} {error}") from error


def _data(name: str, notes: Mapping[str, str], key: str, backend: Backend) -> Data:
    text = notes.get(key, "")
    try:
        return data.parsed(backend, text)
    except data.UnreadableData as error:
        raise Unreadable(f"node {name}: {key} {text!r}: {error}") from error


def _optional(node: Node, key: str, family: Family) -> Address | None:
    notes = node.metadata.annotations
    return _address(node.metadata.name, notes, key, family) if notes.get(key) else None


def _address(name: str, notes: Mapping[str, str], key: str, family: Family) -> Address:
    text = notes.get(key, "")
    try:
        found = ip_address(text)
    except ValueError as error:
        raise Unreadable(f"node {name}: {key}: {error}") from error
    if found.version != family:
        raise Unreadable(f"node {name}: {key}: {text!r} is not an IPv{int(family)} address")
    if found.is_unspecified or found.is_loopback or found.is_multicast:
        raise Unreadable(f"node {name}: {key}: {text} is no address of one host")
    return found
