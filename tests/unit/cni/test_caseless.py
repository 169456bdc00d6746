"""Keys in any case, as Go's decoder takes them."""

import json
from typing import Any

from cni import ranges
from cni.call import Call
from cni.caseless import fold
from cni.config import parse_bridge
from cni.hostports import mapping


def folded(said: Any) -> Any:
    fold(said)
    return said


def test_what_containerd_tells_of_a_pod_is_understood() -> None:
    """Its values have no JSON tags."""
    told = {
        "portMappings": [{"HostPort": 80, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "192.0.2.1"}],
        "bandwidth": {"IngressRate": 1, "EgressBurst": 2},
        "ipRanges": [[{"Subnet": "10.3.0.0/24", "RangeStart": "10.3.0.9", "RangeEnd": "", "Gateway": ""}]],
    }
    config = folded({"name": "pods", "ipam": {}, "runtimeConfig": told})
    (port,) = mapping.parse("c1", config).ports
    assert (port.host, port.pod, port.protocol, port.address) == (80, 8080, "tcp", "192.0.2.1")
    assert config["runtimeConfig"]["bandwidth"] == {"ingressRate": 1, "egressBurst": 2}
    (one,) = ranges.parse_ranges(config)
    assert ranges.said(one) == "10.3.0.9-10.3.0.254"


def test_an_authors_keys_are_understood() -> None:
    config = folded({"name": "pods", "ISGATEWAY": True, "ipmasq": True, "IPAM": {"Type": "host-local"}, "VLAN": 7})
    found = parse_bridge(Call("ADD"), config)
    assert (found.gateway, found.masquerade, found.ipam, found.vlan) == (True, True, "host-local", 7)


def test_the_right_spelling_wins_and_strange_keys_stay() -> None:
    for said in ({"hostPort": 81, "HostPort": 80}, {"HostPort": 80, "hostPort": 81}):
        assert folded(said) == {"hostPort": 81}
    assert folded({"Mut": 1, "cni.dev/X": [{"MTU": 2}, "MTU"]}) == {"Mut": 1, "cni.dev/X": [{"mtu": 2}, "MTU"]}


def test_depth_does_not_matter() -> None:
    deep: Any = {"MTU": 1}
    for _ in range(10_000):
        deep = [{"args": deep}]
    top = folded(deep)
    for _ in range(10_000):
        deep = deep[0]["args"]
    assert top
    assert json.dumps(deep) == '{"mtu": 1}'
