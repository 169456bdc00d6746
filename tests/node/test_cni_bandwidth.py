"""A pod's limits, measured by what goes through; and the kernel's objects, compared with the reference plugin's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from linux import netns as kernel_netns
from tests.conftest import Netns, named_netns
from tests.node.cni_host import CniHost
from tests.requirements import requires, tool

GATEWAY, POD = "10.77.1.1", "10.77.1.2"
MEGABIT = 1_000_000
IFB = "bwp48c5963fc74e"  # of network "pods" and container "c1"
SLOWER = ("rate", "1mbit", "burst", "10kb", "latency", "25ms")
LIMITS = {
    "ingressRate": 40 * MEGABIT,
    "ingressBurst": MEGABIT,
    "egressRate": 20 * MEGABIT,
    "egressBurst": MEGABIT,
}


@dataclass
class Node:
    """A bridge, and a pod whose pair of links hangs on it."""

    space: Netns
    pod: Netns
    program: str

    def config(self, limits: Mapping[str, object] | None = None, **keys: object) -> dict[str, object]:
        """As the plugin before leaves it, with more links than one on the node."""
        result = {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "cni0"},
                {"name": "other"},
                {"name": "pod0"},
                {"name": "eth0", "sandbox": self.pod.path},
            ],
            "ips": [{"address": f"{POD}/24", "interface": 3, "gateway": GATEWAY}],
            "dns": {},
        }
        said: dict[str, object] = {"cniVersion": "1.0.0", "name": "pods", "type": "bandwidth", "prevResult": result}
        return said | ({"runtimeConfig": {"bandwidth": dict(limits)}} if limits is not None else {}) | keys

    def call(
        self, command: str, config: Mapping[str, object], program: str = "", container: str = "c1"
    ) -> tuple[int, dict[str, Any]]:
        variables = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": self.pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/nowhere",
        }
        done = subprocess.run(
            kernel_netns.argv_in(self.space.path, [program or self.program]),
            input=json.dumps(config).encode(),
            capture_output=True,
            env=variables,
            timeout=60,
            check=False,
        )
        assert not done.stderr, done.stderr.decode()
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    def qdiscs(self) -> list[dict[str, Any]]:
        found = json.loads(self.space.run("tc", "-j", "qdisc"))
        return [{k: v for k, v in each.items() if k != "refcnt"} for each in found if each["dev"] in ("pod0", IFB)]

    def links(self) -> set[str]:
        return {each["ifname"] for each in json.loads(self.space.run("ip", "-j", "link"))}


@pytest.fixture(params=["alone", "agent"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    requires("root", "netns", "ip", "tc")
    with named_netns() as make:
        space, pod = make("node"), make("pod")
        lines = [
            "link add cni0 type bridge",
            "link set cni0 up",
            f"address add {GATEWAY}/24 dev cni0",
            "link add other type veth peer name unused",
            f"link add pod0 type veth peer name eth0 netns {pod.name}",
            "link set pod0 master cni0 up",
        ]
        space.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        pod.run("ip", "-batch", "-", stdin=f"address add {POD}/24 dev eth0\nlink set eth0 up\n")
        host = CniHost(space, tmp_path)
        with host.served() if request.param == "agent" else contextlib.nullcontext():
            yield Node(space, pod, str(host.bin / "bandwidth"))


def rate(sender: Netns, receiver: Netns, address: str, seconds: float = 1.5) -> float:
    """Bits a second of a TCP stream to `address`, once it runs. The first half second is not counted: the burst is in it."""
    with kernel_netns.enter(receiver.path):
        listening = socket.create_server((address, 5001))
    with kernel_netns.enter(sender.path):
        sending = socket.socket()
    with listening, sending:
        sending.settimeout(20)
        listening.settimeout(20)
        sending.connect((address, 5001))
        taken, _ = listening.accept()

        def pour() -> None:
            data = bytes(1 << 16)
            with contextlib.suppress(OSError):  # the receiver has seen enough
                while True:
                    sending.sendall(data)

        thread = threading.Thread(target=pour)
        thread.start()
        try:
            with taken:
                taken.settimeout(20)
                started, got, counted = time.monotonic(), 0, 0.0
                while (now := time.monotonic()) < started + 0.5 + seconds:
                    size = len(taken.recv(1 << 20))
                    if now >= started + 0.5:
                        counted = counted or now
                        got += size
                elapsed = time.monotonic() - counted
        finally:
            thread.join(40)
    return got * 8 / elapsed


def test_what_goes_through(node: Node) -> None:
    """Within 15 % of what was asked, in both directions; a packet's headers count too, and TCP's are 4 %."""
    status, said = node.call("ADD", node.config(LIMITS))
    assert status == 0, said
    assert said["interfaces"][:4] == node.config()["prevResult"]["interfaces"]  # type: ignore[index]
    ifb = said["interfaces"][4]
    assert (ifb["name"], len(ifb["mac"])) == (IFB, 17)
    assert node.call("CHECK", node.config(LIMITS)) == (0, {})
    assert rate(node.space, node.pod, POD) == pytest.approx(0.96 * LIMITS["ingressRate"], rel=0.15)
    assert rate(node.pod, node.space, GATEWAY) == pytest.approx(0.96 * LIMITS["egressRate"], rel=0.15)
    for _ in range(2):
        assert node.call("DEL", node.config(LIMITS)) == (0, {})
        assert IFB not in node.links()
    assert not [each for each in node.qdiscs() if each["kind"] != "noqueue"]
    assert rate(node.pod, node.space, GATEWAY, 0.5) > 3 * LIMITS["egressRate"], "nothing is in its way any more"


@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        {"ingressRate": 7 * MEGABIT, "ingressBurst": 3 * MEGABIT},
        {"egressRate": 40_000 * MEGABIT, "egressBurst": 800 * MEGABIT},
        {"ingressRate": 8, "ingressBurst": 8},
    ],
)
def test_the_kernels_objects_are_the_references(node: Node, limits: dict[str, int]) -> None:
    """And each of the two accepts and removes what the other has made."""
    requires("bandwidth")
    reference = str(tool("bandwidth"))
    seen = []
    for mine, other in ((node.program, reference), (reference, node.program)):
        status, said = node.call("ADD", node.config(limits), mine)
        assert status == 0, said
        seen.append((node.qdiscs(), [{**each, "mac": ""} for each in said["interfaces"]], said["ips"]))
        config = {**node.config(limits), "prevResult": said}
        assert node.call("CHECK", config, other) == (0, {})
        assert node.call("DEL", config, other) == (0, {})
        assert IFB not in node.links()
        for parent in ("root", "ingress"):  # the reference leaves them to the link's own end
            node.space.run("tc", "qdisc", "del", "dev", "pod0", parent, check=False)
    assert seen[0] == seen[1]


def test_the_configurations_own_limits_come_first(node: Node) -> None:
    config = node.config(LIMITS, ingressRate=80 * MEGABIT, ingressBurst=MEGABIT)
    assert node.call("ADD", config)[0] == 0
    (found,) = node.qdiscs()
    assert (found["dev"], found["options"]["rate"]) == ("pod0", 10 * MEGABIT)


def test_containerds_spelling_is_understood(node: Node) -> None:
    """`IngressRate`, and a burst of 2^32 bits."""
    limits = {"IngressRate": 80 * MEGABIT, "IngressBurst": 0xFFFFFFFF, "EgressRate": 0, "EgressBurst": 0}
    assert node.call("ADD", node.config(limits))[0] == 0
    (found,) = node.qdiscs()
    assert found["options"]["rate"] == 10 * MEGABIT


def test_an_add_that_was_cut_short_is_made_anew(node: Node) -> None:
    node.space.run("ip", "link", "add", IFB, "type", "ifb")
    node.space.run("tc", "qdisc", "add", "dev", "pod0", "ingress")
    for _ in range(2):
        assert node.call("ADD", node.config(LIMITS))[0] == 0
        assert node.call("CHECK", node.config(LIMITS)) == (0, {})
    assert len(json.loads(node.space.run("tc", "-j", "filter", "show", "dev", "pod0", "ingress"))) == 3, "one filter"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (("tc", "qdisc", "del", "dev", "pod0", "root"), "pod0, to the pod: no token bucket instead of Bucket"),
        (("tc", "qdisc", "del", "dev", "pod0", "ingress"), f"what pod0 receives is not led through {IFB}"),
        (("tc", "qdisc", "replace", "dev", IFB, "root", "tbf", *SLOWER), "rate=125000"),
        (("ip", "link", "del", IFB), f"the link {IFB}, through which the pod sends, is gone"),
    ],
)  # fmt: skip
def test_check_names_what_is_wrong(node: Node, damage: tuple[str, ...], words: str) -> None:
    assert node.call("ADD", node.config(LIMITS))[0] == 0
    node.space.run(*damage)
    status, said = node.call("CHECK", node.config(LIMITS))
    assert (status, said["code"]) == (1, 103)
    assert words in said["msg"] + said.get("details", "")


def test_gc_removes_the_ifbs_of_its_network_alone(node: Node) -> None:
    assert node.call("ADD", node.config(LIMITS))[0] == 0
    assert node.call("ADD", node.config(LIMITS), container="gone")[0] == 0
    assert node.call("ADD", node.config(LIMITS, name="others"), container="gone")[0] == 0
    node.space.run("ip", "link", "add", "bwp000000000000", "type", "ifb")  # whose it is nobody can say
    before = node.links()
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    config = {**node.config(cniVersion="1.1.0"), "cni.dev/valid-attachments": valid}
    assert node.call("STATUS", config) == (0, {})
    assert node.call("GC", config) == (0, {})
    after = node.links()
    assert len(before - after) == 1
    assert {IFB, "bwp000000000000"} <= after


def test_without_limits_the_result_passes_through(node: Node) -> None:
    for limits in (None, {}, {"ingressRate": 0, "ingressBurst": 0}):
        config = node.config(limits)
        assert node.call("ADD", config) == (0, config["prevResult"])
        assert node.call("CHECK", config) == (0, {})
        assert node.call("DEL", config) == (0, {})
    assert not [each for each in node.qdiscs() if each["kind"] != "noqueue"]


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"ingressRate": 1000}, 7, "ingressRate is nothing without ingressBurst"),
        ({"egressBurst": 1000}, 7, "egressBurst is nothing without egressRate"),
        ({"ingressRate": 1000, "ingressBurst": 8 << 32}, 7, "ingressBurst must be less than 4 GiB"),
        ({"ingressRate": "1M", "ingressBurst": 1000}, 7, "ingressRate must be a number of bits, not '1M'"),
        ({"ingressRate": 7, "ingressBurst": 1000}, 7, "less than a byte"),
        ({**LIMITS, "shapedSubnets": ["10.0.0.0/8"]}, 2, "shapedSubnets is not supported"),
        ({"runtimeConfig": {"bandwidth": [1]}}, 7, "runtimeConfig.bandwidth must be an object"),
        ({**LIMITS, "prevResult": None}, 7, "needs prevResult"),
        ({**LIMITS, "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "x"}], "ips": []}}, 7, "no link of the node"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(node: Node, keys: dict[str, object], code: int, words: str) -> None:
    status, said = node.call("ADD", {**node.config(), **keys})
    assert (status, said["code"]) == (1, code)
    assert re.search(words, said["msg"]), said
    assert not [each for each in node.qdiscs() if each["kind"] != "noqueue"]
