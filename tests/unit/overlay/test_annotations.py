"""What Nodes say in flannel's annotations, read and written, in both families and for each backend."""

from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import pytest

from kube.core import Node, NodeSpec, NodeStatus
from kube.meta import Condition, ObjectMeta
from linux.iptables.rules import Family
from overlay.config import annotation_prefix
from overlay.model import Backend, Lease, PublicKey, Vtep
from overlay.registry import annotations

PREFIX = annotation_prefix("flannel.alpha.coreos.com")
BOTH = tuple(Family)
KEY = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="
VTEP = Vtep(1, "02:00:00:00:00:02")
DEEP = "[" * 3000 + "]" * 3000
NOW = datetime(2026, 1, 2, tzinfo=UTC)
FOUR = Lease("node2", IPv4Network("10.244.2.0/24"), ip_address("10.200.0.2"), Backend.VXLAN, VTEP, 1002.0)
SIX = Lease("node2", IPv6Network("fd10:244:0:2::/64"), ip_address("fd00::2"), Backend.VXLAN, VTEP, 1002.0)


def node(*, cidrs: tuple[str, ...] = ("10.244.2.0/24", "fd10:244:0:2::/64"), up: bool = False, **notes: str) -> Node:
    conditions = (Condition(type="NetworkUnavailable", status="False", reason="FlannelIsUp"),) if up else ()
    return Node(
        metadata=ObjectMeta(
            name="node2",
            annotations={f"{PREFIX}{key.replace('_', '-')}": value for key, value in notes.items()},
            creation_timestamp=datetime.fromtimestamp(1002, UTC),
        ),
        spec=NodeSpec(pod_cidr=cidrs[0] if cidrs else "", pod_cidrs=cidrs),
        status=NodeStatus(conditions=conditions),
    )


def announced(**changed: str) -> dict[str, str]:
    said = {
        "kube_subnet_manager": "true",
        "backend_type": "vxlan",
        "backend_data": '{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}',
        "backend_v6_data": '{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}',
        "public_ip": "10.200.0.2",
        "public_ipv6": "fd00::2",
    }
    return {**said, **changed}


def read(of: Node, families: tuple[Family, ...] = BOTH) -> tuple[list[Lease], str]:
    return annotations.leases_of(of, PREFIX, families)


def test_flannels_annotations_are_leases() -> None:
    assert read(node(**announced())) == ([FOUR, SIX], "")
    assert read(node(**announced()), (Family.V4,)) == ([FOUR], "")


def test_macs_are_read_in_any_case() -> None:
    upper = announced(backend_data='{"VNI":1,"VtepMAC":"02:00:00:00:00:AA"}')
    assert read(node(**upper), (Family.V4,))[0][0].data == Vtep(1, "02:00:00:00:00:aa")


@pytest.mark.parametrize(
    ("data", "backend", "found"),
    [(f'{{"PublicKey":"{KEY}"}}', Backend.WIREGUARD, PublicKey(KEY)), ("null", Backend.HOST_GW, None)],
)
def test_the_other_backends_data(data: str, backend: Backend, found: object) -> None:
    leases, words = read(node(**announced(backend_type=backend, backend_data=data, backend_v6_data=data)))
    assert ([lease.data for lease in leases], words) == ([found, found], "")


def test_a_node_that_has_not_spoken_claims_nothing() -> None:
    assert read(node()) == ([], "")
    assert read(node(**announced(kube_subnet_manager="false"))) == ([], "")
    assert read(node(cidrs=(), **announced())) == ([], "")


def test_a_node_of_one_family_is_no_broken_one() -> None:
    notes = announced()
    del notes["public_ipv6"], notes["backend_v6_data"]
    assert read(node(**notes)) == ([FOUR], "")


def test_what_is_wrong_in_one_family_costs_that_family() -> None:
    leases, words = read(node(**announced(backend_v6_data="nonsense")))
    assert leases == [FOUR]
    assert "node2: flannel.alpha.coreos.com/backend-v6-data 'nonsense'" in words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"public_ip": "somewhere"}, "node2: flannel.alpha.coreos.com/public-ip: "),
        ({"public_ip": "fd00::9"}, "public-ip: 'fd00::9' is not an IPv4 address"),
        ({"public_ip": "0.0.0.0"}, "public-ip: 0.0.0.0 is no address of one host"),
        ({"public_ip": "127.0.0.1"}, "public-ip: 127.0.0.1 is no address of one host"),
        ({"backend_type": "ipip"}, "backend-type 'ipip' is a backend that is not spoken here"),
        ({"backend_data": "null"}, "backend-data 'null'"),
        ({"backend_data": '{"VNI":1,"VtepMAC":"x"}'}, "VtepMAC 'x' is not the MAC address of one device"),
        ({"backend_data": '{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}'}, "is not the MAC address of one device"),
        ({"backend_type": "wireguard", "backend_data": '{"PublicKey":"short"}'}, "backend-data"),
        ({"backend_data": f'{{"VNI":1,"x":{DEEP}}}'}, "it is nested too deeply to be read"),
    ],
)
def test_a_claim_that_cannot_be_read_is_named_in_words(changed: dict[str, str], words: str) -> None:
    leases, said = read(node(**announced(**changed)), (Family.V4,))
    assert leases == []
    assert words in said
    assert "node2" in said
    assert len(said) < 500, "the log is no place for a quarter of a megabyte"


def test_a_flannel_without_an_address_is_named() -> None:
    notes = announced()
    del notes["public_ip"], notes["public_ipv6"]
    assert "public-ip is missing" in read(node(**notes))[1]


def test_an_administrators_words() -> None:
    said = node(public_ip_overwrite="203.0.113.7", node_public_ipv6="fd00::7")
    assert annotations.overwritten(said, PREFIX, Family.V4) == ip_address("203.0.113.7")
    assert annotations.overwritten(said, PREFIX, Family.V6) is None
    assert annotations.asked(said, PREFIX, Family.V6) == ip_address("fd00::7")
    assert annotations.asked(said, PREFIX, Family.V4) is None
    with pytest.raises(annotations.Unreadable, match="public-ip-overwrite"):
        annotations.overwritten(node(public_ip_overwrite="x"), PREFIX, Family.V4)


def test_a_podcidr_that_is_none_is_named() -> None:
    with pytest.raises(annotations.Unreadable, match=r"podCIDR '10.244.2.1/24'"):
        annotations.pod_subnet(node(cidrs=("10.244.2.1/24",)), Family.V4)
    assert annotations.pod_subnet(node(cidrs=("10.244.2.0/24",)), Family.V6) is None


def patch(of: Node, *, condition: bool = True, **own: Lease) -> dict[str, Any] | None:
    leases = {lease.family: lease for lease in own.values()}
    return annotations.patch_for(of, PREFIX, leases, NOW, condition=condition)


def test_the_first_patch_is_flannels() -> None:
    found = patch(node(), four=FOUR, six=SIX)
    assert found == {
        "metadata": {"annotations": {f"{PREFIX}{key.replace('_', '-')}": value for key, value in announced().items()}},
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


def test_one_family_writes_no_word_of_the_other() -> None:
    found = patch(node(), four=FOUR)
    assert found is not None
    assert not [key for key in found["metadata"]["annotations"] if "v6" in key]


def test_host_gw_writes_null() -> None:
    plain = Lease("node2", FOUR.subnet, FOUR.public_ip, Backend.HOST_GW, None)
    found = patch(node(up=True), four=plain)
    assert found is not None
    assert found["metadata"]["annotations"][f"{PREFIX}backend-data"] == "null"


def test_a_node_that_says_it_already_is_not_patched() -> None:
    assert patch(node(up=True, **announced()), four=FOUR, six=SIX) is None


def test_the_condition_may_be_left_to_others() -> None:
    assert patch(node(**announced()), condition=False, four=FOUR, six=SIX) is None


def test_what_somebody_changed_is_all_that_is_written() -> None:
    found = patch(node(up=True, **announced(public_ip="10.200.0.9")), four=FOUR, six=SIX)
    assert found == {"metadata": {"annotations": {f"{PREFIX}public-ip": "10.200.0.2"}}}


def test_heartbeats_are_no_claim() -> None:
    assert annotations.claim(node(up=True), PREFIX) == annotations.claim(node(), PREFIX)
    assert annotations.claim(node(), PREFIX) != annotations.claim(node(**announced()), PREFIX)
    assert annotations.claim(node(), PREFIX) != annotations.claim(None, PREFIX)
