"""From Nodes to a wish: flannel's annotations read and written, our own claim, and what is missing said in words."""

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest

from kube.core import Node, NodeSpec, NodeStatus
from kube.meta import Condition, ObjectMeta
from overlay import annotations, wish
from overlay.config import Network, annotation_prefix
from overlay.model import Device, Lease, Seen, SeenDevice
from overlay.wish import Identity, NotYet, Underlay

PREFIX = annotation_prefix("flannel.alpha.coreos.com")
NET = Network(pods=IPv4Network("10.244.0.0/16"))
WHO = Identity("node1", PREFIX, None, "02:00:00:00:00:aa")
NOTHING = Seen()
BASE = Underlay(2, "eth1", IPv4Address("10.200.0.1"), 1500)


def node(number: int, *, cidr: str | None = None, conditions: tuple[Condition, ...] = (), **notes: str) -> Node:
    return Node(
        metadata=ObjectMeta(
            name=f"node{number}",
            annotations={f"{PREFIX}{key.replace('_', '-')}": value for key, value in notes.items()},
            creation_timestamp=datetime.fromtimestamp(1000 + number, UTC),
        ),
        spec=NodeSpec(pod_cidr=f"10.244.{number}.0/24" if cidr is None else cidr),
        status=NodeStatus(conditions=conditions),
    )


def announced(number: int, **changed: str) -> Node:
    notes = {
        "kube_subnet_manager": "true",
        "backend_type": "vxlan",
        "backend_data": f'{{"VNI":1,"VtepMAC":"02:00:00:00:00:{number:02x}"}}',
        "public_ip": f"10.200.0.{number}",
    }
    return node(number, **{**notes, **changed})


def node_since(seconds: float, of: Node) -> Node:
    created = datetime.fromtimestamp(seconds, UTC)
    return msgspec.structs.replace(of, metadata=msgspec.structs.replace(of.metadata, creation_timestamp=created))


def wished(*nodes: Node, who: Identity = WHO, seen: Seen = NOTHING) -> wish.Wish:
    return wish.wish(who, NET, nodes, BASE, seen)


def test_flannels_annotations_are_a_lease() -> None:
    assert annotations.lease_of(announced(2), PREFIX, 1) == Lease(
        "node2", IPv4Network("10.244.2.0/24"), IPv4Address("10.200.0.2"), "02:00:00:00:00:02", 1002.0
    )


def test_a_node_without_annotations_or_podcidr_claims_nothing() -> None:
    assert annotations.lease_of(node(2), PREFIX, 1) is None
    assert annotations.lease_of(announced(2, kube_subnet_manager="false"), PREFIX, 1) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"public_ip": "somewhere"}, "node2: flannel.alpha.coreos.com/public-ip: "),
        ({"backend_type": "host-gw"}, "backend-type is 'host-gw'"),
        ({"backend_data": "null"}, "backend-data 'null'"),
        ({"backend_data": '{"VNI":7,"VtepMAC":"02:00:00:00:00:02"}'}, "has VNI 7, here it is 1"),
        ({"backend_data": '{"VNI":1,"VtepMAC":"x"}'}, "VtepMAC is not a MAC address"),
    ],
)
def test_a_claim_that_cannot_be_read_is_refused_in_words_and_harms_no_other(
    changed: dict[str, str], words: str
) -> None:
    found = wished(node(1), announced(2, **changed), announced(3))
    assert [peer.node for peer in found.wanted.peers] == ["node3"]
    assert words in found.refused["node2"]


def test_the_device_carries_the_subnets_first_address_and_fifty_bytes_less() -> None:
    found = wished(node(1), announced(2))
    assert found.wanted.address == IPv4Address("10.244.1.0")
    assert found.wanted.device == Device("flannel.1", 1, 8472, 2, IPv4Address("10.200.0.1"), 1450, WHO.fresh_mac)


def test_the_mac_is_the_announced_one_else_the_devices_else_a_fresh_one() -> None:
    there = Seen(device=SeenDevice(4, replace(wished(node(1)).wanted.device, mac="02:00:00:00:00:dd"), True, True))
    assert wished(announced(1), seen=there).own.mac == "02:00:00:00:00:01"
    assert wished(node(1), seen=there).own.mac == "02:00:00:00:00:dd"
    assert wished(node(1)).own.mac == WHO.fresh_mac


def test_the_public_ip_is_the_overwritten_one_else_the_flags_else_the_interfaces() -> None:
    flagged = replace(WHO, public_ip=IPv4Address("203.0.113.1"))
    assert wished(announced(1, public_ip_overwrite="203.0.113.7"), who=flagged).own.public_ip == IPv4Address(
        "203.0.113.7"
    )
    assert wished(node(1), who=flagged).own.public_ip == IPv4Address("203.0.113.1")
    assert wished(node(1)).own.public_ip == IPv4Address("10.200.0.1")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((), "there is no Node node1: its kubelet registers it"),
        ((node(1, cidr=""),), "node node1 has no podCIDR: the controllers' node IPAM assigns it"),
        ((node(1, cidr="10.244.1.1/24"),), "podCIDR '10.244.1.1/24'"),
        ((node(1, cidr="192.168.0.0/24"),), "outside the network 10.244.0.0/16"),
        ((node(1, public_ip_overwrite="x"),), "public-ip-overwrite"),
        ((node(1), node_since(1, announced(2, public_ip="10.200.0.1"))), "nodes node2 and node1 both announce"),
    ],
)
def test_what_is_missing_or_contradicts_an_older_node_is_said(nodes: tuple[Node, ...], words: str) -> None:
    with pytest.raises(NotYet, match=words):
        wished(*nodes)


def patch(of: Node, lease: Lease) -> dict[str, Any] | None:
    return annotations.patch_for(of, PREFIX, lease, 1, datetime(2026, 1, 2, tzinfo=UTC))


def test_the_first_patch_is_flannels() -> None:
    fresh = node(1, conditions=(Condition(type="NetworkUnavailable", status="True", reason="NodeCreation"),))
    own = wished(fresh).own
    assert patch(fresh, own) == {
        "metadata": {
            "annotations": {
                f"{PREFIX}kube-subnet-manager": "true",
                f"{PREFIX}backend-type": "vxlan",
                f"{PREFIX}backend-data": '{"VNI":1,"VtepMAC":"02:00:00:00:00:aa"}',
                f"{PREFIX}public-ip": "10.200.0.1",
            }
        },
        "status": {
            "conditions": [
                {
                    "type": "NetworkUnavailable",
                    "status": "False",
                    "reason": "FlannelIsUp",
                    "message": "Flannel is running on this node",
                    "lastHeartbeatTime": "2026-01-02T00:00:00Z",
                    "lastTransitionTime": "2026-01-02T00:00:00Z",
                }
            ]
        },
    }


def test_a_node_that_says_it_already_is_not_patched() -> None:
    up = Condition(type="NetworkUnavailable", status="False", reason="FlannelIsUp")
    notes = {
        key.removeprefix(PREFIX).replace("-", "_"): value for key, value in announced(1).metadata.annotations.items()
    }
    said = node(1, conditions=(up,), **notes)
    assert patch(said, wished(said).own) is None


def test_heartbeats_are_no_claim() -> None:
    beat = node(1, conditions=(Condition(type="Ready", status="True"),))
    assert wish.claim(node(1), PREFIX) == wish.claim(beat, PREFIX)
    assert wish.claim(node(1), PREFIX) != wish.claim(announced(1), PREFIX)
    assert wish.claim(node(1), PREFIX) != wish.claim(None, PREFIX)
