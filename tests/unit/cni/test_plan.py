"""What a pod consists of: names that are computed, gateways, routes, and what a CHECK says of the difference."""

import pytest

from cni import plan
from cni.call import Call
from cni.config import parse_bridge
from cni.model import Bridge, Seen
from cni.spec import Address, CniError, Interface, Result, Route
from linux.rtnetlink import packed

CALL = Call("ADD", "c0ffee", "eth0", "/run/netns/x")
HOST = plan.host_link("c0ffee", "eth0")


def bridge(**keys: object) -> Bridge:
    return parse_bridge(CALL, {"name": "pods", "ipam": {"type": "host-local"}, **keys})  # type: ignore[dict-item]


GIVEN = Result((), [Address("10.244.3.7/24", "10.244.3.1"), Address("fd00:3::7/64")], [Route("10.0.0.0/8")])


def test_names_are_computed() -> None:
    assert HOST.startswith("veth")
    assert len(HOST) == 15
    names = {plan.host_link(container, ifname) for container in ("a", "b") for ifname in ("eth0", "net1")}
    assert len(names) == 4
    assert plan.mac_of(packed("10.244.3.7")).hex(":") == "0a:58:0a:f4:03:07"
    assert len(plan.mac_of(packed("fd00::7"))) == 6


def test_whose_a_link_is_can_be_read_off_it() -> None:
    said = plan.alias("pods", "c0ffee", "eth0")
    assert plan.holder("pods", said) == ("c0ffee", "eth0")
    assert plan.holder("pod", said) is None
    assert plan.holder("pods", "wherry cni pods ") is None
    assert plan.holder("pods", "") is None
    assert plan.alias("n" * 200, "c" * 64, "eth0") == "", "the kernel takes 255 bytes"


def test_a_bridge_that_is_no_gateway_adds_nothing() -> None:
    found = plan.layout(bridge(), GIVEN)
    assert found.gateways == ()
    assert [each.destination for each in found.routes] == ["10.0.0.0/8"]
    assert found.addresses[1] == (packed("fd00:3::7"), 64, b""), "IPAM gave no gateway"


def test_a_gateway_that_ipam_did_not_give_is_the_first_of_the_range() -> None:
    found = plan.layout(bridge(isGateway=True), GIVEN)
    assert found.gateways == ((packed("10.244.3.1"), 24), (packed("fd00:3::1"), 64))


def test_each_family_gets_its_default_route() -> None:
    found = plan.layout(bridge(isDefaultGateway=True), GIVEN)
    assert [(each.destination, each.gateway) for each in found.routes] == [
        ("10.0.0.0/8", ""),
        ("0.0.0.0/0", "10.244.3.1"),
        ("::/0", "fd00:3::1"),
    ]


def test_a_default_route_that_ipam_gave_is_kept() -> None:
    given = Result((), GIVEN.addresses[:1], [Route("0.0.0.0/0", "10.244.3.254")])
    found = plan.layout(bridge(isDefaultGateway=True), given)
    assert [(each.destination, each.gateway) for each in found.routes] == [("0.0.0.0/0", "10.244.3.254")]


def test_a_route_without_a_gateway_goes_by_its_familys() -> None:
    given = Result((), GIVEN.addresses, [Route("10.0.0.0/8"), Route("fd00::/8", "", {"mtu": 1400})])
    told = plan.ways(plan.layout(bridge(), given))
    assert [(each.destination, each.gateway) for each in told] == [("10.0.0.0/8", "10.244.3.1"), ("fd00::/8", "")]
    assert told[1].more == {"mtu": 1400}


def test_the_networks_dns_counts_more_than_ipams() -> None:
    given = Result((), GIVEN.addresses, (), {"nameservers": ["10.0.0.2"]})
    ours: dict[str, object] = {"nameservers": ["10.96.0.10"]}
    for wanted, expected in ((bridge(dns=ours), ours), (bridge(), given.dns)):
        assert plan.result(wanted, plan.layout(wanted, given), [], given).dns == expected


PREVIOUS = Result(
    [
        Interface("cni0", "0a:58:0a:f4:03:01"),
        Interface(HOST, "aa:00:00:00:00:01"),
        Interface("eth0", "0a:58:0a:f4:03:07", "/run/netns/x"),
    ],
    [Address("10.244.3.7/24", "10.244.3.1", 2), Address("fd00:3::7/64", "fd00:3::1", 2)],
    [Route("0.0.0.0/0", "10.244.3.1"), Route("10.0.0.0/8", "", {"table": 100})],
)


def seen(**but: object) -> Seen:
    whole: dict[str, object] = {
        "bridge_mac": "0a:58:0a:f4:03:01",
        "gateways": ["10.244.3.1/24", "fd00:3::1/64", "fe80::1/64"],
        "master": "cni0",
        "host_up": True,
        "hairpin": True,
        "isolated": True,
        "container_up": True,
        "container_mac": "0a:58:0a:f4:03:07",
        "addresses": ["10.244.3.7/24", "fd00:3::7/64"],
        "routes": [("0.0.0.0/0", "10.244.3.1", 254), ("10.0.0.0/8", "10.244.3.1", 100), ("10.244.3.0/24", "", 254)],
    }
    return Seen(**{**whole, **but})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("but", "says"),
    [
        ({}, None),
        ({"bridge_mac": None}, "bridge cni0 is missing"),
        ({"bridge_mac": "0a:58:0a:f4:03:02"}, "bridge cni0 has another MAC than 0a:58:0a:f4:03:01"),
        ({"gateways": ["10.244.9.1/24", "fd00:3::1/64"]}, "bridge cni0 lacks its address 10.244.3.1/24"),
        ({"master": None}, f"host link {HOST} is missing"),
        ({"master": ""}, f"host link {HOST} is not on bridge cni0"),
        ({"master": "docker0"}, f"host link {HOST} is not on bridge cni0"),
        ({"host_up": False}, f"host link {HOST} is down"),
        ({"hairpin": False}, f"host link {HOST} is not in hairpin mode"),
        ({"isolated": False}, f"host link {HOST} is not isolated"),
        ({"container_up": None}, "eth0 is missing in the container"),
        ({"container_up": False}, "eth0 is down in the container"),
        ({"container_mac": "0a:58:0a:f4:03:08"}, "eth0 has another MAC than 0a:58:0a:f4:03:07"),
        ({"addresses": ["10.244.3.7/24"]}, "eth0 lacks its address fd00:3::7/64"),
        ({"routes": [("10.0.0.0/8", "10.244.3.1", 100)]}, "the route to 0.0.0.0/0 via 10.244.3.1 is missing"),
        ({"routes": [("0.0.0.0/0", "10.244.3.1", 254)]}, "the route to 10.0.0.0/8 via 10.244.3.1 is missing"),
    ],
)
def test_a_check_says_what_differs(but: dict[str, object], says: str | None) -> None:
    wanted = bridge(hairpinMode=True, portIsolation=True, isGateway=True)
    assert plan.differences(CALL, wanted, PREVIOUS, seen(**but)) == ([] if says is None else [says])


def test_a_previous_result_of_another_container_is_refused() -> None:
    with pytest.raises(CniError, match="prevResult names no interface eth0"):
        plan.attached(CALL, Result([Interface("cni0")]), bridge())
    with pytest.raises(CniError, match="prevResult is of /run/netns/y, not of /run/netns/x"):
        plan.attached(CALL, Result([Interface("eth0", "", "/run/netns/y")]), bridge())
