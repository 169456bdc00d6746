"""The same calls through Debian's Go plugins and ours: what a runtime is told and what the kernel then holds must be equal.

Each row is one configuration, done once by each in namespaces of its own, from ADD to a second DEL. Names and MACs that are
chosen differ and are struck out; the rest is compared whole. Then the two are mixed: one's IPAM under the other's bridge, one's
DEL after the other's ADD.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Netns
from tests.node.cni_host import GO_PLUGINS, CniHost, link_names
from tests.requirements import requires

Spaces = Callable[[str], Netns]

V4 = [[{"subnet": "10.77.1.0/24"}]]
V6 = [[{"subnet": "fd00:77:1::/64"}]]
LINE = "# resolv.conf\nnameserver 10.96.0.10\nsearch a.example b.example\ndomain example\noptions ndots:5 rotate\n"


def bridge(ranges: object = V4, **keys: object) -> dict[str, object]:
    return {"type": "bridge", "ipam": {"type": "host-local", "ranges": ranges}, **keys}


CUT = [[{"subnet": "10.77.1.0/24", "rangeStart": "10.77.1.50", "rangeEnd": "10.77.1.60", "gateway": "10.77.1.254"}]]
TWO_RANGES = [[{"subnet": "10.77.1.0/24"}, {"subnet": "10.77.2.0/24"}], *V6]
ROUTES = [{"dst": "10.0.0.0/8"}, {"dst": "172.16.0.0/12", "gw": "10.77.1.9"}, {"dst": "fd00::/8"}]
ASKED = "10.77.1.9"

ROWS: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "layer 2 only": ({"type": "bridge"}, {}),
    "plain": (bridge(), {}),
    "the gateway is elsewhere": (bridge([[{"subnet": "10.77.1.0/24", "gateway": "10.77.2.1"}]]), {}),
    "early style": ({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.77.1.0/24"}}, {}),
    "gateway": (bridge(isGateway=True), {}),
    "default gateway": (bridge(isDefaultGateway=True), {}),
    "ipv6": (bridge(V6, isDefaultGateway=True), {}),
    "dual stack": (bridge([*V4, *V6], isDefaultGateway=True), {}),
    "ranges of one set": (bridge(TWO_RANGES, isGateway=True), {}),
    "start, end and gateway": (bridge(CUT, isDefaultGateway=True), {}),
    "hairpin": (bridge(hairpinMode=True), {}),
    "promiscuous": (bridge(promiscMode=True), {}),
    "mtu": (bridge(mtu=1400), {}),
    "a port's vlan": (bridge(vlan=100), {}),
    "a gateway in a vlan": (bridge(vlan=100, isGateway=True), {}),
    "masquerade": (bridge([*V4, *V6], isGateway=True, ipMasq=True), {}),
    "routes": (
        bridge([*V4, *V6], isGateway=True) | {"ipam": {"type": "host-local", "ranges": [*V4, *V6], "routes": ROUTES}},
        {},
    ),
    "a default route of ipam's": (
        bridge(isDefaultGateway=True)
        | {"ipam": {"type": "host-local", "ranges": V4, "routes": [{"dst": "0.0.0.0/0", "gw": "10.77.1.1"}]}},
        {},
    ),
    "dns of the network": (bridge(dns={"nameservers": ["10.96.0.10"], "search": ["a.example"]}), {}),
    "dns of a file": ({"type": "host-local", "ipam": {"type": "host-local", "ranges": V4, "resolvConf": "RESOLV"}}, {}),
    "a mac by the runtime": (bridge(runtimeConfig={"mac": "02:00:00:00:00:09"}), {}),
    "a mac by arguments": (bridge(), {"CNI_ARGS": "IgnoreUnknown=1;MAC=02:00:00:00:00:09"}),
    "an address by arguments": (bridge(), {"CNI_ARGS": f"IgnoreUnknown=1;IP={ASKED}"}),
    "an address by args": (bridge(args={"cni": {"ips": [ASKED]}}), {}),
    "addresses by the runtime": (bridge([*V4, *V6], runtimeConfig={"ips": [f"{ASKED}/24", "fd00:77:1::9"]}), {}),
    "ranges by the runtime": (bridge([], runtimeConfig={"ipRanges": V4}), {}),
    "loopback": ({"type": "loopback"}, {}),
    "host-local alone": ({"type": "host-local", "ipam": {"type": "host-local", "ranges": [*V4, *V6]}}, {}),
}


GO_CANNOT_CHECK = {"layer 2 only", "routes"}
"""It looks for IPAM where there is none, and for routes without the gateway that it has given them."""


class Side:
    """One implementation on a host of its own. `programs` is where its plugins are looked for, first one first."""

    def __init__(self, host: CniHost, pod: Netns, programs: str) -> None:
        self.host, self.pod, self.programs = host, pod, programs
        (host.directory / "resolv.conf").write_text(LINE)

    def config(self, keys: Mapping[str, object], **more: object) -> dict[str, object]:
        made = {"cniVersion": "1.0.0", "name": "pods", **keys, **more}
        ipam = made.get("ipam")
        if isinstance(ipam, dict):
            made["ipam"] = {**ipam, "dataDir": str(self.host.ledger.parent)}
            if "resolvConf" in ipam:
                made["ipam"]["resolvConf"] = str(self.host.directory / "resolv.conf")  # type: ignore[index]
        return made

    def call(
        self, command: str, keys: Mapping[str, object], more: Mapping[str, str], container: str = "c0ffee"
    ) -> tuple[int, dict[str, Any]]:
        program = f"{self.programs.split(':')[0]}/{keys['type']}"
        return self.host.call(
            command, container, self.pod.path, self.config(keys), program, CNI_PATH=self.programs, **more
        )


@pytest.fixture
def sides(netns: Spaces, tmp_path: Path) -> tuple[Side, Side]:
    requires("bridge", "host-local", "iptables-save")
    ours = CniHost(netns("ours"), tmp_path / "ours")
    theirs = CniHost(netns("theirs"), tmp_path / "theirs")
    return Side(ours, netns("pod"), str(ours.bin)), Side(theirs, netns("pod"), GO_PLUGINS)


@pytest.fixture
def served(netns: Spaces, tmp_path: Path) -> Iterator[Side]:
    """Ours again, on a host with an agent that does the calls."""
    with CniHost(netns("served"), tmp_path / "served").served() as host:
        yield Side(host, netns("pod"), str(host.bin))


def told(said: Mapping[str, Any], pod: Netns) -> dict[str, Any]:
    """The result without what is chosen freely."""
    found = json.loads(json.dumps(said).replace(pod.path, "POD"))
    for each in found.get("interfaces") or ():
        if each["name"].startswith("veth"):
            each["name"] = "veth"
        if each.get("mac") not in {"02:00:00:00:00:09", "00:00:00:00:00:00"}:
            each["mac"] = bool(each.get("mac"))
    return found  # type: ignore[no-any-return]


def addresses(space: Netns, link: str) -> list[tuple[str, int, str]]:
    (found,) = json.loads(space.run("ip", "-j", "address", "show", link))
    return [
        (each["local"], each["prefixlen"], each.get("broadcast", ""))
        for each in found["addr_info"]
        if each["scope"] != "link"
    ]


def kernel(host: Netns, pod: Netns) -> dict[str, object]:
    """What both namespaces hold, names and MACs struck out."""
    found: dict[str, object] = {}
    links = {each["ifname"]: each for each in json.loads(host.run("ip", "-j", "-d", "link"))}
    for name, each in links.items():
        if name == "lo":
            continue
        data = each.get("linkinfo", {}).get("info_slave_data", {})
        port = {key: data.get(key) for key in ("hairpin", "isolated")} if each.get("master") else None
        known = "veth" if name.startswith("veth") else name
        flags = {flag for flag in each["flags"] if flag in {"UP", "PROMISC"}}
        found.setdefault(known, []).append(  # type: ignore[attr-defined]
            (
                each["mtu"],
                each["operstate"] if port else "",
                sorted(flags),
                each.get("master"),
                port,
                addresses(host, name),
            )
        )
    vlans = json.loads(host.run("bridge", "-j", "vlan", "show") or "[]")
    found["vlans"] = sorted(
        ("veth" if each["ifname"].startswith("veth") else each["ifname"], json.dumps(each["vlans"])) for each in vlans
    )
    found["forwarding"] = [
        host.run("cat", f"/proc/sys/net/{each}").strip() for each in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    ]
    for save in ("iptables-save", "ip6tables-save"):
        found[save] = [each for each in host.run(save, "-t", "nat").splitlines() if each[:3] in {"-A ", ":CN"}]
    names = link_names(pod)
    found["pod"] = names
    if "eth0" in names:
        (link,) = json.loads(pod.run("ip", "-j", "link", "show", "eth0"))
        found["eth0"] = (link["mtu"], link["operstate"], addresses(pod, "eth0"))
        for family in ("-4", "-6"):
            routes = json.loads(pod.run("ip", "-j", family, "route", "show", "dev", "eth0"))
            keys = ("dst", "gateway", "metric", "scope", "protocol")
            found[f"routes{family}"] = [tuple(each.get(key) for key in keys) for each in routes]
    return found


def knows_vlans(space: Netns) -> bool:
    """Whether this kernel's bridges do."""
    space.run("ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1", check=False)
    there = "probe" in link_names(space)
    space.run("ip", "link", "del", "probe", check=False)
    return there


@pytest.mark.parametrize("row", ROWS)
def test_a_pods_life_is_the_same(sides: tuple[Side, Side], served: Side, row: str) -> None:
    keys, more = ROWS[row]
    lived: list[list[object]] = []
    for side in (*sides, served):
        status, said = side.call("ADD", keys, more)
        if "vlan" in keys and not knows_vlans(side.host.space):
            assert (status, side.host.held(), link_names(side.pod)) == (1, {}, ["lo"]), said
            continue
        assert status == 0, (side.programs, said)
        steps: list[object] = [told(said, side.pod), kernel(side.host.space, side.pod), held(side)]
        if row not in GO_CANNOT_CHECK:
            steps.append(side.call("CHECK", {**keys, "prevResult": said}, more))
        for _ in range(2):
            steps.append(side.call("DEL", {**keys, "prevResult": said}, more))
            steps.append((kernel(side.host.space, side.pod), held(side)))
        lived.append(steps)
    if not lived:
        return  # all refused
    ours, theirs, agents = lived
    for step, (alone, go, agent) in enumerate(zip(ours, theirs, agents, strict=True)):
        assert alone == go, f"step {step}"
        assert agent == go, f"step {step}, by the agent"


def held(side: Side) -> dict[str, bytes]:
    """The ledger's files but our own hidden ones."""
    files = side.host.ledger.iterdir() if side.host.ledger.exists() else ()
    return {each.name: each.read_bytes() for each in files if not each.name.startswith(".")}


@pytest.mark.parametrize("ranges", [V4, V6, [*V4, *V6]], ids=["v4", "v6", "dual"])
@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_a_result_is_the_same_in_every_version(sides: tuple[Side, Side], version: str, ranges: object) -> None:
    keys = bridge(ranges, isDefaultGateway=True, cniVersion=version)
    answers = []
    for side in sides:
        status, said = side.call("ADD", keys, {})
        checked = side.call("CHECK", {**keys, "prevResult": said}, {})
        answers.append((status, told(said, side.pod), checked[0], checked[1].get("code")))
    assert answers[0] == answers[1]
    assert answers[0][2:] == ((1, 1) if version < "0.4.0" else (0, None))


REFUSALS: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "no address is free": (
        bridge([[{"subnet": "10.77.1.0/30", "rangeStart": "10.77.1.1", "rangeEnd": "10.77.1.1"}]]),
        {},
    ),
    "ranges overlap": (bridge([[{"subnet": "10.77.1.0/24"}], [{"subnet": "10.77.1.128/25"}]]), {}),
    "the range is too small": (bridge([[{"subnet": "10.77.1.0/31"}]]), {}),
    "an address of no range": (bridge(args={"cni": {"ips": ["10.99.0.1"]}}), {}),
    "the gateway's address": (bridge(args={"cni": {"ips": ["10.77.1.1"]}}), {}),
    "hairpin and promiscuous": (bridge(hairpinMode=True, promiscMode=True), {}),
    "a vlan that is none": (bridge(vlan=4095), {}),
    "no such ipam": ({"type": "bridge", "ipam": {"type": "no-such-plugin"}}, {}),
    "no container": (bridge(), {"CNI_CONTAINERID": ""}),
    "an interface that is none": (bridge(), {"CNI_IFNAME": "a/b"}),
    "a namespace that is gone": (bridge(), {"CNI_NETNS": "/run/netns/gone"}),
    "a version of tomorrow": (bridge(cniVersion="9.0.0"), {}),
    "an unknown argument": (bridge(), {"CNI_ARGS": "X=y"}),
}
CODES = {"no container": 4, "an interface that is none": 4, "a version of tomorrow": 1}


@pytest.mark.parametrize("row", REFUSALS)
def test_what_one_refuses_the_other_refuses(sides: tuple[Side, Side], row: str) -> None:
    keys, more = REFUSALS[row]
    answers = [side.call("ADD", keys, more) for side in sides]
    assert [status for status, _ in answers] == [1, 1], answers
    assert all(said["code"] and said["msg"] for _, said in answers)
    if row in CODES:
        assert [said["code"] for _, said in answers] == [CODES[row]] * 2
    ours = sides[0]
    assert ours.host.held() == {}, "and what it had reserved is free again"
    assert link_names(ours.pod) == ["lo"]
    assert ours.host.links() <= {"cni0"}


def test_a_second_add_is_refused_by_both(sides: tuple[Side, Side]) -> None:
    for side in sides:
        assert side.call("ADD", bridge(isGateway=True), {})[0] == 0
        before = kernel(side.host.space, side.pod)
        assert side.call("ADD", bridge(isGateway=True), {})[0] == 1
        assert (kernel(side.host.space, side.pod), len(side.host.held())) == (before, 1)


def test_a_bridge_that_has_another_address_is_refused_or_forced(sides: tuple[Side, Side]) -> None:
    for side in sides:
        space = side.host.space
        mac = "02:00:00:00:00:07"
        space.run("ip", "link", "add", "cni0", "address", mac, "type", "bridge")
        space.run("ip", "address", "add", "10.99.0.1/24", "dev", "cni0")
        assert side.call("ADD", bridge(isGateway=True), {})[0] == 1
        side.call("DEL", bridge(isGateway=True), {})
        status, said = side.call("ADD", bridge(isGateway=True, forceAddress=True), {}, "second")
        assert status == 0, said
        assert [each[0] for each in addresses(space, "cni0")] == ["10.77.1.1"]
        assert said["interfaces"][0]["mac"] == mac, "the MAC that the bridge has stays"


@pytest.mark.parametrize("first", [0, 1], ids=["our bridge", "go's bridge"])
def test_one_ones_ipam_serves_the_others_bridge(sides: tuple[Side, Side], first: int) -> None:
    """Go's bridge looks for host-local along CNI_PATH and finds ours, and the other way round."""
    side, other = sides[first], sides[1 - first]
    keys, folder = bridge([*V4, *V6], isDefaultGateway=True), side.host.directory / "mixed"
    folder.mkdir()
    (folder / "bridge").symlink_to(f"{side.programs}/bridge")
    (folder / "host-local").symlink_to(f"{other.programs}/host-local")
    mixed = Side(side.host, side.pod, str(folder))
    status, said = mixed.call("ADD", keys, {})
    assert status == 0, said
    assert [each["address"] for each in said["ips"]] == ["10.77.1.2/24", "fd00:77:1::2/64"]
    assert mixed.call("CHECK", {**keys, "prevResult": said}, {})[0] == 0
    second = Side(side.host, side.pod, side.programs)  # its own IPAM, in the same directory
    status, said = second.call("ADD", keys, {"CNI_IFNAME": "eth1"}, "second")
    assert said["ips"][0]["address"] == "10.77.1.3/24", "after the other's, by the other's cursor"
    assert second.call("DEL", keys, {"CNI_IFNAME": "eth1"}, "second")[0] == 0
    assert (
        other.host.call(
            "DEL", "c0ffee", side.pod.path, mixed.config(keys), f"{other.programs}/bridge", CNI_PATH=other.programs
        )[0]
        == 0
    )
    assert (side.host.held(), link_names(side.pod)) == ({}, ["lo"])


def test_one_takes_back_what_the_other_masqueraded(sides: tuple[Side, Side]) -> None:
    keys = bridge([*V4, *V6], isGateway=True, ipMasq=True)
    for adds, deletes in (sides, sides[::-1]):
        last = Side(adds.host, adds.pod, deletes.programs)
        status, said = adds.call("ADD", keys, {})
        assert status == 0, said
        assert last.call("DEL", {**keys, "prevResult": said}, {})[0] == 0
        found = kernel(adds.host.space, adds.pod)
        assert (found["iptables-save"], found["ip6tables-save"], adds.host.held()) == ([], [], {})


def test_a_pod_that_no_route_leads_to_may_have_ports(sides: tuple[Side, Side]) -> None:
    """On a bridge without a gateway's address and a node without a default route: nothing from 127.0.0.1 can come there."""
    ports = {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}
    told = []
    for side in sides:
        status, said = side.call("ADD", bridge(), {})
        assert status == 0, said
        keys = {"type": "portmap", "runtimeConfig": ports, "prevResult": said}
        told.append((*side.call("ADD", keys, {})[:1], kernel(side.host.space, side.pod)["iptables-save"]))
        assert side.call("DEL", keys, {}) == side.call("DEL", bridge(), {}) == (0, {})
    assert told[0] == told[1]
    assert told[0][0] == 0
    assert told[0][1]


def test_a_chain_may_be_of_both(sides: tuple[Side, Side]) -> None:
    """podman's own chain, every second plugin of it the other's; each hands on what the one before said."""
    requires("firewall", "tuning")
    ours, theirs = sides
    host, pod = ours.host, ours.pod
    ports = {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}
    rates = {"bandwidth": {"ingressRate": 10**7, "ingressBurst": 10**6, "egressRate": 10**7, "egressBurst": 10**6}}
    for first, second in ((ours.programs, theirs.programs), (theirs.programs, ours.programs)):
        chain: list[tuple[str, dict[str, object]]] = [
            (first, bridge([*V4, *V6], isGateway=True, ipMasq=True)),
            (second, {"type": "portmap", "runtimeConfig": ports}),
            (GO_PLUGINS, {"type": "firewall"}),
            (GO_PLUGINS, {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}}),
            (second, {"type": "bandwidth", "runtimeConfig": rates}),
        ]
        said: dict[str, Any] = {}
        for programs, keys in chain:
            before = said
            given = {**keys, "prevResult": said} if said else keys
            status, said = Side(host, pod, programs).call("ADD", given, {})
            assert status == 0, (programs, said)
            assert not before or said["ips"] == before["ips"]
            assert not before or said.get("routes") == before.get("routes")
        assert "tbf" in host.space.run("tc", "qdisc", "show")
        for programs, keys in reversed(chain):
            assert Side(host, pod, programs).call("DEL", {**keys, "prevResult": said}, {})[0] == 0
        assert (host.held(), link_names(pod), host.links()) == ({}, ["lo"], {"cni0"})
        assert "c0ffee" not in host.space.run("iptables-save")
        host.space.run("ip", "link", "del", "cni0")
