"""flannel's keys and values in etcd, byte for byte, and which subnet a node may take."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.iptables.rules import Family
from overlay import netconf
from overlay.model import Backend, Lease, PublicKey, Vtep
from overlay.registry import etcd_keys as keys
from overlay.registry.etcd_keys import Entry

FOUR = IPv4Network("10.5.34.0/24")
SIX = IPv6Network("fc00:0:0:1::/64")
DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
KEY = "mB0vYk3T8o5uVd8u4pVYz2nI2r0jzqfZ0T3n4w3zB1c="
V4 = Lease("n", FOUR, IPv4Address("192.168.0.11"), Backend.VXLAN, Vtep(1, "8e:1b:10:4f:22:4d"))
V6 = Lease("n", SIX, IPv6Address("fd00::11"), Backend.VXLAN, Vtep(1, "8e:1b:10:4f:22:4e"))

WRITTEN_BY_FLANNEL = [
    (
        (V4,),
        "10.5.34.0-24",
        (
            b'{"PublicIP":"192.168.0.11","PublicIPv6":null,"BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"8e:1b:10:4f:22:4d"}}'
        ),
    ),
    (
        (V4, V6),
        "10.5.34.0-24&fc00:0:0:1::-64",
        (
            b'{"PublicIP":"192.168.0.11","PublicIPv6":"fd00::11","BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"8e:1b:10:4f:22:4d"},"BackendV6Data":{"VNI":1,"VtepMAC":"8e:1b:10:4f:22:4e"}}'
        ),
    ),
    (
        (Lease("n", FOUR, IPv4Address("192.168.0.11"), Backend.HOST_GW),),
        "10.5.34.0-24",
        b'{"PublicIP":"192.168.0.11","PublicIPv6":null,"BackendType":"host-gw"}',
    ),
    (
        (Lease("n", FOUR, IPv4Address("192.168.0.11"), Backend.WIREGUARD, PublicKey(KEY)),),
        "10.5.34.0-24",
        b'{"PublicIP":"192.168.0.11","PublicIPv6":null,"BackendType":"wireguard",'
        b'"BackendData":{"PublicKey":"' + KEY.encode() + b'"}}',
    ),
]


@pytest.mark.parametrize(("leases", "name", "value"), WRITTEN_BY_FLANNEL)
def test_what_is_written_is_flannels_and_is_read_again(leases: tuple[Lease, ...], name: str, value: bytes) -> None:
    own = {lease.family: lease for lease in leases}
    assert keys.name_of({family: lease.subnet for family, lease in own.items()}) == name
    assert keys.value_of(own) == value
    read = keys.leases(Entry(name, value, lease=7, created=5))
    assert [(one.subnet, one.public_ip, one.backend, one.data) for one in read] == [
        (one.subnet, one.public_ip, one.backend, one.data) for one in leases
    ]
    assert {one.node for one in read} == {name}
    assert {one.since for one in read} == {5.0}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("10.5.34.0", b"{}", "is not like 10.5.34.0-24"),
        ("10.5.34.1-24", b"{}", "has host bits set"),
        ("10.5.34.0-24&-64", b"{}", "is not like"),
        ("10.5.34.0-24", b"{", "10.5.34.0-24: "),
        ("10.5.34.0-24", b"[]", "10.5.34.0-24: "),
        ("10.5.34.0-24", b"{}", "is a backend that is not spoken here"),
        ("10.5.34.0-24", b'{"BackendType":"host-gw"}', "names no PublicIP"),
        ("10.5.34.0-24", b'{"PublicIP":"1.2.3","BackendType":"host-gw"}', "1.2.3"),
        ("10.5.34.0-24", b'{"PublicIP":"1.2.3.4","BackendType":"udp"}', "'udp'"),
        ("10.5.34.0-24", b'{"PublicIP":"1.2.3.4","BackendType":"vxlan"}', "10.5.34.0-24"),
        ("10.5.34.0-24", b'{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VtepMAC":"x"}}', "VtepMAC"),
        ("10.5.34.0-24", DEEP, "it is nested too deeply to be read"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, value: bytes, words: str) -> None:
    with pytest.raises(keys.UnreadableLease, match=words.replace("(", r"\(")):
        keys.leases(Entry(name, value))


def test_of_a_key_of_both_families_the_readable_one_counts() -> None:
    value = b'{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}'
    assert [one.family for one in keys.leases(Entry("10.5.34.0-24&fc00::-64", value))] == [Family.V4]
    assert keys.public_ips(Entry("x", b"junk")) == {}
    assert keys.public_ips(Entry("x", DEEP)) == {}
    assert keys.public_ips(Entry("x", b'{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}')) == {
        Family.V6: IPv6Address("fd00::1")
    }


def network(**more: object) -> netconf.Network:
    return netconf.parse(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}, **more}), "test")


def test_the_first_subnet_is_never_chosen_and_only_the_first_hundred_are() -> None:
    chosen = {keys.choose(network(), (), Random(seed))[Family.V4] for seed in range(2000)}
    assert min(chosen) == IPv4Network("10.5.1.0/24")
    assert max(chosen) == IPv4Network("10.5.100.0/24")
    assert len(chosen) == keys.CHOICE


def test_what_others_have_is_jumped_over() -> None:
    taken = ["10.5.1.0-24", "10.5.2.0-23", "10.5.4.128-25", "junk", "10.5.6.0-24&fc00::-64"]
    small = network(SubnetMax="10.5.6.0")
    assert {keys.choose(small, taken, Random(seed))[Family.V4] for seed in range(50)} == {IPv4Network("10.5.5.0/24")}
    with pytest.raises(keys.OutOfSubnets, match=r"10\.5\.1\.0 to 10\.5\.6\.0"):
        keys.choose(small, [*taken, "10.5.5.0-24"], Random(0))


def test_both_families_are_chosen_from_their_ranges() -> None:
    dual = network(EnableIPv6=True, IPv6Network="fc00::/48")
    found = keys.choose(dual, ["10.5.1.0-24&fc00:0:0:1::-64"], Random(1))
    assert keys.fits(dual, found)
    assert found[Family.V6] != SIX
    assert not keys.fits(dual, {Family.V4: FOUR})
    assert not keys.fits(network(), {Family.V4: FOUR, Family.V6: SIX})
    assert not keys.fits(network(SubnetLen=25), {Family.V4: FOUR})
    assert not keys.fits(network(SubnetMin="10.5.35.0"), {Family.V4: FOUR})


def test_what_a_node_had_is_preferred_family_by_family() -> None:
    """A network that gets IPv6 takes nobody's IPv4 subnet away."""
    dual = network(EnableIPv6=True, IPv6Network="fc00::/48")
    found = keys.choose(
        dual, [], Random(1), [{Family.V4: FOUR}, {Family.V4: IPv4Network("10.5.7.0/24"), Family.V6: SIX}]
    )
    assert found == {Family.V4: FOUR, Family.V6: SIX}
    found = keys.choose(dual, ["10.5.34.0-25&fc00:0:0:1::-66"], Random(1), [{Family.V4: FOUR, Family.V6: SIX}])
    assert found[Family.V4] != FOUR
    assert found[Family.V6] != SIX
    assert keys.choose(network(SubnetMin="10.5.35.0"), [], Random(1), [{Family.V4: FOUR}])[Family.V4] != FOUR


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(22, 28)), max_size=40), st.integers(0, 5))
def test_a_choice_overlaps_nobodys(held: list[tuple[int, int]], seed: int) -> None:
    names = [f"{IPv4Network((f'10.5.{third}.0', bits), strict=False).network_address}-{bits}" for third, bits in held]
    found = keys.choose(network(), names, Random(seed))
    assert not any(found[Family.V4].overlaps(ip_network(name.replace("-", "/"))) for name in names)
    assert keys.fits(network(), found)
