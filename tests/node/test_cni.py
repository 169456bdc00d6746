"""Pods on a real bridge: what a runtime asks for, in the order and the disorder in which it asks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cni import plan
from tests.conftest import Netns
from tests.node.cni_host import CniHost, address_of, link_names, pings
from tests.requirements import requires

Spaces = Callable[[str], Netns]


@pytest.fixture
def host(netns: Spaces, tmp_path: Path) -> CniHost:
    return CniHost(netns("host"), tmp_path)


def test_two_pods_reach_each_other_and_their_gateway(host: CniHost, netns: Spaces) -> None:
    requires("busybox")
    one, two = netns("one"), netns("two")
    first, second = host.add("c1", one, mtu=1450), host.add("c2", two, mtu=1450)
    assert (address_of(first), address_of(second)) == ("10.77.1.2", "10.77.1.3")
    for space in (one, two):
        assert pings(space, "10.77.1.1"), "the gateway"
    assert pings(one, "10.77.1.3")
    assert pings(two, "10.77.1.2")
    assert "mtu 1450" in one.run("ip", "link", "show", "eth0")
    assert one.run("ip", "-4", "route").splitlines()[0].startswith("default via 10.77.1.1 dev eth0")
    assert host.space.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"


def test_the_result_says_what_the_kernel_has(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    said = host.add("c1", pod, routes=[{"dst": "10.0.0.0/8"}], dns={"nameservers": ["10.96.0.10"]})
    bridge, outer, inner = said["interfaces"]
    links = {each["ifname"]: each["address"] for each in json.loads(host.space.run("ip", "-j", "link"))}
    assert links["cni0"] == bridge["mac"]
    assert links[outer["name"]] == outer["mac"]
    (eth0,) = json.loads(pod.run("ip", "-j", "-4", "address", "show", "eth0"))
    assert (inner["name"], inner["sandbox"]) == ("eth0", pod.path)
    assert eth0["addr_info"][0]["local"] == address_of(said)
    assert said["ips"] == [{"address": "10.77.1.2/24", "interface": 2, "gateway": "10.77.1.1"}]
    assert said["routes"] == [{"dst": "10.0.0.0/8", "gw": "10.77.1.1"}, {"dst": "0.0.0.0/0", "gw": "10.77.1.1"}]
    assert said["dns"] == {"nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_runtimes_life_with_one_pod(host: CniHost, netns: Spaces, version: str) -> None:
    """ADD, CHECK, DEL, DEL: cnitool's and containerd's order, in every version."""
    pod = netns("pod")
    said = host.add("c1", pod, cniVersion=version)
    assert said["cniVersion"] == version
    assert said["ips"][0].get("version") == (None if version == "1.0.0" else "4")
    status, answer = host.check("c1", pod, said, cniVersion=version)
    assert (status, answer.get("code")) == ((1, 1) if version == "0.3.1" else (0, None))
    host.delete("c1", pod.path, cniVersion=version, prevResult=said)
    host.delete("c1", pod.path, cniVersion=version, prevResult=said)
    assert host.links() == {"cni0"}
    assert link_names(pod) == ["lo"]
    assert host.held() == {}


def test_check_names_what_was_broken(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    said = host.add("c1", pod, hairpinMode=True)
    outer = said["interfaces"][1]["name"]

    def complaint() -> str:
        status, answer = host.check("c1", pod, said, hairpinMode=True)
        assert status == bool(answer)
        assert answer.get("code", 103) == 103
        return str(answer.get("msg", ""))

    assert complaint() == ""
    host.space.run("bridge", "link", "set", "dev", outer, "hairpin", "off")
    assert complaint() == f"host link {outer} is not in hairpin mode"
    host.space.run("bridge", "link", "set", "dev", outer, "hairpin", "on")
    pod.run("ip", "route", "del", "default")
    assert complaint() == "the route to 0.0.0.0/0 via 10.77.1.1 is missing"
    pod.run("ip", "route", "add", "default", "via", "10.77.1.1")
    host.space.run("ip", "link", "set", outer, "nomaster")
    assert complaint() == f"host link {outer} is not on bridge cni0"
    host.space.run("ip", "link", "set", outer, "master", "cni0", "down")
    assert complaint() == f"host link {outer} is down"
    host.space.run("ip", "link", "del", outer)
    assert complaint() == f"host link {outer} is missing"


def test_a_del_needs_neither_namespace_nor_result(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    host.add("c1", pod)
    host.delete("c1")
    assert (host.links(), host.held(), link_names(pod)) == ({"cni0"}, {}, ["lo"])
    host.add("c2", pod)
    host.delete("c2", "/run/netns/gone-long-ago")
    assert (host.links(), host.held()) == ({"cni0"}, {})
    host.delete("never-added")


def test_a_second_add_fails_and_harms_nothing(host: CniHost, netns: Spaces) -> None:
    requires("busybox")
    pod = netns("pod")
    host.add("c1", pod)
    status, said = host.call("ADD", "c1", pod.path)
    assert (status, said["code"]) == (1, 101)
    assert "has an interface eth0 already: DEL comes first" in said["msg"]
    assert pings(pod, "10.77.1.1")
    assert list(host.held()) == ["10.77.1.2"]


def test_a_failed_add_leaves_nothing(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    pod.run("ip", "link", "add", "eth0", "type", "bridge")
    status, said = host.call("ADD", "c1", pod.path)
    assert (status, said["code"]) == (1, 101)
    assert "has an interface eth0 already" in said["msg"]
    status, said = host.call(
        "ADD", "c2", netns("late").path, host.config(routes=[{"dst": "10.0.0.0/8", "gw": "1.2.3.4"}])
    )
    assert (status, said["code"]) == (1, 102)
    assert "cannot add the route to 10.0.0.0/8" in said["msg"]
    assert (host.links(), host.held()) == ({"cni0"}, {})
    assert link_names(pod) == ["lo", "eth0"]


def test_a_bridge_that_is_none_is_refused(host: CniHost, netns: Spaces) -> None:
    host.space.run("ip", "link", "add", "cni0", "type", "veth", "peer", "name", "other")
    status, said = host.call("ADD", "c1", netns("pod").path)
    assert (status, said["code"]) == (1, 7)
    assert said["msg"] == "bridge cni0 is a veth link: name another bridge or remove it"
    assert host.held() == {}


def test_a_bridge_that_is_there_is_used_as_it_is(host: CniHost, netns: Spaces) -> None:
    host.space.run("ip", "link", "add", "cni0", "address", "0a:00:00:00:00:07", "type", "bridge")
    assert host.add("c1", netns("pod"))["interfaces"][0]["mac"] == "0a:00:00:00:00:07"


def test_the_subnet_may_come_late_and_may_change(host: CniHost, netns: Spaces, tmp_path: Path) -> None:
    requires("busybox")
    one, two, file = netns("one"), netns("two"), tmp_path / "subnet.env"
    config = host.config(subnetFile=str(file))
    del config["subnet"]
    status, said = host.call("ADD", "c1", one.path, config)
    assert (status, said["code"]) == (1, 11)
    assert str(file) in said["msg"]

    file.write_text("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\n")
    status, said = host.call("ADD", "c1", one.path, config)
    assert said["ips"][0]["address"] == "10.244.3.2/24"
    assert said["routes"][0] == {"dst": "10.244.0.0/16", "gw": "10.244.3.1"}
    assert "mtu 1450" in one.run("ip", "link", "show", "eth0")

    file.write_text("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.9.1/24\nFLANNEL_MTU=1450\n")
    status, said = host.call("ADD", "c2", two.path, config)
    assert said["ips"][0]["address"] == "10.244.9.2/24"
    assert pings(two, "10.244.9.1")
    (bridge,) = json.loads(host.space.run("ip", "-j", "-4", "address", "show", "cni0"))
    assert [each["local"] for each in bridge["addr_info"]] == ["10.244.9.1"], "the old gateway is gone"

    file.unlink()
    for container in ("c1", "c2"):
        assert host.call("DEL", container, "", config) == (0, {})
    assert host.held() == {}


def test_a_freed_address_is_not_the_next_one_given(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    seen = []
    for turn in range(4):
        seen.append(address_of(host.add(f"c{turn}", pod)))
        host.delete(f"c{turn}")
    assert seen == ["10.77.1.2", "10.77.1.3", "10.77.1.4", "10.77.1.5"]


def test_a_full_range_says_so(host: CniHost, netns: Spaces) -> None:
    host.add("c1", netns("one"), subnet="10.77.1.0/30")
    status, said = host.call("ADD", "c2", netns("two").path, host.config(subnet="10.77.1.0/30"))
    assert (status, said["code"]) == (1, 100)
    assert said["msg"] == "no IP addresses available in range set: 10.77.1.1-10.77.1.2: 1 are held"
    assert host.links() == {"cni0", plan.host_link("c1", "eth0")}, "the second pair is gone again"


def test_forty_at_once_get_forty_addresses(host: CniHost, netns: Spaces) -> None:
    pods = [netns(f"p{number}") for number in range(40)]
    adding = [host.start("ADD", f"c{number}", pod.path) for number, pod in enumerate(pods)]
    said = [json.loads(each.communicate(timeout=120)[0]) for each in adding]
    assert [each.returncode for each in adding] == [0] * 40, said
    assert len({address_of(each) for each in said}) == 40
    assert len(host.held()) == 40
    assert len(host.links()) == 41
    (bridge,) = json.loads(host.space.run("ip", "-j", "-4", "address", "show", "cni0"))
    assert len(bridge["addr_info"]) == 1
    deleting = [host.start("DEL", f"c{number}", pod.path) for number, pod in enumerate(pods)]
    assert [(*each.communicate(timeout=120), each.returncode) for each in deleting] == [(b"", b"", 0)] * 40
    assert (host.links(), host.held()) == ({"cni0"}, {})
    assert {tuple(link_names(pod)) for pod in pods} == {("lo",)}


def test_a_namespace_that_died_takes_its_link_along(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    said = host.add("c1", pod)
    pod.run("ip", "link", "del", "eth0")
    assert said["interfaces"][1]["name"] not in host.links()
    host.delete("c1", pod.path)
    assert host.held() == {}
