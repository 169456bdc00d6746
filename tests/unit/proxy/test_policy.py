"""Configuration, Node and machine as one value for each family."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from kube.core import Node
from linux.iptables.rules import Family
from proxy.config import load
from proxy.model import PodBridge, PodInterfaces, PodNetwork, Policy
from proxy.policy import Policies

V4, V6 = Family.V4, Family.V6
LOCAL = [ip_address(text) for text in ("127.0.0.1", "192.168.0.1", "10.0.0.1", "::1", "fd00::1", "fe80::1")]


def node(*addresses: tuple[str, str], cidrs: tuple[str, ...] = ()) -> Node:
    body: dict[str, Any] = {
        "metadata": {"name": "node1"},
        "spec": {"podCIDRs": list(cidrs)},
        "status": {"addresses": [{"type": kind, "address": text} for kind, text in addresses]},
    }
    return msgspec.convert(body, Node)


NODE = node(
    ("Hostname", "node1"),
    ("ExternalIP", "203.0.113.1"),
    ("InternalIP", "192.168.0.1"),
    ("InternalIP", "fd00::1"),
    cidrs=("10.244.3.0/24", "fd00:10:244:3::/64"),
)


def policy(family: Family, *flags: str, this: Node | None = NODE) -> Policy:
    return Policies(load(["--kubeconfig=/k", *flags]), lambda: this, lambda: LOCAL).of(family)


@pytest.mark.parametrize(
    ("flags", "four", "six"),
    [
        ([], None, None),
        (["--cluster-cidr=10.244.0.0/16"], PodNetwork(ip_network("10.244.0.0/16")), None),
        (
            ["--cluster-cidr=fd00:10:244::/56,10.244.0.0/16"],
            PodNetwork(ip_network("10.244.0.0/16")),
            PodNetwork(ip_network("fd00:10:244::/56")),
        ),
        (
            ["--detect-local-mode=NodeCIDR", "--cluster-cidr=10.244.0.0/16"],
            PodNetwork(ip_network("10.244.3.0/24")),
            PodNetwork(ip_network("fd00:10:244:3::/64")),
        ),
        (["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"], PodBridge("cni0"), PodBridge("cni0")),
        (
            ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"],
            PodInterfaces("veth"),
            PodInterfaces("veth"),
        ),
    ],
)
def test_who_is_a_pod(flags: list[str], four: object, six: object) -> None:
    assert (policy(V4, *flags).pods, policy(V6, *flags).pods) == (four, six)


def test_without_a_node_nobody_is_taken_for_its_pod() -> None:
    assert policy(V4, "--detect-local-mode=NodeCIDR", this=None).pods is None


@pytest.mark.parametrize(
    ("flags", "four", "six"),
    [
        ([], None, None),
        (["--nodeport-addresses=0.0.0.0/0"], None, None),
        (["--nodeport-addresses=192.168.0.0/16,10.0.0.0/8"], ("10.0.0.1", "192.168.0.1"), None),
        (["--nodeport-addresses=172.16.0.0/12"], (), None),
        (["--nodeport-addresses=172.16.0.0/12,fd01::/16"], (), ()),
        (["--nodeport-addresses=127.0.0.0/8,fd00::/8"], (), ("fd00::1",)),
        (["--nodeport-addresses=127.0.0.0/8", "--iptables-localhost-nodeports"], ("127.0.0.1",), None),
        (["--nodeport-addresses=primary"], ("192.168.0.1",), ("fd00::1",)),
        (["--nodeport-addresses=primary", "--bind-address=10.0.0.1"], ("10.0.0.1",), ("fd00::1",)),
        (["--proxy-mode=nftables"], ("192.168.0.1",), ("fd00::1",)),
    ],
)
def test_where_node_ports_are_served(
    flags: list[str], four: tuple[str, ...] | None, six: tuple[str, ...] | None
) -> None:
    for family, wanted in ((V4, four), (V6, six)):
        found = policy(family, *flags).node_port_addresses
        assert found == (None if wanted is None else tuple(map(ip_address, wanted))), family


def test_a_node_that_is_not_there_yet_blocks_nothing() -> None:
    found = policy(V4, "--nodeport-addresses=primary", this=None)
    assert (found.node_port_addresses, found.node_ip) == ((), None)
    six = policy(V6, "--nodeport-addresses=primary", this=node(("InternalIP", "192.168.0.1")))
    assert (six.node_port_addresses, six.node_ip) == ((), None)


def test_an_external_address_where_there_is_no_other() -> None:
    assert policy(V4, this=node(("ExternalIP", "203.0.113.1"))).node_ip == ip_address("203.0.113.1")


def test_localhost_is_ipv4_of_iptables_mode() -> None:
    flag = "--iptables-localhost-nodeports"
    assert policy(V4, flag).localhost_node_ports
    assert not policy(V6, flag).localhost_node_ports
    assert not policy(V4, flag, "--proxy-mode=nftables").localhost_node_ports
    assert not policy(V4).localhost_node_ports
    assert not policy(V4, flag, "--nodeport-addresses=192.168.0.0/16").localhost_node_ports
    assert not policy(V4, flag, "--nodeport-addresses=primary").localhost_node_ports
    assert policy(V4, flag, "--nodeport-addresses=127.0.0.0/8").localhost_node_ports


def test_the_modes_section_counts() -> None:
    found = policy(V4, "--proxy-mode=nftables", "--iptables-masquerade-bit=7", "--masquerade-all")
    assert (found.masquerade_bit, found.masquerade_all) == (7, True)
