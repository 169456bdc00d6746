"""Leases as flannel's kube subnet manager writes them: annotations of the Node, and one condition.

    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/backend-data: {"VNI":1,"VtepMAC":"8e:1b:...:4d"}
    flannel.alpha.coreos.com/public-ip: 192.168.0.11
    flannel.alpha.coreos.com/public-ip-overwrite: 203.0.113.7       (read: an administrator's word against what we found)

The subnet is the Node's podCIDR, which the controllers' node IPAM assigns. Nodes that run stock flannel and nodes that run
this room read each other.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from kube.core import Node
from overlay.model import Lease

CONDITION = "NetworkUnavailable"
REASON = "FlannelIsUp"
MESSAGE = "Flannel is running on this node"
BACKEND = "vxlan"

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class _BackendData(msgspec.Struct, frozen=True):
    vni: int = msgspec.field(default=0, name="VNI")
    vtep_mac: str = msgspec.field(default="", name="VtepMAC")


class Unreadable(ValueError):
    """A node's annotations say something that no lease can be made of; the message names node, key and value."""


def lease_of(node: Node, prefix: str, vni: int) -> Lease | None:
    """What the node claims; None when it makes no claim (yet). Raises Unreadable."""
    name, notes = node.metadata.name, node.metadata.annotations
    if notes.get(f"{prefix}kube-subnet-manager") != "true" or node.metadata.deletion_timestamp:
        return None
    subnet = pod_subnet(node)
    if subnet is None:
        return None
    kind = notes.get(f"{prefix}backend-type", "")
    if kind != BACKEND:
        raise Unreadable(f"node {name}: {prefix}backend-type is {kind!r}; only {BACKEND} nodes can be reached")
    data = _backend_data(name, notes, prefix)
    if data.vni != vni:
        raise Unreadable(
            f"node {name}: {prefix}backend-data has VNI {data.vni}, here it is {vni}: one net-conf.json for all"
        )
    return Lease(
        node=name,
        subnet=subnet,
        public_ip=_address(name, notes, f"{prefix}public-ip"),
        mac=data.vtep_mac.lower(),
        since=since(node),
    )


def since(node: Node) -> float:
    """When the Node was created, in seconds; the older of two rivals stays."""
    created = node.metadata.creation_timestamp
    return created.timestamp() if created else 0.0


def pod_subnet(node: Node) -> IPv4Network | None:
    """The node's first IPv4 podCIDR. Raises Unreadable."""
    for text in node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ()):
        if ":" in text:
            continue
        try:
            return IPv4Network(text)
        except ValueError as error:
            raise Unreadable(f"node {node.metadata.name}: podCIDR {text!r}: {error}") from error
    return None


def known_mac(node: Node, prefix: str) -> str | None:
    """The MAC that the node has announced before: a restart keeps it, so that peers have nothing to change."""
    try:
        return _backend_data(node.metadata.name, node.metadata.annotations, prefix).vtep_mac.lower()
    except Unreadable:
        return None


def overwritten_ip(node: Node, prefix: str) -> IPv4Address | None:
    """The administrator's public-ip-overwrite. Raises Unreadable."""
    key = f"{prefix}public-ip-overwrite"
    return _address(node.metadata.name, node.metadata.annotations, key) if key in node.metadata.annotations else None


def patch_for(node: Node, prefix: str, lease: Lease, vni: int, now: datetime) -> dict[str, Any] | None:
    """The strategic merge patch for nodes/<name>/status that makes the Node say what `lease` says; None when it does."""
    wanted = {
        f"{prefix}kube-subnet-manager": "true",
        f"{prefix}backend-type": BACKEND,
        f"{prefix}backend-data": f'{{"VNI":{vni},"VtepMAC":"{lease.mac}"}}',
        f"{prefix}public-ip": str(lease.public_ip),
    }
    body: dict[str, Any] = {}
    changed = {key: value for key, value in wanted.items() if node.metadata.annotations.get(key) != value}
    if changed:
        body["metadata"] = {"annotations": changed}
    condition = next((one for one in node.status.conditions if one.type == CONDITION), None)
    if condition is None or condition.status != "False" or condition.reason != REASON:
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        fresh = {"type": CONDITION, "status": "False", "reason": REASON, "message": MESSAGE, "lastHeartbeatTime": stamp}
        if condition is None or condition.status != "False":
            fresh["lastTransitionTime"] = stamp
        body["status"] = {"conditions": [fresh]}
    return body or None


def _backend_data(name: str, notes: Mapping[str, str], prefix: str) -> _BackendData:
    key = f"{prefix}backend-data"
    text = notes.get(key, "")
    try:
        data = msgspec.json.decode(text, type=_BackendData)
    except msgspec.DecodeError as error:
        raise Unreadable(f"node {name}: {key} {text!r}: {error}") from error
    if not _MAC.fullmatch(data.vtep_mac.lower()):
        raise Unreadable(f"node {name}: {key} {text!r}: VtepMAC is not a MAC address")
    return data


def _address(name: str, notes: Mapping[str, str], key: str) -> IPv4Address:
    text = notes.get(key, "")
    try:
        return IPv4Address(text)
    except ValueError as error:
        raise Unreadable(f"node {name}: {key}: {error}") from error
