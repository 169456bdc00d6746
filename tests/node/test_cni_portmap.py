"""hostPort with real packets: who reaches a pod by a port of its node, whom the pod sees, and that nothing is left.

The world is `service_world`'s: pods HERE and HERE_TOO on the node's bridge, another node, outsiders. Each packet filter is
tried: iptables on nf_tables, legacy iptables, nftables; and the reference plugin where the two must be equal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cni import launcher
from linux import netns as kernel_netns
from tests.conftest import named_netns
from tests.node.cni_host import GO_PLUGINS
from tests.node.service_world import (
    FAMILIES,
    GATEWAY,
    HERE,
    HERE_TOO,
    LOOPBACK,
    NODE,
    NODE_TOO,
    OTHER_NODE,
    OTHER_POD,
    OUTSIDER,
    PORT,
    Site,
    World,
    built,
    spell,
)
from tests.requirements import requires, tool

HOST_PORT = 18080
Mapping_ = Mapping[str, object]


def port(host: int = HOST_PORT, pod: int = PORT, protocol: str = "tcp", **more: str) -> dict[str, object]:
    return {"hostPort": host, "containerPort": pod, "protocol": protocol, **more}


BOTH = (port(), port(protocol="udp"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    requires("root", "netns", "iptables", "ip6tables", "nft")
    with named_netns() as make, built(make) as made:
        yield made


@dataclass(slots=True)
class Portmap:
    """The plugin on this world's node with one packet filter. `program` is ours or the reference's."""

    world: World
    program: str
    keys: Mapping[str, object]
    environment: Mapping[str, str]
    flavor: str
    attached: dict[str, dict[str, object]] = field(default_factory=dict)

    def config(self, pod: str, ports: Sequence[Mapping_], **keys: object) -> dict[str, object]:
        """Of a pod on the bridge, as the plugin before this one leaves it."""
        path = self.world.spaces[pod].path
        result = {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "pod0"}, {"name": "eth0", "sandbox": path}],
            "ips": [
                {"address": f"{spell(pod, 4)}/24", "interface": 2, "gateway": GATEWAY},
                {"address": f"{spell(pod, 6)}/112", "interface": 2},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": GATEWAY}],
            "dns": {},
        }
        said = {"cniVersion": "1.0.0", "name": "pods", "type": "portmap", **self.keys, **keys, "prevResult": result}
        return said | {"runtimeConfig": {"portMappings": list(ports)}}

    def start(
        self, command: str, config: Mapping[str, object], container: str = "c1", netns: str = "", program: str = ""
    ) -> subprocess.Popen[bytes]:
        variables = {
            "PATH": os.environ["PATH"],
            **self.environment,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": GO_PLUGINS,
        }
        process = subprocess.Popen(
            kernel_netns.argv_in(self.world.node.path, [program or self.program]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(config).encode())
        process.stdin = None
        return process

    def call(
        self, command: str, config: Mapping[str, object], container: str = "c1", netns: str = "", program: str = ""
    ) -> tuple[int, dict[str, Any]]:
        out, err = (process := self.start(command, config, container, netns, program)).communicate(timeout=120)
        assert not err, err.decode()
        return process.returncode, json.loads(out) if out else {}

    def add(self, pod: str, *ports: Mapping_, container: str = "c1", **keys: object) -> None:
        config = self.config(pod, ports, **keys)
        status, said = self.call("ADD", config, container, self.world.spaces[pod].path)
        assert status == 0, said
        assert said == config["prevResult"]
        self.attached[container] = config

    def delete(self, container: str = "c1", program: str = "") -> None:
        config = self.attached.pop(container)
        assert self.call("DEL", config, container, program=program) == (0, {})

    def rules(self) -> list[str]:
        """Every rule about hostPorts, of both families, without counters."""
        found = []
        for family in FAMILIES:
            if self.flavor == "nftables":
                name = "ip" if family == 4 else "ip6"
                text = self.world.node.run("nft", "-s", "list", "table", name, "cni_hostport", check=False)
                rules = (line.strip() for line in text.splitlines())
                found += [f"{name}: {rule}" for rule in rules if "comment" in rule and "CNI portmap" not in rule]
            else:
                stem = "iptables" if family == 4 else "ip6tables"
                text = self.world.node.run(f"{stem}-{self.flavor}-save", "-t", "nat")
                found += [f"{stem} {line}" for line in text.splitlines() if "CNI-" in line]
        return found

    def of_containers(self) -> list[str]:
        """Those that are not shared."""
        return [rule for rule in self.rules() if self.flavor == "nftables" or "CNI-DN-" in rule]


def legacy_path(folder: Path) -> str:
    """A PATH on which `iptables` is the legacy one."""
    folder.mkdir(exist_ok=True)
    for stem in ("iptables", "ip6tables"):
        for name in ("", "-save", "-restore"):
            link = folder / f"{stem}{name}"
            if not link.is_symlink():
                link.symlink_to(str(tool(f"{stem}-legacy{name}")))
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(params=["nft", "legacy", "nftables"])
def portmap(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Portmap]:
    """Ours, and after the test no rule of a container is there."""
    if request.param == "legacy":
        requires("iptables-legacy", "ip6tables-legacy")
    environment = {"XTABLES_LOCKFILE": str(tmp_path / "xtables.lock")}
    if request.param == "legacy":
        environment["PATH"] = legacy_path(tmp_path / "legacy")
    keys = {"backend": "nftables" if request.param == "nftables" else "iptables"}
    made = Portmap(world, program(tmp_path), keys, environment, request.param)
    with alone(made):
        yield made


@pytest.fixture
def reference(world: World, tmp_path: Path) -> Iterator[Portmap]:
    """Debian's own."""
    requires("portmap")
    environment = {"XTABLES_LOCKFILE": str(tmp_path / "xtables.lock")}
    made = Portmap(world, str(tool("portmap")), {}, environment, "nft")
    with alone(made):
        yield made


@contextlib.contextmanager
def alone(portmap: Portmap) -> Iterator[None]:
    """What the test has left attached is detached at its end, and then no rule of a container is there."""
    try:
        yield
        for container in list(portmap.attached):
            portmap.delete(container)
        assert portmap.of_containers() == []
    finally:
        wipe(portmap.world)


def program(folder: Path) -> str:
    made = folder / "bin" / "portmap"
    if not made.exists():
        ours = launcher.write_plugins(folder / "bin")
        if not made.exists():
            made.hardlink_to(ours)
    return str(made)


def wipe(world: World) -> None:
    """What containers share stays for the next one on a node; here each packet filter shall be alone."""
    world.node.run("nft", "flush", "ruleset")
    for stem in ("iptables", "ip6tables"):
        if shutil.which(f"{stem}-legacy"):
            world.node.run(f"{stem}-legacy", "-w", "5", "-t", "nat", "-F")
            world.node.run(f"{stem}-legacy", "-w", "5", "-t", "nat", "-X")


WAYS = [
    (OUTSIDER, OUTSIDER),
    (OTHER_NODE, OTHER_NODE),
    (OTHER_POD, OTHER_POD),
    (NODE, NODE),
    (HERE_TOO, "masq"),
    (HERE, "masq"),
]
"""Who asks, and whom the pod sees: those whose answers would not pass the node again are masqueraded."""


def asked(world: World, family: int, protocol: str, to: str = NODE, host_port: int = HOST_PORT) -> dict[str, str]:
    """By who asks: what was answered."""
    site = Site(world, family)
    askers = [asker for asker, _ in WAYS]
    flows = [site.flow(asker, to, host_port, protocol=protocol) for asker in askers]
    return {asker: next(iter(found)) for asker, found in zip(askers, site.ask_all(flows), strict=True)}


def expected(pod: str = HERE, pod_port: int = PORT) -> dict[str, str]:
    return {asker: f"{pod}:{pod_port} {seen}" for asker, seen in WAYS}


@pytest.mark.parametrize("bridged", ["1", "0"])
def test_everybody_reaches_the_pod(portmap: Portmap, bridged: str) -> None:
    """Whether or not the packet filter sees the bridge's frames (`bridge-nf-call-iptables`)."""
    portmap.world.node.run(
        "sysctl", "-qw", *(f"net.bridge.bridge-nf-call-{each}={bridged}" for each in ("iptables", "ip6tables"))
    )
    try:
        portmap.add(HERE, *BOTH)
        for family in FAMILIES:
            for protocol in ("tcp", "udp"):
                assert asked(portmap.world, family, protocol) == expected(), (family, protocol)
        site = Site(portmap.world, 4)
        for protocol in ("tcp", "udp"):
            assert site.ask(LOOPBACK, LOOPBACK, HOST_PORT, protocol=protocol) == {f"{HERE}:{PORT} masq": 1}
    finally:
        portmap.world.node.run(
            "sysctl", "-qw", *(f"net.bridge.bridge-nf-call-{each}=1" for each in ("iptables", "ip6tables"))
        )


def test_the_reference_is_reached_the_same_way(reference: Portmap) -> None:
    reference.add(HERE, *BOTH)
    for family in FAMILIES:
        assert asked(reference.world, family, "tcp") == expected()
    assert Site(reference.world, 4).ask(LOOPBACK, LOOPBACK, HOST_PORT) == {f"{HERE}:{PORT} masq": 1}


def test_a_host_address_limits_the_port(portmap: Portmap) -> None:
    """To itself, and to its family; 0.0.0.0 is every address of IPv4."""
    world = portmap.world
    portmap.add(
        HERE,
        port(18081, hostIP=NODE_TOO),
        port(18082, hostIP=spell(NODE, 6)),
        port(18083, hostIP="0.0.0.0"),
        port(18084, hostIP="127.0.0.1"),
    )
    four, six = Site(world, 4), Site(world, 6)
    answer = {f"{HERE}:{PORT} {OUTSIDER}": 1}
    assert four.ask(OUTSIDER, NODE_TOO, 18081) == answer
    assert four.ask(OUTSIDER, NODE, 18081) == {"refused": 1}
    assert six.ask(OUTSIDER, NODE, 18082) == answer
    assert four.ask(OUTSIDER, NODE, 18082) == {"refused": 1}
    assert four.ask(OUTSIDER, NODE, 18083) == four.ask(OUTSIDER, NODE_TOO, 18083) == answer
    assert six.ask(OUTSIDER, NODE, 18083) == {"refused": 1}
    assert four.ask(LOOPBACK, LOOPBACK, 18084) == {f"{HERE}:{PORT} masq": 1}
    assert four.ask(OUTSIDER, NODE, 18084) == {"refused": 1}


def test_forty_ports(portmap: Portmap) -> None:
    """More than one multiport match can hold."""
    numbers = range(18100, 18140)
    portmap.add(HERE, *(port(number) for number in numbers))
    for family in FAMILIES:
        site = Site(portmap.world, family)
        found = site.ask_all([site.flow(OUTSIDER, NODE, number) for number in numbers])
        assert found == [{f"{HERE}:{PORT} {OUTSIDER}": 1}] * 40


def test_other_machines_ports_are_let_alone(portmap: Portmap) -> None:
    """A pod's packet to that port elsewhere passes through the node, and a flow that lives is not disturbed."""
    world = portmap.world
    site = Site(world, 4)
    with world.holding(
        *(site.flow(HERE_TOO, OTHER_NODE, PORT, protocol=protocol) for protocol in ("tcp", "udp"))
    ) as stop:
        portmap.add(HERE, port(PORT), port(PORT, protocol="udp"))
        for family in FAMILIES:
            for protocol in ("tcp", "udp"):
                found = Site(world, family).ask(HERE_TOO, OTHER_NODE, PORT, protocol=protocol)
                assert found == {f"{OTHER_NODE}:{PORT} {HERE_TOO}": 1}
                assert Site(world, family).ask(OUTSIDER, NODE, PORT, protocol=protocol) == {
                    f"{HERE}:{PORT} {OUTSIDER}": 1
                }
        talk = stop()
    assert talk.names == {f"{OTHER_NODE}:{PORT}"}, talk


@pytest.mark.parametrize("family", FAMILIES)
def test_a_udp_sender_that_never_rests_follows_the_port(portmap: Portmap, family: int) -> None:
    """From the node itself to the first pod, to the second, and back: its flow never ends of itself."""
    world, site = portmap.world, Site(portmap.world, family)
    flow = site.flow(OUTSIDER, NODE, PORT, protocol="udp", source_port=40404)

    def answers() -> str:
        return site.told(next(iter(world.ask_all([flow])[0])))

    assert answers() == f"{NODE}:{PORT} {OUTSIDER}"
    portmap.add(HERE, port(PORT, protocol="udp"), container="first")
    assert answers() == f"{HERE}:{PORT} {OUTSIDER}"
    portmap.delete("first")
    portmap.add(HERE_TOO, port(PORT, protocol="udp"), container="second")
    assert answers() == f"{HERE_TOO}:{PORT} {OUTSIDER}"
    portmap.delete("second")
    assert answers() == f"{NODE}:{PORT} {OUTSIDER}"


def test_of_two_containers_the_newer_has_the_port(portmap: Portmap) -> None:
    """A pod that replaces another starts before the old one has ended; which then takes nothing along."""
    site = Site(portmap.world, 4)
    portmap.add(HERE, port(), container="old")
    portmap.add(HERE_TOO, port(), container="new")
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE_TOO}:{PORT} {OUTSIDER}": 1}
    portmap.delete("old")
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE_TOO}:{PORT} {OUTSIDER}": 1}


def test_a_runtimes_life(portmap: Portmap) -> None:
    """ADD, CHECK, ADD again (a killed one's rules are replaced), DEL without prevResult, DEL again."""
    path = portmap.world.spaces[HERE].path
    portmap.add(HERE, *BOTH)
    first, config = portmap.rules(), portmap.attached["c1"]
    assert portmap.call("CHECK", config, netns=path) == (0, {})
    portmap.add(HERE, *BOTH)
    assert sorted(portmap.rules()) == sorted(first)
    bare = {key: value for key, value in config.items() if key != "prevResult"}
    for _ in range(2):
        assert portmap.call("DEL", bare) == (0, {})
        assert portmap.of_containers() == []
    status, said = portmap.call("CHECK", config, netns=path)
    assert (status, said["code"]) == (1, 103)
    assert "no rule in" in said["msg"]


def test_del_takes_what_no_add_would(portmap: Portmap) -> None:
    """A configuration that is wrong must not keep a pod from ending; and what was made before it went wrong goes."""
    portmap.add(HERE, *BOTH)
    config = {**portmap.attached.pop("c1"), "markMasqBit": 99, "prevResult": {"ips": "none"}}
    assert portmap.call("DEL", config) == (0, {})
    assert portmap.of_containers() == []


def test_a_killed_add_leaves_nothing_behind_its_del(portmap: Portmap) -> None:
    """At any moment; and then the whole life goes well."""
    config, path = portmap.config(HERE, BOTH), portmap.world.spaces[HERE].path
    for step in range(12):
        with portmap.start("ADD", config, netns=path) as process:
            time.sleep(0.008 * step)  # from the interpreter's start until after the end
            process.kill()
        assert portmap.call("DEL", config) == (0, {})
        assert portmap.of_containers() == []
    portmap.add(HERE, *BOTH)
    assert portmap.call("CHECK", config, netns=path) == (0, {})


@pytest.mark.parametrize("portmap", ["legacy"], indirect=True)  # the others have no lock to wait for
def test_what_a_killed_add_started_is_waited_for(portmap: Portmap) -> None:
    """Its command waits for the lock of the legacy tables still; the DEL comes after it."""
    config, path = portmap.config(HERE, BOTH), portmap.world.spaces[HERE].path
    portmap.add(HERE, port(18090), container="first")  # so that the lock's file and the shared chains are there
    with open(portmap.environment["XTABLES_LOCKFILE"]) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with portmap.start("ADD", config, netns=path) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            deadline = time.monotonic() + 30
            while not any("tables" in Path(f"/proc/{pid}/comm").read_text() for pid in children.read_text().split()):
                assert time.monotonic() < deadline, "it never wrote"
            process.kill()
        gone = portmap.start("DEL", config)
    out, err = gone.communicate(timeout=60)
    assert (gone.returncode, out, err) == (0, b"", b"")
    assert not [rule for rule in portmap.of_containers() if "18090" not in rule and str(HOST_PORT) in rule]


def test_check_names_what_is_missing(portmap: Portmap) -> None:
    portmap.add(HERE, *BOTH)
    run = portmap.world.node.run
    if portmap.flavor == "nftables":
        run("nft", "flush", "chain", "ip6", "cni_hostport", "masquerading")
    else:
        run(f"ip6tables-{portmap.flavor}", "-t", "nat", "-F", "CNI-HOSTPORT-MASQ")
    status, said = portmap.call("CHECK", portmap.attached["c1"], netns=portmap.world.spaces[HERE].path)
    assert (status, said["code"]) == (1, 103)
    assert re.search("no rule in (masquerading|CNI-HOSTPORT-MASQ): ", said["msg"]), said
    portmap.add(HERE_TOO, port(18090), container="c2")
    if portmap.flavor != "nftables":  # there each container has its own
        assert portmap.call("CHECK", portmap.attached["c1"], netns=portmap.world.spaces[HERE].path) == (0, {})


def test_gc_removes_what_no_attachment_names(portmap: Portmap) -> None:
    portmap.add(HERE, port(18091), container="kept")
    portmap.add(HERE, port(18092), container="lost")
    portmap.add(HERE, port(18093), container="other", name="others")
    valid = {"cni.dev/valid-attachments": [{"containerID": "kept", "ifname": "eth0"}], "cniVersion": "1.1.0"}
    config = {**portmap.config(HERE, ()), **valid}
    assert portmap.call("GC", config, container="") == (0, {})
    left = "\n".join(portmap.of_containers())
    assert ("18091" in left, "18092" in left, "18093" in left) == (True, False, True)
    assert portmap.call("STATUS", config, container="") == (0, {})


@pytest.mark.parametrize("portmap", ["nft", "legacy"], indirect=True)  # nftables: a table of its own
def test_others_rules_stay_as_they_are(portmap: Portmap) -> None:
    """A proxy's and an overlay's, before and after ours in each chain; and hairpin works among them."""
    run, command = portmap.world.node.run, f"iptables-{portmap.flavor}"
    lines = """*nat
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:FLANNEL-POSTRTG - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s 10.180.0.0/24 -d 10.180.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.180.0.0/16 -d 10.180.0.0/24 -j RETURN
-A FLANNEL-POSTRTG -s 10.180.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
COMMIT
"""
    run(f"{command}-restore", stdin=lines)

    def others() -> list[str]:
        return [
            line
            for line in run(f"{command}-save", "-t", "nat").splitlines()
            if line[:1] in "-:*" and "CNI-" not in line
        ]

    before = [re.sub(r"\[.*", "", line) for line in others()]
    portmap.add(HERE, *BOTH)
    assert asked(portmap.world, 4, "tcp") == expected()
    portmap.delete()
    assert [re.sub(r"\[.*", "", line) for line in others()] == before
    assert run(command, "-t", "nat", "-S", "PREROUTING").splitlines()[1].endswith("-j KUBE-SERVICES"), (
        "Services come first"
    )
    assert run(command, "-t", "nat", "-S", "POSTROUTING").splitlines()[1].endswith("-j CNI-HOSTPORT-MASQ")


def test_twenty_calls_at_once(portmap: Portmap) -> None:
    """The first ones find nothing of what they share. Afterwards it is there once, and so is each container's own."""
    names = [f"c{number}" for number in range(20)]
    configs = {name: portmap.config(HERE, [port(18200 + at)]) for at, name in enumerate(names)}
    path = portmap.world.spaces[HERE].path
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: portmap.call("ADD", configs[name], name, path)[0], names))
        assert found == [0] * 20
        rules = portmap.rules()
        assert len(rules) == len(set(rules)), "a rule is there twice"
        site = Site(portmap.world, 4)
        answers = site.ask_all([site.flow(OUTSIDER, NODE, 18200 + at) for at in range(20)])
        assert answers == [{f"{HERE}:{PORT} {OUTSIDER}": 1}] * 20
        assert list(pool.map(lambda name: portmap.call("DEL", configs[name], name, path), names)) == [(0, {})] * 20
    assert portmap.of_containers() == []


def test_the_reference_and_ours_follow_each_other(reference: Portmap, tmp_path: Path) -> None:
    """The same chains, names, comments and order; each removes what the other has made."""
    ours = program(tmp_path)
    ports = [
        *(port(18300 + number) for number in range(20)),
        port(18400, protocol="udp"),
        port(18401, hostIP="0.0.0.0"),
    ]
    reference.add(HERE, *ports)
    theirs = reference.rules()
    reference.delete(program=ours)
    assert reference.of_containers() == []
    wipe(reference.world)
    mine = Portmap(reference.world, ours, {}, reference.environment, "nft")
    mine.add(HERE, *ports)
    assert [rule.replace(",18401", "") for rule in theirs] == [rule.replace(",18401", "") for rule in mine.rules()]
    mine.delete(program=str(tool("portmap")))
    assert mine.of_containers() == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"markMasqBit": 32}, "markMasqBit must be a bit's number from 0 to 31, not 32"),
        ({"markMasqBit": 14, "externalSetMarkChain": "KUBE-MARK-MASQ"}, "exclude each other"),
        ({"backend": "ebtables"}, 'backend must be "iptables" or "nftables"'),
        ({"backend": "nftables", "conditionsV4": ["!", "-d", "192.0.2.1"]}, "not in the words of the backend nftables"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 1}]}}, r"portMappings\[0\].hostPort"),
        ({"runtimeConfig": {"portMappings": [port(protocol="icmp")]}}, "must be tcp, udp or sctp"),
        ({"runtimeConfig": {"portMappings": [port(hostIP="1.2.3")]}}, "hostIP must be an address"),
        ({"prevResult": None}, "needs prevResult"),
    ],
)
def test_what_cannot_be_is_refused_by_name(world: World, tmp_path: Path, keys: dict[str, object], said: str) -> None:
    made = Portmap(world, program(tmp_path), {}, {}, "nft")
    status, answer = made.call("ADD", {**made.config(HERE, BOTH), **keys}, netns=world.spaces[HERE].path)
    assert (status, answer["code"]) == (1, 7)
    assert re.search(said, answer["msg"]), answer


def test_without_ports_the_result_passes_through(world: World, tmp_path: Path) -> None:
    made = Portmap(world, program(tmp_path), {}, {}, "nft")
    before = made.rules()
    made.add(HERE)
    made.delete()
    assert made.rules() == before


def test_conditions_and_marks_are_the_authors(portmap: Portmap) -> None:
    """conditionsV4, snat, masqAll, markMasqBit and a chain of somebody else's that marks."""
    world, nft = portmap.world, portmap.flavor == "nftables"
    site = Site(world, 4)
    spared = ["ip", "saddr", "!=", OUTSIDER] if nft else ["!", "-s", OUTSIDER]
    portmap.add(HERE, port(), conditionsV4=spared)
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {"refused": 1}
    assert site.ask(OTHER_NODE, NODE, HOST_PORT) == {f"{HERE}:{PORT} {OTHER_NODE}": 1}
    portmap.delete()
    wipe(world)
    portmap.add(HERE, port(), masqAll=True, markMasqBit=20)
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE}:{PORT} masq": 1}
    assert "0x100000" in "\n".join(portmap.rules()).replace("0x00100000", "0x100000")
    portmap.delete()
    wipe(world)
    portmap.add(HERE, port(), snat=False)
    assert site.ask(OUTSIDER, NODE, HOST_PORT) == {f"{HERE}:{PORT} {OUTSIDER}": 1}
    assert not [rule for rule in portmap.rules() if re.search("masquerade|MASQ|SETMARK", rule)]
    portmap.delete()
    if nft:
        return
    for stem in ("iptables", "ip6tables"):
        world.node.run(f"{stem}-{portmap.flavor}", "-t", "nat", "-N", "THEIRS")
        world.node.run(
            f"{stem}-{portmap.flavor}", "-t", "nat", "-A", "THEIRS", "-j", "MARK", "--set-xmark", "0x4000/0x4000"
        )
    portmap.add(HERE, port(), externalSetMarkChain="THEIRS")
    rules = "\n".join(portmap.rules())
    assert "-j THEIRS" in rules
    assert "CNI-HOSTPORT-MASQ" not in rules
