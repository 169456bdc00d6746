"""host-local's ranges: whom they may be given to, in which order, and what is refused."""

import ipaddress
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import ranges
from cni.call import Call
from cni.spec import CniError
from linux.rtnetlink import packed, unpacked


def sets(ipam: Mapping[str, Any], **keys: Any) -> list[list[ranges.Range]]:
    return ranges.parse_ranges({"name": "pods", "ipam": {"type": "host-local", **ipam}, **keys})


def order(one: Sequence[ranges.Range], last: str = "", count: int = 20) -> list[str]:
    return [unpacked(each) for each in islice(ranges.candidates(one, packed(last) if last else None), count)]


def test_a_range_is_its_subnet_without_the_first_and_the_last() -> None:
    (one,) = sets({"subnet": "10.1.2.0/29"})
    assert order(one) == ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]
    assert ranges.said(one) == "10.1.2.1-10.1.2.6"
    assert unpacked(one[0].gateway) == "10.1.2.1"


def test_ipv6_has_no_broadcast_address() -> None:
    (one,) = sets({"subnet": "fd00::/126"})
    assert order(one) == ["fd00::2", "fd00::3"]
    (large,) = sets({"subnet": "fd00::/64"})
    assert order(large, "fd00::2", 2) == ["fd00::3", "fd00::4"], "and large ones are not walked"


def test_the_round_starts_after_the_last_and_goes_through_all_ranges() -> None:
    (one,) = sets(
        {
            "ranges": [
                [
                    {
                        "subnet": "10.1.2.0/24",
                        "rangeStart": "10.1.2.10",
                        "rangeEnd": "10.1.2.12",
                        "gateway": "10.1.2.11",
                    },
                    {"subnet": "10.1.9.0/30"},
                ]
            ]
        }
    )
    assert order(one) == ["10.1.2.10", "10.1.2.12", "10.1.9.2"]
    assert order(one, "10.1.2.10") == ["10.1.2.12", "10.1.9.2", "10.1.2.10"]
    assert order(one, "10.1.9.2") == ["10.1.2.10", "10.1.2.12", "10.1.9.2"]
    assert order(one, "192.168.0.9") == order(one), "a cursor of another range says nothing"


@given(st.integers(0, 2**24 - 1), st.integers(24, 30), st.integers(0, 255))
def test_every_host_comes_up_once_and_the_last_one_last(network: int, length: int, offset: int) -> None:
    subnet = ipaddress.ip_network((network << 8, length))
    (one,) = sets({"subnet": str(subnet)})
    hosts = [str(each) for each in subnet.hosts()][1:]
    last = hosts[offset % len(hosts)]
    found = order(one, last, 300)
    assert sorted(found) == sorted(hosts)
    assert found[-1] == last


def test_the_runtimes_ranges_come_first_and_the_early_style_next() -> None:
    runtime = {"ipRanges": [[{"subnet": "10.3.0.0/24"}]]}
    found = sets(
        {"subnet": "10.2.0.0/24", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]},
        runtimeConfig=runtime,
    )
    assert [str(one[0].subnet) for one in found] == ["10.3.0.0/24", "10.2.0.0/24", "10.1.0.0/24", "fd00::/64"]


@pytest.mark.parametrize(
    ("ipam", "says"),
    [
        ({}, "says no address range: give it ranges, or a subnet"),
        ({"ranges": [{"subnet": "10.0.0.0/24"}]}, "must be a list of lists"),
        ({"ranges": [[]]}, "must be a list of lists"),
        ({"subnet": "10.0.0.0/31"}, r"ipam.ranges\[0\]: 10.0.0.0/31 is too small"),
        ({"subnet": "10.0.0.5/24"}, "has host bits set: the range is 10.0.0.0/24"),
        ({"subnet": 5}, "subnet 5 must be a string"),
        ({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}, "gateway fd00::1 is not of the family of 10.0.0.0/24"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}, "rangeStart 10.0.1.1 is not in"),
        ({"subnet": "10.0.0.0/24", "rangeEnd": "fd00::1"}, "rangeEnd fd00::1 is not in"),
        ({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}, "rangeStart is behind rangeEnd"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]}, "mixes IPv4 and IPv6"),
        ({"ranges": [[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/25"}]]}, "overlaps with another of its ranges"),
        (
            {"subnet": "10.0.0.0/24", "ranges": [[{"subnet": "10.0.0.0/16"}]]},
            r"ranges\[0\] overlaps with ipam.ranges\[1\]",
        ),
    ],
)
def test_a_bad_range_is_named(ipam: Mapping[str, Any], says: str) -> None:
    with pytest.raises(CniError, match=says) as refused:
        sets(ipam)
    assert refused.value.code == 7


def test_addresses_can_be_asked_for_in_three_ways() -> None:
    call = Call("ADD", args={"IP": "10.1.2.9"})
    config: dict[str, Any] = {
        "args": {"cni": {"ips": ["10.1.2.10", "10.1.2.9"]}},
        "runtimeConfig": {"ips": ["fd00::7/64"]},
    }
    found = ranges.parse_requested(call, config)
    assert [unpacked(each) for each in found] == ["10.1.2.9", "10.1.2.10", "fd00::7"]
    with pytest.raises(CniError, match="the requested address is none"):
        ranges.parse_requested(Call("ADD", args={"IP": "ten"}), {})


def test_routes_are_read_with_what_the_newest_version_says_of_them() -> None:
    listed: Any = [{"dst": "10.0.0.0/8", "gw": "10.1.2.1", "mtu": 1400, "table": 100}, {"dst": "::/0"}]
    found = ranges.parse_routes({"ipam": {"routes": listed}})
    assert [each.as_json("1.1.0") for each in found] == listed


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        ({}, None),
        ("x", "must be a list"),
        (["x"], "must be an object"),
        ([{"dst": "ten"}], r"ipam.routes\[0\]: 'ten' is not an IP address"),
        ([{"dst": "10.0.0.0/8", "gw": "fd00::1"}], "'fd00::1' is not an IPv4 address"),
        ([{"dst": "10.0.0.0/8", "mtu": "x"}], "mtu must be a whole number"),
    ],
)
def test_a_bad_route_is_named(routes: Any, says: str | None) -> None:
    if says is None:
        assert ranges.parse_routes({"ipam": {"routes": routes}}) == ()
        return
    with pytest.raises(CniError, match=says):
        ranges.parse_routes({"ipam": {"routes": routes}})
