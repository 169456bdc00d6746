"""From claims to a wish: which tunnels there are, who is a peer, who is left out and why, and when nothing can be wished for."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux.iptables.rules import Family
from overlay import wish
from overlay.model import Backend, Lease, NotYet, Route, RouteKind, Tunnel, Vtep
from overlay.netconf import BackendSettings, VxlanSettings, WireGuardSettings
from overlay.spans import Spans
from tests.unit.overlay import nodes
from tests.unit.overlay.nodes import DIRECT, HOST_GW, VXLAN, WIREGUARD, here, lease, network, wished

BOTH = (Family.V4, Family.V6)
ONE_DEVICE = WireGuardSettings(mode="auto")


def told(found: wish.Wish) -> list[str]:
    return [peer.node for peer in found.peers]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (VXLAN, ["flannel.1", "flannel-v6.1"]),
        (VxlanSettings(vni=7), ["flannel.7", "flannel-v6.7"]),
        (WIREGUARD, ["flannel-wg", "flannel-wg-v6"]),
    ],
)
def test_each_family_has_a_tunnel_and_none_is_a_stray_to_the_other(settings: BackendSettings, names: list[str]) -> None:
    every = frozenset(names)
    assert wish.tunnels(network(settings, BOTH)) == (
        Tunnel(names[0], (Family.V4,), every),
        Tunnel(names[1], (Family.V6,), every),
    )
    assert wish.tunnels(network(settings, (Family.V6,))) == (Tunnel(names[1], (Family.V6,), frozenset(names[1:])),)


def test_one_wireguard_device_may_carry_both_families_and_host_gw_has_none() -> None:
    assert wish.tunnels(network(ONE_DEVICE, BOTH)) == (Tunnel("flannel-wg", BOTH, frozenset({"flannel-wg"})),)
    assert wish.tunnels(network(HOST_GW, BOTH)) == (Tunnel("", (Family.V4,)), Tunnel("", (Family.V6,)))


def test_who_is_on_our_link_is_only_asked_where_it_matters() -> None:
    backends: Sequence[BackendSettings] = [HOST_GW, DIRECT, VXLAN, WIREGUARD]
    assert [wish.asks_direct(network(settings)) for settings in backends] == [True, True, False, False]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", nodes.BACKENDS)
def test_everyone_who_announces_what_we_can_reach_is_a_peer(backend: str, family: Family) -> None:
    settings = nodes.BACKENDS[backend]
    found = wished([lease(3, family, settings), lease(2, family, settings)], settings, family)
    assert told(found) == ["node2", "node3"]
    assert found.wanted.subnets == (nodes.subnet(2, family), nodes.subnet(3, family))
    assert found.refused == {}


def test_leases_of_the_other_family_are_the_other_tunnels() -> None:
    assert told(wished([lease(2), lease(3, Family.V6)])) == ["node2"]


def test_our_own_lease_among_the_others_is_no_rival_to_itself() -> None:
    assert told(wished([lease(1), lease(2)])) == ["node2"]


@pytest.mark.parametrize(
    ("rivals", "words"),
    [
        ([lease(2, since=5), lease(3, at=2, since=4)], "node3 and node2 both announce the public IP 10.200.0.2"),
        (
            [lease(2, since=5), lease(3, data=2, since=4)],
            "both announce the VTEP MAC 02:00:00:00:00:02; node3 is older",
        ),
        (
            [replace(lease(2, since=5), subnet=ip_network("10.244.3.128/25")), lease(3, since=4)],
            r"nodes node3 \(10.244.3.0/24\) and node2 \(10.244.3.128/25\) have subnets that overlap",
        ),
        (
            [replace(lease(2, since=5), subnet=ip_network("10.244.2.0/23")), lease(3, since=4)],
            r"nodes node3 \(10.244.3.0/24\) and node2 \(10.244.2.0/23\)",
        ),
        ([replace(lease(2), subnet=ip_network("10.9.0.0/24")), lease(3)], "outside the network 10.244.0.0/16"),
        ([replace(lease(2), subnet=ip_network("10.0.0.0/8")), lease(3)], "outside the network 10.244.0.0/16"),
        (
            [replace(lease(2), backend=Backend.HOST_GW, data=None), lease(3)],
            "uses the backend host-gw, here it is vxlan",
        ),
        ([replace(lease(2), data=None), lease(3)], "announces no VTEP"),
        ([replace(lease(2), data=Vtep(7, nodes.mac(2))), lease(3)], "has VNI 7, here it is 1"),
    ],
)
def test_what_cannot_stand_beside_an_older_claim_or_be_reached_is_left_out_in_words(
    rivals: Sequence[Lease], words: str
) -> None:
    found = wished(rivals)
    assert told(found) == ["node3"]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found.refused["node2"])


def test_two_nodes_with_one_wireguard_key_are_rivals_but_a_nodes_two_families_are_not() -> None:
    cloned = wished([lease(2, settings=WIREGUARD), lease(3, settings=WIREGUARD, data=2)], WIREGUARD)
    assert told(cloned) == ["node2"]
    assert "both announce one WireGuard key" in cloned.refused["node3"]
    net = network(ONE_DEVICE, BOTH)
    mine = {family: lease(1, family, ONE_DEVICE) for family in BOTH}
    theirs = [lease(2, family, ONE_DEVICE) for family in BOTH]
    found = wish.wish(wish.tunnels(net)[0], mine, theirs, net, {family: here(family) for family in BOTH})
    assert told(found) == ["node2", "node2"]


def test_host_gw_leaves_out_who_is_behind_a_router() -> None:
    found = wished([lease(2, settings=HOST_GW), lease(3, settings=HOST_GW)], HOST_GW, direct=[3])
    assert told(found) == ["node3"]
    assert "without a router" in found.refused["node2"]


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (lease(1), replace(lease(2, at=1), since=-1), "nodes node2 and node1 both announce the public IP"),
        (lease(1), replace(lease(2, data=1), since=-1), "both announce the VTEP MAC"),
        (replace(lease(1), subnet=nodes.subnet(2)), replace(lease(2), since=-1), "subnets that overlap"),
        (replace(lease(1), subnet=ip_network("192.168.0.0/24")), lease(2), "outside the network"),
    ],
)
def test_our_own_claim_is_judged_as_the_others_judge_it(own: Lease, other: Lease, words: str) -> None:
    net = network()
    with pytest.raises(NotYet, match=words):
        wish.wish(wish.tunnels(net)[0], {Family.V4: own}, [other], net, {Family.V4: here()})


def test_where_pods_have_this_nodes_own_address_nothing_is_done_to_it() -> None:
    net = network()
    base = replace(
        here().underlay, address=ip_address("10.244.2.77")
    )  # behind an address translation: --public-ip is another
    place = {Family.V4: replace(here(), underlay=base)}
    found = wish.wish(wish.tunnels(net)[0], {Family.V4: lease(1)}, [lease(2), lease(3)], net, place)
    assert told(found) == ["node3"]
    assert "holds 10.244.2.77, the address of this node" in found.refused["node2"]
    mine = replace(lease(1), subnet=nodes.subnet(2))
    with pytest.raises(NotYet, match=r"holds 10\.244\.2\.77, the address of this node"):
        wish.wish(wish.tunnels(net)[0], {Family.V4: mine}, [], net, place)


def test_a_peer_in_whose_subnet_another_interface_has_an_address_is_left_out() -> None:
    """Else its route would take the way to that interface's network."""
    net = network()
    place = {
        Family.V4: replace(here(), elsewhere={ip_address("10.244.1.1"): "cni0", ip_address("10.244.2.15"): "nat0"})
    }
    found = wish.wish(wish.tunnels(net)[0], {Family.V4: lease(1)}, [lease(2), lease(3)], net, place)
    assert told(found) == ["node3"]
    assert "subnet 10.244.2.0/24 holds 10.244.2.15, an address of this node's nat0" in found.refused["node2"]
    assert found.wanted.subnets == (nodes.subnet(3),)


def test_against_a_younger_rival_our_claim_stands() -> None:
    assert "node2" in wished([lease(2, at=1, since=1)]).refused


def test_the_blackhole_of_our_pods_is_asked_for_by_a_flag_and_comes_last() -> None:
    hole = Route(nodes.subnet(1), None, metric=2**32 - 1, kind=RouteKind.BLACKHOLE)
    assert wished([lease(2)], blackhole=True).wanted.routes[-1] == hole
    assert hole not in wished([lease(2)]).wanted.routes


def rivals() -> st.SearchStrategy[list[Lease]]:
    """Leases of few addresses, MACs and subnets of several lengths, so that many contradict each other."""

    def one(number: int, data: int, at: str, span: str, since: int) -> Lease:
        return replace(lease(number, data=data, since=since), subnet=ip_network(span), public_ip=ip_address(at))

    spans = ["10.244.0.0/22", "10.244.0.0/24", "10.244.1.0/24", "10.244.1.128/25", "10.244.8.0/24", "10.9.0.0/24"]
    few = st.integers(2, 6)
    hosts = st.sampled_from(["10.200.0.2", "10.200.0.3", "10.200.0.4", "10.200.0.5", "10.244.1.9", "10.244.8.7"])
    made = st.builds(one, st.integers(2, 20), few, hosts, st.sampled_from(spans), st.integers(0, 3))
    return st.lists(made, max_size=8, unique_by=lambda found: found.node)


@settings(max_examples=100, deadline=None)
@given(rivals(), st.randoms(use_true_random=False))
def test_every_node_judges_alike_and_who_stands_contradicts_nobody(leases: list[Lease], random: Random) -> None:
    net, pods = network(), {Family.V4: nodes.PODS[Family.V4]}
    found = wish.accepted(leases, net, pods)
    shuffled = list(leases)
    random.shuffle(shuffled)
    assert wish.accepted(shuffled, net, pods) == found
    standing = found.leases
    assert {one.node for one in standing} | found.refused.keys() == {one.node for one in leases}
    for number, one in enumerate(standing):
        for other in standing[:number]:
            assert one.public_ip != other.public_ip
            assert one.data != other.data
            assert not one.subnet.overlaps(other.subnet)
            assert one.public_ip not in other.subnet
            assert other.public_ip not in one.subnet
    assert wish.accepted(standing, net, pods).leases == standing


def test_a_thousand_subnets_are_searched_by_length() -> None:
    spans = Spans((ip_network(f"10.{n >> 8}.{n & 255}.0/24"), n) for n in range(1000))
    assert spans.holding(ip_network("10.3.7.9/32")) == 3 * 256 + 7
    assert spans.holding(ip_network("10.3.0.0/16")) is None
    assert spans.overlapping(ip_network("10.3.0.0/16")) is not None
    assert spans.overlapping(ip_network("10.200.0.0/16")) is None
    assert spans.overlapping(ip_network("fd00::/64")) is None
