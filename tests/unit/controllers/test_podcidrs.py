import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers import daemon
from controllers.config import Config
from controllers.plan.podcidrs import Network, Pool, assignments, ranges_of
from kube.core import Node
from kube.errors import UsageError
from tests.unit.controllers.objects import node

FOUR = Pool(ipaddress.ip_network("10.244.0.0/16"), 24)
SIX = Pool(ipaddress.ip_network("fd00::/48"), 64)
SMALL = Pool(ipaddress.ip_network("10.0.0.0/22"), 24)


def with_range(name: str, *ranges: str) -> Node:
    return node(name, podCIDR=ranges[0] if ranges else "", podCIDRs=list(ranges))


def given_to(nodes: list[Node], *pools: Pool, before: dict[str, list[Network]] | None = None) -> dict[str, str | None]:
    found = assignments(nodes, pools or (FOUR,), before or {})
    return {n.metadata.name: ",".join(map(str, r)) if r else None for n, r in found}


def test_the_lowest_free_range_is_next() -> None:
    nodes = [with_range("a", "10.244.0.0/24"), with_range("b", "10.244.2.0/24"), with_range("c"), with_range("d")]
    assert given_to(nodes) == {"c": "10.244.1.0/24", "d": "10.244.3.0/24"}


def test_ranges_of_another_size_take_all_that_they_overlap() -> None:
    nodes = [with_range("wide", "10.244.0.0/22"), with_range("host", "10.244.4.128/26"), with_range("new")]
    assert given_to(nodes) == {"new": "10.244.5.0/24"}


def test_each_family_has_its_own() -> None:
    assert given_to([with_range("a", "10.244.0.0/24", "fd00::/64"), with_range("b")], FOUR, SIX) == {
        "b": "10.244.1.0/24,fd00:0:0:1::/64"
    }


def test_what_was_just_written_is_taken_and_not_written_again() -> None:
    before: dict[str, list[Network]] = {"uid-a": [ipaddress.ip_network("10.244.0.0/24")]}
    assert given_to([with_range("a"), with_range("b")], before=before) == {"b": "10.244.1.0/24"}


def test_a_used_up_pool_says_so() -> None:
    nodes = [with_range(str(i)) for i in range(5)]
    assert list(given_to(nodes, SMALL).values()) == [f"10.0.{i}.0/24" for i in range(4)] + [None]


def test_a_range_outside_of_the_pool_takes_nothing_and_a_broken_one_neither() -> None:
    assert given_to([with_range("a", "192.168.0.0/24"), with_range("b", "nonsense"), with_range("c")]) == {
        "c": "10.244.0.0/24"
    }


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 1023), st.integers(22, 28))), max_size=8))
def test_no_two_nodes_overlap(wishes: list[tuple[int, int] | None]) -> None:
    """Whatever nodes have already, what is given overlaps nothing."""
    nodes = []
    for i, wish in enumerate(wishes):
        text = (
            str(ipaddress.ip_network((int(SMALL.cluster.network_address) + wish[0], wish[1]), strict=False))
            if wish
            else ""
        )
        nodes.append(with_range(str(i), *([text] if text else [])))
    held = [r for n in nodes for r in ranges_of(n)]
    for _, ranges in assignments(nodes, (SMALL,), {}):
        for new in ranges or ():
            assert not any(new.overlaps(old) for old in held)  # type: ignore[arg-type]
            held.append(new)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cluster_cidr": ()}, "--cluster-cidr is required"),
        ({"cluster_cidr": ("10.244.0.1/16",)}, "has host bits set; write it like"),
        ({"cluster_cidr": ("10.0.0.0/24",), "node_cidr_mask_size": 16}, "--node-cidr-mask-size: a /16 cannot be cut"),
        ({"cluster_cidr": ("10.0.0.0/8",), "node_cidr_mask_size": 30}, "more than 65536"),
        ({"cluster_cidr": ("10.0.0.0/16", "10.1.0.0/16")}, "is a second IPv4 range"),
    ],
)
def test_a_wrong_configuration_is_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        daemon.pools(Config(kubeconfig="x", **settings))  # type: ignore[arg-type]
