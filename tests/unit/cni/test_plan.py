"""Whom an address may be given to, and what the pod that gets it consists of."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import config, plan
from cni.call import Call
from cni.model import Attachment, Lease, Seen, Subnet, parse_address, parse_subnet

SUBNETS = st.builds(
    lambda number, length: Subnet(number & ~(0xFFFFFFFF >> length), length),
    st.integers(0, 2**32 - 1),
    st.integers(24, 30),
)
CALL = Call("ADD", "c0ffee", "eth0", "/run/netns/x")


@given(SUBNETS, st.data())
def test_an_address_is_free_and_a_hosts_or_there_is_none(subnet: Subnet, data: st.DataObject) -> None:
    hosts = [int(each) for each in ipaddress.ip_network(str(subnet)).hosts()][1:]
    taken = data.draw(st.sets(st.sampled_from(hosts)))
    last = data.draw(st.none() | st.sampled_from(hosts) | st.integers(0, 2**32 - 1))
    found = plan.free_address(subnet, taken, last)
    if found is None:
        assert taken == set(hosts)
    else:
        assert found in hosts
        assert found not in taken


@given(SUBNETS, st.data())
def test_the_address_given_last_and_freed_is_given_again_last(subnet: Subnet, data: st.DataObject) -> None:
    hosts = [int(each) for each in ipaddress.ip_network(str(subnet)).hosts()][1:]
    last = data.draw(st.sampled_from(hosts))
    held = data.draw(st.sets(st.sampled_from(hosts))) - {last}
    given_since: list[int] = []
    while (found := plan.free_address(subnet, held, last if not given_since else given_since[-1])) is not None:
        held.add(found)
        given_since.append(found)
    assert given_since[-1] == last
    assert held == set(hosts)


def test_the_round_starts_after_the_last_and_wraps() -> None:
    subnet = parse_subnet("10.0.0.0/29")  # .1 is the gateway; .2 to .6 are pods
    address = parse_address

    def free(taken: set[int], last: int | None) -> int | None:
        return plan.free_address(subnet, taken, last)

    assert free(set(), None) == address("10.0.0.2")
    assert free(set(), address("10.0.0.2")) == address("10.0.0.3")
    assert free(set(), address("10.0.0.6")) == address("10.0.0.2")
    assert free({address("10.0.0.2")}, address("10.0.0.6")) == address("10.0.0.3")
    assert free({address(f"10.0.0.{n}") for n in (2, 3, 4, 5)}, address("10.0.0.6")) == address("10.0.0.6")
    assert free({address(f"10.0.0.{n}") for n in (2, 3, 4, 5, 6)}, None) is None
    assert free(set(), address("192.168.0.9")) == address("10.0.0.2"), "a cursor of another subnet says nothing"


def test_a_large_range_is_not_walked() -> None:
    assert plan.free_address(parse_subnet("10.0.0.0/8"), frozenset(), None) == parse_address("10.0.0.2")


def attachment(lease: Lease, **keys: object) -> Attachment:
    said = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni", **keys}
    found = config.parse_config(said)
    return plan.attachment(found, lease, CALL, lease.subnet.network + 7)


LEASE = Lease(parse_subnet("10.244.3.0/24"), 1450, parse_subnet("10.244.0.0/16"))


def test_a_pod_is_wired_from_its_address() -> None:
    wanted = attachment(LEASE)
    assert wanted.host.startswith("veth")
    assert len(wanted.host) == 15
    assert wanted.mac.hex(":") == "0a:58:0a:f4:03:07"
    assert [(each.destination, each.gateway) for each in wanted.routes] == [
        ("10.244.0.0/16", "10.244.3.1"),
        ("0.0.0.0/0", "10.244.3.1"),
    ]


def test_a_route_given_twice_is_one() -> None:
    wanted = attachment(LEASE, routes=[{"dst": "0.0.0.0/0"}, {"dst": "10.244.0.0/16"}])
    assert sorted(each.destination for each in wanted.routes) == ["0.0.0.0/0", "10.244.0.0/16"]


def test_without_a_gateway_routes_lead_nowhere_by_themselves() -> None:
    wanted = attachment(LEASE, isGateway=False, routes=[{"dst": "10.0.0.0/8"}])
    assert [(each.destination, each.gateway) for each in wanted.routes] == [("10.0.0.0/8", "")]


def test_the_hosts_end_differs_by_container_and_by_interface() -> None:
    names = {plan.host_link(container, ifname) for container in ("a", "b") for ifname in ("eth0", "net1")}
    assert len(names) == 4


def seen(**but: object) -> Seen:
    whole: dict[str, object] = {
        "reserved": [parse_address("10.244.3.7")],
        "gateways": ["10.244.3.1/24"],
        "master": "cni0",
        "host_up": True,
        "hairpin": True,
        "container_up": True,
        "addresses": ["10.244.3.7/24"],
        "routes": [("0.0.0.0/0", "10.244.3.1"), ("10.244.0.0/16", "10.244.3.1"), ("10.244.3.0/24", "")],
    }
    return Seen(**{**whole, **but})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("but", "says"),
    [
        ({}, None),
        ({"reserved": []}, "address 10.244.3.7 is not reserved for the container"),
        ({"gateways": ["10.244.9.1/24"]}, "bridge cni0 lacks its address 10.244.3.1/24"),
        ({"master": None}, "host link .* is missing"),
        ({"master": ""}, "is not on bridge cni0"),
        ({"master": "docker0"}, "is not on bridge cni0"),
        ({"host_up": False}, "host link .* is down"),
        ({"hairpin": False}, "is not in hairpin mode"),
        ({"container_up": None}, "eth0 is missing in the container"),
        ({"container_up": False}, "eth0 is down in the container"),
        ({"addresses": []}, "eth0 lacks its address 10.244.3.7/24"),
        ({"routes": [("10.244.0.0/16", "10.244.3.1")]}, "the route to 0.0.0.0/0 via 10.244.3.1 is missing"),
    ],
)
def test_a_check_says_what_differs(but: dict[str, object], says: str | None) -> None:
    found = plan.differences(attachment(LEASE, hairpinMode=True), seen(**but))
    if says is None:
        assert found == []
    else:
        assert len(found) == 1
        with pytest.raises(ValueError, match=says):
            raise ValueError(found[0])
