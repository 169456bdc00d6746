"""What each backend asks for, family by family: names, MTU, entries."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from linux.iptables.rules import Family
from overlay import wish
from overlay.model import (
    Fdb,
    Lease,
    LocalAddress,
    Neighbour,
    Route,
    VxlanDevice,
    Wanted,
    WireGuardDevice,
    WireGuardPeer,
)
from overlay.netconf import VxlanSettings, WireGuardSettings
from tests.unit.overlay import nodes
from tests.unit.overlay.nodes import DIRECT, HOST_GW, UNDERLAY, WIREGUARD, here, lease, network, wished

BOTH = (Family.V4, Family.V6)


def test_vxlan_asks_for_a_device_its_address_and_three_entries_a_peer() -> None:
    found = wished([lease(2)])
    assert found.mtu == 1450
    assert found.wanted == Wanted(
        VxlanDevice("flannel.1", 1, 8472, UNDERLAY, ip_address("10.200.0.1"), 1450, "02:00:00:00:00:01"),
        (LocalAddress(ip_interface("10.244.1.0/32")),),
        (Neighbour(ip_address("10.244.2.0"), "02:00:00:00:00:02"),),
        (Fdb("02:00:00:00:00:02", ip_address("10.200.0.2")),),
        routes=(Route(ip_network("10.244.2.0/24"), ip_address("10.244.2.0"), onlink=True),),
        subnets=(ip_network("10.244.2.0/24"),),
    )


def test_over_ipv6_the_header_is_longer_and_the_kernels_metric_is_said() -> None:
    found = wished([lease(2, Family.V6)], family=Family.V6)
    assert found.mtu == 1430
    assert found.wanted == Wanted(
        VxlanDevice("flannel-v6.1", 1, 8472, UNDERLAY, ip_address("fd00:200::1"), 1430, "02:00:00:00:00:01"),
        (LocalAddress(ip_interface("fd10:244:0:1::/128")),),
        (Neighbour(ip_address("fd10:244:0:2::"), "02:00:00:00:00:02"),),
        (Fdb("02:00:00:00:00:02", ip_address("fd00:200::2")),),
        routes=(Route(ip_network("fd10:244:0:2::/64"), ip_address("fd10:244:0:2::"), onlink=True, metric=1024),),
        subnets=(ip_network("fd10:244:0:2::/64"),),
    )


def test_what_net_conf_says_of_the_device_is_asked_for() -> None:
    given = VxlanSettings(vni=1, port=4789, mtu=1400, learning=True, gbp=True)
    device = wished([], given).wanted.device
    assert device == VxlanDevice(
        "flannel.1", 1, 4789, UNDERLAY, ip_address("10.200.0.1"), 1350, "02:00:00:00:00:01", learning=True, gbp=True
    )


@pytest.mark.parametrize(("family", "mtu"), [(Family.V4, 1450), (Family.V6, 1430)])
def test_no_device_is_wanted_larger_than_its_underlay_carries(family: Family, mtu: int) -> None:
    """The kernel would make it smaller and refuse to set it right, for ever."""
    found = wished([], VxlanSettings(mtu=9000), family)
    assert isinstance(found.wanted.device, VxlanDevice)
    assert (found.mtu, found.wanted.device.mtu) == (mtu, mtu)


@pytest.mark.parametrize("family", Family)
def test_a_peer_on_our_link_needs_no_vxlan_where_direct_routing_is_on(family: Family) -> None:
    peers = [lease(2, family), lease(3, family)]
    found = wished(peers, DIRECT, family, direct=[3]).wanted
    assert [one.address for one in found.neighbours] == [nodes.subnet(2, family).network_address]
    assert [one.remote for one in found.fdb] == [nodes.host(2, family)]
    metric = 0 if family is Family.V4 else 1024
    assert found.routes[1] == Route(nodes.subnet(3, family), nodes.host(3, family), UNDERLAY, metric=metric)
    assert len(wished(peers, VxlanSettings(), family, direct=[3]).wanted.fdb) == 2


def test_a_direct_peer_behind_another_interface_is_reached_there() -> None:
    net = network(DIRECT)
    place = replace(here(), direct={nodes.host(2): 9})
    found = wish.wish(wish.tunnels(net)[0], {Family.V4: lease(1)}, [lease(2)], net, {Family.V4: place})
    assert found.wanted.routes == (Route(nodes.subnet(2), nodes.host(2), 9),)


@pytest.mark.parametrize("family", Family)
def test_host_gw_asks_for_routes_alone(family: Family) -> None:
    found = wished([lease(2, family, HOST_GW)], HOST_GW, family)
    assert found.mtu == 1500
    metric = 0 if family is Family.V4 else 1024
    route = Route(nodes.subnet(2, family), nodes.host(2, family), UNDERLAY, metric=metric)
    assert found.wanted == Wanted(routes=(route,), subnets=(nodes.subnet(2, family),))


@pytest.mark.parametrize(
    ("family", "name", "port"), [(Family.V4, "flannel-wg", 51820), (Family.V6, "flannel-wg-v6", 51821)]
)
def test_wireguard_asks_for_a_peer_with_its_subnet_and_one_route_for_all(family: Family, name: str, port: int) -> None:
    given = replace(WIREGUARD, psk="shared", keepalive=25)
    found = wished([lease(2, family, given)], given, family)
    assert found.mtu == 1420
    assert found.wanted.device == WireGuardDevice(name, port, 1420, "private")
    assert found.wanted.peers == (
        WireGuardPeer("key2", (nodes.host(2, family), port), frozenset({nodes.subnet(2, family)}), "shared", 25),
    )
    assert found.wanted.routes == (Route(nodes.PODS[family], None, metric=0 if family is Family.V4 else 1024),)
    assert "private" not in repr(found.wanted)
    assert "shared" not in repr(found.wanted)


def both(settings: WireGuardSettings, peers: Sequence[Lease], ours: str = "fd00:200::1") -> Wanted:
    net = network(settings, BOTH)
    own = {family: lease(1, family, settings) for family in BOTH}
    places = {family: here(family) for family in BOTH}
    six = places[Family.V6]
    places[Family.V6] = replace(six, underlay=replace(six.underlay, address=ip_address(ours), mtu=1400))
    return wish.wish(wish.tunnels(net)[0], own, peers, net, places).wanted


def at(address4: str, address6: str, settings: WireGuardSettings) -> list[Lease]:
    return [
        replace(lease(2, Family.V4, settings), public_ip=ip_address(address4)),
        replace(lease(2, Family.V6, settings), public_ip=ip_address(address6)),
    ]


@pytest.mark.parametrize(
    ("mode", "four", "six", "ours", "endpoint"),
    [
        ("ipv4", "10.200.0.2", "2001:db8::2", "2001:db8::1", "10.200.0.2"),
        ("ipv6", "192.0.2.2", "fd00:200::2", "fd00:200::1", "fd00:200::2"),
        ("auto", "10.200.0.2", "fd00:200::2", "fd00:200::1", "10.200.0.2"),
        ("auto", "192.0.2.2", "2001:db8::2", "2001:db8::1", "192.0.2.2"),
        ("auto", "10.200.0.2", "2001:db8::2", "2001:db8::1", "2001:db8::2"),
        ("auto", "10.200.0.2", "2001:db8::2", "fd00:200::1", "10.200.0.2"),
    ],
)
def test_one_wireguard_device_for_both_families_goes_where_the_mode_says(
    mode: str, four: str, six: str, ours: str, endpoint: str
) -> None:
    settings = WireGuardSettings(mode=mode)
    found = both(settings, at(four, six, settings), ours)
    (peer,) = found.peers
    assert peer.endpoint == (ip_address(endpoint), 51820)
    assert peer.allowed == {nodes.subnet(2), nodes.subnet(2, Family.V6)}
    assert found.device == WireGuardDevice("flannel-wg", 51820, 1320, "private")
    assert [route.destination for route in found.routes] == list(nodes.PODS.values())
    assert len(found.addresses) == 2


def test_a_peer_of_one_family_is_reached_over_that_one() -> None:
    settings = WireGuardSettings(mode="ipv4")
    (peer,) = both(settings, [lease(2, Family.V6, settings)]).peers
    assert peer.endpoint == (nodes.host(2, Family.V6), 51820)
    assert peer.allowed == {nodes.subnet(2, Family.V6)}
