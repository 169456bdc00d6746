"""What the plugins do where the reference has nothing to compare with, or only packets can tell."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cni import plan
from tests.conftest import Netns
from tests.node.cni_host import CniHost, address_of, link_names, pings
from tests.requirements import requires, tool

Spaces = Callable[[str], Netns]
V4, V6 = [{"subnet": "10.77.1.0/24"}], [{"subnet": "fd00:77:1::/64"}]


@pytest.fixture(params=["alone", "agent"])
def host(netns: Spaces, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[CniHost]:
    made = CniHost(netns("host"), tmp_path)
    with made.served() if request.param == "agent" else contextlib.nullcontext(made):
        yield made


class Plugin:
    """One of our plugins on a host, with a configuration of its own."""

    def __init__(self, host: CniHost, kind: str = "bridge", **keys: Any) -> None:
        self.host = host
        ipam = {"type": "host-local", "ranges": [V4, V6], "dataDir": str(host.ledger.parent)}
        self.config = {"cniVersion": "1.1.0", "name": "pods", "type": kind, "ipam": ipam, **keys}

    def call(
        self,
        command: str,
        container: str = "",
        netns: str = "",
        variables: Mapping[str, str] | None = None,
        **keys: Any,
    ) -> tuple[int, dict[str, Any]]:
        program = str(self.host.bin / str(self.config["type"]))
        more = {"CNI_PATH": str(self.host.bin), **(variables or {})}
        return self.host.call(command, container, netns, {**self.config, **keys}, program, **more)

    def add(self, container: str, space: Netns, **keys: Any) -> dict[str, Any]:
        status, said = self.call("ADD", container, space.path, **keys)
        assert status == 0, said
        return said

    def valid(self, *containers: str) -> dict[str, Any]:
        return {"cni.dev/valid-attachments": [{"containerID": each, "ifname": "eth0"} for each in containers]}


def test_two_pods_of_two_families_talk_at_once(host: CniHost, netns: Spaces) -> None:
    requires("busybox")
    bridge, one, two = Plugin(host, isDefaultGateway=True), netns("one"), netns("two")
    bridge.add("c1", one)
    said = bridge.add("c2", two)
    assert [each["address"] for each in said["ips"]] == ["10.77.1.3/24", "fd00:77:1::3/64"]
    for target in ("10.77.1.2", "fd00:77:1::2", "10.77.1.1", "fd00:77:1::1"):
        assert pings(two, target), target
    assert "tentative" not in two.run("ip", "-6", "address", "show", "dev", "eth0", "scope", "global")
    sysctl = two.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_dad", "/proc/sys/net/ipv6/conf/eth0/keep_addr_on_down")
    assert sysctl.split() == ["0", "1"]
    assert host.space.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"


def test_ipv6_is_switched_on_where_the_runtime_had_switched_it_off(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    said = Plugin(host, isGateway=True).add("c1", pod)
    assert "fd00:77:1::2/64" in pod.run("ip", "-6", "address", "show", "dev", "eth0")
    assert said["interfaces"][2]["mtu"] == 1500, "1.1.0 says it"


def test_a_duplicate_address_is_found_where_somebody_looks(host: CniHost, netns: Spaces) -> None:
    one, two = netns("one"), netns("two")
    Plugin(host).add("c1", one)
    elsewhere = {"type": "host-local", "ranges": [V6], "dataDir": str(host.ledger.parent.parent / "other")}
    status, said = Plugin(host, enabledad=True, ipam=elsewhere).call("ADD", "c2", two.path)
    assert (status, said["code"]) == (1, 102)
    assert "somebody on the network has the address fd00:77:1::2/64 already" in said["msg"]
    assert link_names(two) == ["lo"], "and nothing is left"


def test_a_bridges_mac_is_its_first_gateways_whatever_comes_and_goes(host: CniHost, netns: Spaces) -> None:
    bridge, spaces = Plugin(host, isGateway=True), [netns(f"p{number}") for number in range(3)]
    macs = [bridge.add("c0", spaces[0])["interfaces"][0]["mac"], bridge.add("c1", spaces[1])["interfaces"][0]["mac"]]
    assert bridge.call("DEL", "c0", spaces[0].path) == (0, {})
    macs.append(json.loads(host.space.run("ip", "-j", "link", "show", "cni0"))[0]["address"])
    assert bridge.call("DEL", "c1", spaces[1].path) == (0, {})
    host.space.run("ip", "link", "del", "cni0")
    macs.append(bridge.add("c2", spaces[2])["interfaces"][0]["mac"])
    assert set(macs) == {"0a:58:0a:4d:01:01"}


def test_isolated_ports_do_not_hear_each_other(host: CniHost, netns: Spaces) -> None:
    requires("busybox")
    bridge, one, two, open_ = Plugin(host, isGateway=True), netns("one"), netns("two"), netns("open")
    bridge.add("c1", one, portIsolation=True)
    said = bridge.add("c2", two, portIsolation=True)
    bridge.add("c3", open_)
    assert not pings(one, "10.77.1.3")
    assert pings(one, "10.77.1.4")
    assert pings(one, "10.77.1.1")
    assert bridge.call("CHECK", "c2", two.path, portIsolation=True, prevResult=said) == (0, {})
    host.space.run("ip", "link", "set", plan.host_link("c2", "eth0"), "type", "bridge_slave", "isolated", "off")
    status, answer = bridge.call("CHECK", "c2", two.path, portIsolation=True, prevResult=said)
    assert (status, answer["code"]) == (1, 103)
    assert answer["msg"].endswith("is not isolated")


def test_an_end_can_be_left_down(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    said = Plugin(host, ipam={}, disableContainerInterface=True).add("c1", pod)
    assert "state DOWN" in pod.run("ip", "link", "show", "eth0")
    assert "ips" not in said


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_masqueraded_packets_come_back(host: CniHost, netns: Spaces, backend: str) -> None:
    """A neighbour of the host's that has no route to the pods answers them all the same, but not without the rules."""
    requires("busybox", "nft", "iptables-save")
    neighbour, pod = netns("far"), netns("pod")
    host.space.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", neighbour.name)
    for space, number in ((host.space, 1), (neighbour, 2)):
        for address in (f"192.0.2.{number}/24", f"2001:db8::{number}/64"):
            space.run("ip", "address", "add", address, "dev", "up0", *(["nodad"] if ":" in address else []))
        space.run("ip", "link", "set", "up0", "up")
    bridge = Plugin(host, isDefaultGateway=True, ipMasq=True, ipMasqBackend=backend)
    said = bridge.add("c1", pod)
    assert pings(pod, "192.0.2.2")
    assert pings(pod, "2001:db8::2")
    assert bridge.call("CHECK", "c1", pod.path, prevResult=said) == (0, {})
    assert bridge.call("STATUS") == (0, {})
    if backend == "nftables":
        host.space.run("nft", "flush", "chain", "inet", "cni_plugins_masquerade", "masq_checks")
    else:
        host.space.run("iptables", "-t", "nat", "-F", "POSTROUTING")
    status, answer = bridge.call("CHECK", "c1", pod.path, prevResult=said)
    assert (status, answer["code"]) == (1, 103)
    assert "is missing" in answer["msg"]
    assert not pings(pod, "192.0.2.2")


def test_masquerading_by_what_an_add_would_not_take_any_more(host: CniHost, netns: Spaces, tmp_path: Path) -> None:
    """iptables was installed in between: CHECK, DEL and GC find the rules where the ADD has written them."""
    requires("nft", "iptables-save")
    folder = tmp_path / "installed"
    folder.mkdir()
    for name in ("nsenter", "nft"):
        (folder / name).symlink_to(str(tool(name)))
    bridge, pods = Plugin(host, isGateway=True, ipMasq=True), [netns("one"), netns("two")]
    told = []
    for number, pod in enumerate(pods):
        status, said = bridge.call("ADD", f"c{number}", pod.path, {"PATH": str(folder)})
        assert status == 0, said
        told.append(said)

    def rules() -> int:
        listed = host.space.run("nft", "list", "ruleset")
        return len([address for address in ("10.77.1.2", "10.77.1.3") if f"saddr {address} " in listed])

    assert rules() == 2
    assert bridge.call("CHECK", "c0", pods[0].path, prevResult=told[0]) == (0, {})
    assert bridge.call("DEL", "c0", pods[0].path, prevResult=told[0]) == (0, {})
    assert rules() == 1
    assert bridge.call("GC", **bridge.valid()) == (0, {})
    assert rules() == 0


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_gc_removes_what_no_valid_attachment_names(host: CniHost, netns: Spaces, backend: str) -> None:
    requires("nft", "iptables-save")
    spaces = [netns(f"p{number}") for number in range(3)]
    bridge = Plugin(host, isGateway=True, ipMasq=True, ipMasqBackend=backend)
    other = Plugin(
        host,
        isGateway=True,
        name="others",
        bridge="cni1",
        ipam={**bridge.config["ipam"], "ranges": [[{"subnet": "10.78.0.0/24"}]]},
    )
    for number, space in enumerate(spaces):
        bridge.add(f"c{number}", space)
    outsider = netns("outsider")
    other.add("c9", outsider)

    def rules() -> set[str]:
        save = ("nft", "list", "ruleset") if backend == "nftables" else ("iptables-save", "-t", "nat")
        words = host.space.run(*save).replace("\\", "").replace('"', "") + "\n"
        return {each for each in ("c0", "c1", "c2") if f"id: {each} " in words or f"id: {each}\n" in words}

    assert rules() == {"c0", "c1", "c2"}
    assert bridge.call("GC", **bridge.valid("c1")) == (0, {})
    assert rules() == {"c1"}
    assert sorted(host.held().values()) == ["c1\r\neth0", "c1\r\neth0"]
    assert host.links() == {"cni0", "cni1", plan.host_link("c1", "eth0"), plan.host_link("c9", "eth0")}
    assert link_names(outsider) == ["lo", "eth0"], "another network's are not this one's to judge"
    assert bridge.call("GC", **bridge.valid("c1")) == (0, {}), "again"
    status, said = bridge.call("GC")
    assert (status, said["code"]) == (1, 7)
    assert "GC needs cni.dev/valid-attachments" in said["msg"]


def test_gc_of_our_own_network_needs_no_range(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    host.add("c1", pod)
    host.add("c2", netns("two"))
    config = host.config(cniVersion="1.1.0", subnetFile="/nowhere", **{"cni.dev/valid-attachments": []})
    del config["subnet"]
    assert host.call("GC", "", "", config) == (0, {})
    assert (host.held(), link_names(pod), host.links()) == ({}, ["lo"], {"cni0"})


def test_status_says_what_would_fail(host: CniHost, netns: Spaces) -> None:
    bridge = Plugin(host, isGateway=True)
    assert bridge.call("STATUS") == (0, {})
    small = {**bridge.config["ipam"], "ranges": [[{"subnet": "10.79.0.0/30"}]]}
    bridge.add("c1", netns("pod"), ipam=small)
    status, said = bridge.call("STATUS", ipam=small)
    assert (status, said["code"]) == (1, 50)
    assert "no IP addresses available in range set: 10.79.0.1-10.79.0.2" in said["msg"]
    assert bridge.call("STATUS", ipam={"type": "nowhere"})[1]["code"] == 50
    assert bridge.call("STATUS", mtu=1)[1]["code"] == 50
    host.space.run("ip", "link", "add", "cni9", "type", "veth", "peer", "name", "other")
    status, said = bridge.call("STATUS", bridge="cni9")
    assert (said["code"], said["msg"]) == (51, "bridge cni9 is a veth link: remove it")
    config = host.config(cniVersion="1.1.0", subnetFile="/nowhere")
    del config["subnet"]
    assert host.call("STATUS", "", "", config)[1]["code"] == 50


def test_a_host_namespace_is_no_containers_unless_it_is_said_to_be(host: CniHost) -> None:
    status, said = Plugin(host).call("ADD", "c1", host.space.path)
    assert (status, said["code"]) == (1, 8)
    status, said = Plugin(host).call("ADD", "c1", host.space.path, {"CNI_NETNS_OVERRIDE": "1"})
    assert status == 0, said
    assert "eth0" in host.links()


def test_a_del_that_names_the_hosts_own_namespace_takes_nothing_of_it(host: CniHost) -> None:
    host.space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    assert Plugin(host).call("DEL", "c1", host.space.path) == (0, {})
    assert "eth0" in host.links()


def test_loopback_is_up_and_passes_results_on(host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    pod.run("ip", "link", "set", "lo", "down")
    plugin = Plugin(host, "loopback")
    said = plugin.add("c1", pod)
    assert [each["address"] for each in said["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert plugin.call("CHECK", "c1", pod.path, prevResult=said) == (0, {})
    before = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "dns": {}}
    assert plugin.add("c1", pod, prevResult=before) == before
    assert plugin.call("DEL", "c1", pod.path) == (0, {})
    assert plugin.call("CHECK", "c1", pod.path, prevResult=said)[1]["msg"] == "lo is down in the container"
    assert plugin.call("DEL", "c1", "/run/netns/gone") == (0, {})


# --- flannel -------------------------------------------------------------------------------------------------

ENV = """FLANNEL_NETWORK=10.77.0.0/16
FLANNEL_SUBNET=10.77.1.1/24
FLANNEL_IPV6_NETWORK=fd00:77::/48
FLANNEL_IPV6_SUBNET=fd00:77:1::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


@pytest.fixture
def flannel(host: CniHost, tmp_path: Path) -> Plugin:
    env = tmp_path / "subnet.env"
    env.write_text(ENV)
    ipam = {"dataDir": str(host.ledger.parent)}
    return Plugin(
        host,
        "flannel",
        subnetFile=str(env),
        dataDir=str(tmp_path / "flannel"),
        ipam=ipam,
        delegate={"isDefaultGateway": True, "hairpinMode": True},
    )


def kept(flannel: Plugin) -> list[str]:
    folder = Path(str(flannel.config["dataDir"]))
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


def test_flannels_file_becomes_a_bridge(flannel: Plugin, host: CniHost, netns: Spaces) -> None:
    requires("busybox")
    pod = netns("pod")
    said = flannel.add("c1", pod)
    assert [each["address"] for each in said["ips"]] == ["10.77.1.2/24", "fd00:77:1::2/64"]
    assert {each["dst"] for each in said["routes"]} == {"10.77.0.0/16", "fd00:77::/48", "0.0.0.0/0", "::/0"}
    assert said["interfaces"][2]["mtu"] == 1450
    assert pings(pod, "10.77.1.1")
    assert kept(flannel) == ["c1"]
    assert flannel.call("CHECK", "c1", pod.path, prevResult=said) == (0, {})
    assert flannel.call("STATUS") == (0, {})
    Path(str(flannel.config["subnetFile"])).unlink()
    assert flannel.call("STATUS")[1]["code"] == 50
    assert flannel.call("ADD", "c2", pod.path)[1]["code"] == 11
    for _ in range(2):
        assert flannel.call("DEL", "c1", pod.path) == (0, {})
    assert (kept(flannel), host.held(), link_names(pod)) == ([], {}, ["lo"])


def test_two_interfaces_of_one_container_do_not_collide(flannel: Plugin, host: CniHost, netns: Spaces) -> None:
    pod = netns("pod")
    flannel.add("c1", pod)
    second = {"CNI_IFNAME": "net1"}
    assert flannel.call("ADD", "c1", pod.path, second)[0] == 0
    assert kept(flannel) == ["c1", "c1:net1"]
    assert flannel.call("DEL", "c1", pod.path, second) == (0, {})
    assert flannel.call("DEL", "c1", pod.path, second) == (0, {}), "and does not take eth0's for its own"
    assert (kept(flannel), link_names(pod), len(host.held())) == (["c1"], ["lo", "eth0"], 2)
    assert flannel.call("DEL", "c1", pod.path) == (0, {})
    assert (kept(flannel), host.held()) == ([], {})


def test_what_was_asked_is_kept_until_the_delegates_del_succeeded(
    flannel: Plugin, host: CniHost, netns: Spaces, tmp_path: Path
) -> None:
    """The reference forgets it first, and the retry then leaks the address."""
    pod, broken = netns("pod"), tmp_path / "broken"
    flannel.add("c1", pod)
    broken.mkdir()
    (broken / "bridge").write_text('#!/bin/sh\necho \'{"code": 11, "msg": "not now"}\'\nexit 1\n')
    (broken / "bridge").chmod(0o755)
    status, said = flannel.call("DEL", "c1", pod.path, {"CNI_PATH": str(broken)})
    assert (status, said["code"], said["msg"]) == (1, 11, "bridge: not now")
    assert (kept(flannel), len(host.held())) == (["c1"], 2)
    assert flannel.call("DEL", "c1", pod.path) == (0, {})
    assert (kept(flannel), host.held()) == ([], {})


def test_gc_needs_no_overlay_and_takes_only_its_own(flannel: Plugin, host: CniHost, netns: Spaces) -> None:
    flannel.add("c1", netns("pod"))
    folder = Path(str(flannel.config["dataDir"]))
    (folder / "c2.new").write_text('{"name": "po')  # the draft of an ADD that was killed
    (folder / "other").write_text('{"name": "oth')  # flannel's own plugin is writing it
    (folder / "README").write_text("whose this is")
    Path(str(flannel.config["subnetFile"])).unlink()
    assert flannel.call("GC", **flannel.valid("c1")) == (0, {})
    assert kept(flannel) == ["README", "c1", "other"]
    assert flannel.call("GC", **flannel.valid()) == (0, {})
    assert (kept(flannel), host.held(), host.links()) == (["README", "other"], {}, {"cni0"})


def test_a_disk_that_takes_half_of_what_is_kept_refuses_the_add(flannel: Plugin, host: CniHost, netns: Spaces) -> None:
    folder, pod = Path(str(flannel.config["dataDir"])), netns("pod")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)], check=True)
    try:
        (folder / "filler").write_bytes(b"x" * 4096 * 3)
        delegate = {**flannel.config["delegate"], "padding": "y" * 5000}
        status, said = flannel.call("ADD", "c1", pod.path, delegate=delegate)
        assert (status, said["code"]) == (1, 5)
        assert "No space left" in said["msg"]
        assert (kept(flannel), host.held(), link_names(pod)) == (["filler"], {}, ["lo"])
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_paths_that_begin_in_the_callers_directory(
    host: CniHost, netns: Spaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CNI_PATH=./bin cnitool add`, as its own documentation has it: the agent stands elsewhere."""
    monkeypatch.chdir(host.bin.parent)
    pod, bridge = netns("pod"), Plugin(host)
    assert bridge.call("ADD", "c1", pod.path, {"CNI_PATH": f"./{host.bin.name}"})[0] == 0
    assert bridge.call("DEL", "c1", pod.path, {"CNI_PATH": host.bin.name}) == (0, {})
    assert host.held() == {}


def test_what_flannels_own_plugin_kept_is_understood(flannel: Plugin, host: CniHost, netns: Spaces) -> None:
    requires("bridge", "host-local")
    pod, bridge = netns("pod"), Plugin(host, isGateway=True)
    bridge.add("c1", pod)
    folder = Path(str(flannel.config["dataDir"]))
    folder.mkdir()
    (folder / "c1").write_text(json.dumps(bridge.config))
    assert flannel.call("DEL", "c1", pod.path) == (0, {})
    assert (kept(flannel), host.held(), link_names(pod)) == ([], {}, ["lo"])


def test_flannels_garbage_is_collected(flannel: Plugin, host: CniHost, netns: Spaces) -> None:
    for name in ("c1", "c2"):
        flannel.add(name, netns(name))
    folder = Path(str(flannel.config["dataDir"]))
    (folder / "of-another").write_text(json.dumps({"name": "others", "type": "bridge"}))
    assert flannel.call("GC", **flannel.valid("c2")) == (0, {})
    assert kept(flannel) == ["c2", "of-another"]
    assert set(host.held().values()) == {"c2\r\neth0"}
    assert host.links() == {"cni0", plan.host_link("c2", "eth0")}


def test_an_overlay_that_does_not_masquerade_leaves_it_to_the_bridge(
    flannel: Plugin, host: CniHost, netns: Spaces
) -> None:
    requires("iptables-save")
    env = Path(str(flannel.config["subnetFile"]))
    env.write_text(ENV.replace("IPMASQ=true", "IPMASQ=false"))
    pod = netns("pod")
    said = flannel.add("c1", pod)
    rules = host.space.run("iptables-save", "-t", "nat")
    assert f"-A POSTROUTING -s {address_of(said)}/32" in rules
    env.unlink()
    assert flannel.call("DEL", "c1", pod.path) == (0, {})
    assert "CNI-" not in host.space.run("iptables-save", "-t", "nat")
