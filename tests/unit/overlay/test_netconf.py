"""net-conf.json: every key of flannel's is read, and what cannot be right is refused in words."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from linux.iptables.rules import Family
from overlay import netconf
from overlay.model import Backend
from overlay.netconf import (
    Allocation,
    HostGwSettings,
    Network,
    Sizes,
    Unfit,
    VxlanSettings,
    WireGuardSettings,
    parse,
)

V4, V6 = IPv4Network("10.244.0.0/16"), IPv6Network("fd00:244::/48")
KEY = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="


def read(document: Any) -> Network:
    return parse(document if isinstance(document, str) else json.dumps(document), "net-conf.json")


def vxlan(**more: Any) -> dict[str, Any]:
    return {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", **more}}


def wireguard(**more: Any) -> dict[str, Any]:
    return {"Network": "10.244.0.0/16", "Backend": {"Type": "wireguard", **more}}


@pytest.mark.parametrize(
    ("document", "network"),
    [
        ({"Network": "10.244.0.0/16"}, Network(V4)),
        (vxlan(), Network(V4)),
        (vxlan(VNI=7, Port=4789, MTU=9000), Network(V4, backend=VxlanSettings(7, 4789, 9000))),
        (vxlan(Port=0), Network(V4)),
        (
            vxlan(DirectRouting=True, Learning=True, GBP=True),
            Network(V4, backend=VxlanSettings(direct_routing=True, learning=True, gbp=True)),
        ),
        ({"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}, Network(V4, backend=HostGwSettings())),
        (wireguard(), Network(V4, backend=WireGuardSettings())),
        (
            wireguard(ListenPort=1, ListenPortV6=2, Mode="auto", PSK=KEY, PersistentKeepaliveInterval=25, MTU=1500),
            Network(V4, backend=WireGuardSettings(1, 2, "auto", KEY, 25, 1500)),
        ),
        ({"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}, Network(V4, V6)),
        ({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}, Network(None, V6)),
        ({"Network": "10.244.0.0/16", "IPv6Network": "fd00:244::/48"}, Network(V4)),
        ({"Network": "10.244.0.0/16", "EnableNFTables": True}, Network(V4, nftables=True)),
        (
            {"Network": "10.244.0.0/16", "SubnetLen": 26, "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.9.0"},
            Network(V4, sizes=Sizes(26, IPv4Address("10.244.1.0"), IPv4Address("10.244.9.0"))),
        ),
    ],
)
def test_documents(document: Any, network: Network) -> None:
    assert read(document) == network


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "it must be JSON such as"),
        ("[" * 100_000, "nested too deeply to be read; it must be JSON such as"),
        ([], "expected an object"),
        ({}, "Network: .*give the range of all pods"),
        ({"Network": "10.244.0.1/33"}, "Network: '33' is not a valid netmask"),
        ({"Network": "10.244.0.0/16", "network": "10.0.0.0/8"}, "Network: it is there twice, once spelt network"),
        ({"Network": "10.244.0.0/16", "Netwrk": 1}, r"Netwrk: unknown key; did you mean Network\?"),
        ({"Network": "10.244.0.0/16", "enableipv6": 1}, "EnableIPv6: 1 is neither true nor false"),
        ({"Network": "10.244.0.0/16", "EnableIPv6": True}, "IPv6Network: .*e.g. fd00:244::/48"),
        ({"Network": "10.244.0.0/16", "EnableIPv4": False}, "both families are switched off"),
        ({"Network": "10.244.0.0/16", "EnableIPv6": "yes"}, "EnableIPv6: 'yes' is neither true nor false"),
        ({"Network": "10.244.0.0/16", "SubnetMin": "fd00::"}, "SubnetMin: 'fd00::' is not an IPv4 address"),
        ({"Network": "10.244.0.0/16", "Backend": "vxlan"}, "Backend: expected an object"),
        ({"Network": "10.244.0.0/16", "Backend": {"Type": "ipip"}}, "Backend.Type: 'ipip' is not built in"),
        ({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlna"}}, r"'vxlna' is not built in; did you mean vxlan\?"),
        ({"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw", "MTU": 1}}, "Backend.MTU: unknown key"),
        (vxlan(VNI=0), "Backend.VNI: 0 is not a number from 1 to"),
        (vxlan(Port="8472"), "Backend.Port: '8472' is not a number"),
        (vxlan(MTU=600), "Backend.MTU: 600 leaves pods less than"),
        (vxlan(DirectRoting=True), r"did you mean Backend.DirectRouting\?"),
        (wireguard(PSK="short"), "Backend.PSK: .*wg genpsk"),
        (wireguard(Mode="both"), "Backend.Mode: 'both' is none of"),
        (wireguard(ListenPort=51821), "Backend.ListenPortV6: 51821 is ListenPort too"),
    ],
)
def test_what_cannot_be_right_is_refused_in_words(document: Any, words: str) -> None:
    with pytest.raises(Unfit, match=words) as refusal:
        read(document)
    assert str(refusal.value).startswith("net-conf.json: ")
    assert "\n" not in str(refusal.value)


def test_documents_that_flannel_takes_are_taken_and_what_has_no_effect_is_said() -> None:
    assert read({"network": "10.244.0.0/16", "backend": {"type": "VXLAN", "vni": 5}}) == Network(
        V4, backend=VxlanSettings(5)
    )
    masked = read({"Network": "10.244.1.0/16"})
    assert (masked.ipv4, masked.notes) == (V4, ("Network: 10.244.1.0/16 is read as 10.244.0.0/16",))
    windows = read(vxlan(VNI=4096, MacPrefix="0E-2A", Name="flannel.4096"))
    assert windows.backend == VxlanSettings(4096)
    assert windows.notes == tuple(
        f"Backend.{key}: flannel reads it on Windows alone; it has no effect here" for key in ("MacPrefix", "Name")
    )


def test_each_key_changes_what_is_read() -> None:
    """A key that nobody reads would be accepted and change nothing."""
    plain = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
    other: dict[str, Any] = {
        "Network": "10.0.0.0/8", "IPv6Network": "fd01::/48", "EnableIPv4": False, "EnableIPv6": False,
        "EnableNFTables": True, "Backend": {"Type": "host-gw"}, "SubnetLen": 25, "SubnetMin": "10.244.3.0",
        "SubnetMax": "10.244.4.0", "IPv6SubnetLen": 60, "IPv6SubnetMin": "fd00:244:0:1::", "IPv6SubnetMax": "fd00:244:0:9::",
    }  # fmt: skip
    assert set(other) == netconf.KEYS
    for key, value in other.items():
        assert read({**plain, key: value}) != read(plain), key
    backends: dict[Backend, dict[str, Any]] = {
        Backend.VXLAN: {"VNI": 9, "Port": 9, "MTU": 9000, "DirectRouting": True, "Learning": True, "GBP": True},
        Backend.HOST_GW: {},
        Backend.WIREGUARD: {
            "ListenPort": 9, "ListenPortV6": 9, "Mode": "auto", "PSK": KEY, "PersistentKeepaliveInterval": 9, "MTU": 9000,
        },
    }  # fmt: skip
    for kind, keys in backends.items():
        assert set(keys) == netconf.BACKEND_KEYS[kind]
        for key, value in keys.items():
            document = {**plain, "Backend": {"Type": kind, key: value}}
            assert read(document) != read({**plain, "Backend": {"Type": kind}}), key


@pytest.mark.parametrize(
    ("network", "sizes", "allocation"),
    [
        ("10.244.0.0/16", Sizes(), (24, "10.244.1.0", "10.244.255.0")),
        ("10.244.0.0/23", Sizes(), (25, "10.244.0.128", "10.244.1.128")),
        ("10.0.0.0/28", Sizes(), (30, "10.0.0.4", "10.0.0.12")),
        ("10.244.0.0/16", Sizes(28), (28, "10.244.0.16", "10.244.255.240")),
        ("10.244.0.0/16", Sizes(least=IPv4Address("10.244.0.0")), (24, "10.244.0.0", "10.244.255.0")),
    ],
)
def test_the_subnets_that_may_be_handed_out(network: str, sizes: Sizes, allocation: tuple[int, str, str]) -> None:
    length, least, most = allocation
    found = Network(IPv4Network(network), sizes=sizes).allocation(Family.V4)
    assert found == Allocation(length, IPv4Address(least), IPv4Address(most))


def test_ipv6_subnets_are_of_64_bits() -> None:
    found = Network(V4, V6).allocation(Family.V6)
    assert found == Allocation(64, IPv6Address("fd00:244:0:1::"), IPv6Address("fd00:244:0:ffff::"))


@pytest.mark.parametrize(
    ("network", "sizes", "words"),
    [
        ("10.0.0.0/29", Sizes(), "too small to hand out subnets"),
        ("10.244.0.0/16", Sizes(17), "must hold at least four subnets of /17; give 18 or more"),
        ("10.244.0.0/16", Sizes(31), "has no room for pods"),
        ("10.244.0.0/16", Sizes(least=IPv4Address("10.0.0.0")), "SubnetMin: 10.0.0.0 lies outside Network"),
        (
            "10.244.0.0/16",
            Sizes(most=IPv4Address("10.244.1.1")),
            "SubnetMax: 10.244.1.1 is not the first address of a /24",
        ),
        (
            "10.244.0.0/16",
            Sizes(least=IPv4Address("10.244.9.0"), most=IPv4Address("10.244.1.0")),
            "lies behind SubnetMax",
        ),
    ],
)
def test_subnets_that_do_not_fit(network: str, sizes: Sizes, words: str) -> None:
    with pytest.raises(Unfit, match=words):
        replace(Network(IPv4Network(network)), sizes=sizes).allocation(Family.V4)
