"""The kubelet as a CNI runtime, with our plugins and with the reference's: addresses, hostPort and bandwidth by real packets,
readiness, and what nobody will ever DEL given back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest

from cni import launcher
from kubelet.bandwidth import EGRESS, INGRESS, bandwidth
from kubelet.network import Network
from kubelet.runtime import NetworkUnavailable, PodIdentity, PortMapping
from linux import netns as kernel
from tests.conftest import Netns, named_netns
from tests.node.cni_host import GO_PLUGINS
from tests.node.packet_client import Flow
from tests.node.service_world import Helper
from tests.requirements import requires

NODE, OUTSIDER = {4: "192.0.2.1", 6: "2001:db8::1"}, {4: "192.0.2.9", 6: "2001:db8::9"}
RANGE = {4: "10.90.7.", 6: "fd00:90:7::"}
HOST_PORT, PORT = 18080, 8080
POD = PodIdentity("web", "default", "uid-1")
PORTS = (
    PortMapping(protocol="TCP", container_port=PORT, host_port=HOST_PORT, host_ip=""),
    PortMapping(protocol="UDP", container_port=PORT, host_port=HOST_PORT, host_ip=""),
)
LIMITS = bandwidth({INGRESS: "50M", EGRESS: "25M"})
ID = "c" * 64


@dataclass
class Node:
    """A node's namespace, somebody outside, and one for a pod; the configuration is written by each test."""

    space: Netns
    outside: Netns
    pod: Netns
    folder: Path
    network: Network

    @property
    def subnet(self) -> Path:
        return self.folder / "subnet.env"

    def overlay_is_ready(self) -> None:
        self.subnet.write_text(
            "FLANNEL_NETWORK=10.90.0.0/16\nFLANNEL_SUBNET=10.90.7.1/24\nFLANNEL_IPV6_NETWORK=fd00:90::/32\n"
            "FLANNEL_IPV6_SUBNET=fd00:90:7::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        )

    def configure(self, content: bytes) -> None:
        (self.folder / "net.d").mkdir(exist_ok=True)
        (self.folder / "net.d" / "10-net.conflist").write_bytes(content)

    def ours(self, *, agent: bool = False) -> None:
        socket, calls = str(self.folder / "cni.sock"), str(self.folder / "run")
        launcher.write_plugins(self.folder / "bin", socket=socket, run=calls)
        data = str(self.folder / "networks")
        self.configure(launcher.conflist(name="net", subnet_file=str(self.subnet), data_dir=data, agent=agent))

    @contextlib.contextmanager
    def agent(self) -> Iterator[None]:
        argv = [sys.executable, "-m", "cni.agent", f"--socket={self.folder}/cni.sock", f"--run-dir={self.folder}/run"]
        with self.space.start(*argv, stderr=subprocess.PIPE) as process:
            try:
                assert b"answers at" in process.stderr.readline()  # type: ignore[union-attr]
                yield
            finally:
                process.terminate()

    def theirs(self) -> None:
        ranges = [[{"subnet": "10.90.7.0/24"}], [{"subnet": "fd00:90:7::/64"}]]
        ipam = {"type": "host-local", "ranges": ranges, "dataDir": str(self.folder / "networks")}
        bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True, "ipam": ipam}
        chain = [
            bridge,
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ]
        self.configure(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": chain}).encode())
        self.network.bin_dirs = [GO_PLUGINS]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """As the kubelet does: the thread stands in the node's namespace."""
        with kernel.enter(self.space.path):
            asyncio.run(work)

    def left(self) -> list[str]:
        """Whatever is there of a pod."""
        saved = [self.space.run(command, "-t", "nat") for command in ("iptables-save", "ip6tables-save")]
        rules = [line for text in saved for line in text.splitlines() if "CNI-DN-" in line]
        links = [each["ifname"] for each in json.loads(self.space.run("ip", "-j", "link"))]
        files = [each.name for start in RANGE.values() for each in self.folder.glob(f"networks/net/{start}*")]
        return [*rules, *(name for name in links if name.startswith(("veth", "bwp"))), *files]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    requires("root", "netns", "iptables", "ip6tables", "tc")
    with named_netns() as make:
        space, outside, pod = make("node"), make("out"), make("pod")
        for each in (space, outside, pod):
            each.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        lines = [f"link add uplink type veth peer name eth0 netns {outside.name}", "link set uplink up"]
        lines += [f"address add {NODE[4]}/24 dev uplink", f"address add {NODE[6]}/64 dev uplink"]
        space.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        lines = [f"address add {OUTSIDER[4]}/24 dev eth0", f"address add {OUTSIDER[6]}/64 dev eth0", "link set eth0 up"]
        outside.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        network = Network(str(tmp_path / "net.d"), [str(tmp_path / "bin")], str(tmp_path / "cache"), timeout=60)
        yield Node(space, outside, pod, tmp_path, network)


@pytest.fixture
def ask() -> Iterator[Callable[[Node, str, str], dict[str, int]]]:
    """`ask(node, address of the pod, protocol)`: what an outsider hears at the node's port."""
    server, client = Helper("packet_server"), Helper("packet_client")
    opened: set[str] = set()

    def asked(node: Node, address: str, protocol: str) -> dict[str, int]:
        if address not in opened:
            opened.add(address)
            server(open=[[node.pod.path, address, PORT]])
        family = 6 if ":" in address else 4
        flow = Flow(node.outside.path, OUTSIDER[family], NODE[family], HOST_PORT, protocol, timeout=20.0)
        return dict(client(ask=[astuple(flow)])[0])

    try:
        yield asked
    finally:
        client.close()
        server.close()


@pytest.mark.parametrize("whose", ["ours", "ours by the agent", "theirs"])
def test_a_pods_life(node: Node, ask: Callable[[Node, str, str], dict[str, int]], whose: str) -> None:
    """In both families."""
    if whose == "theirs":
        requires("bridge", "host-local", "portmap", "bandwidth")
        node.theirs()
    else:
        node.ours(agent="agent" in whose)
        node.overlay_is_ready()

    async def work() -> None:
        network = node.network
        assert await network.obstacle() == ""
        ips = await network.add(ID, node.pod.path, POD, PORTS, LIMITS)
        assert {ip.version: str(ip).startswith(RANGE[ip.version]) for ip in ips} == {4: True, 6: True}
        for ip in ips:
            name = f"[{ip}]" if ip.version == 6 else str(ip)
            for protocol in ("tcp", "udp"):
                heard = await asyncio.to_thread(ask, node, str(ip), protocol)
                assert heard == {f"{name}:{PORT} {OUTSIDER[ip.version]}": 1}, protocol
        rates = [
            each["options"]["rate"]
            for each in json.loads(await asyncio.to_thread(node.space.run, "tc", "-j", "qdisc"))
            if each["kind"] == "tbf"
        ]
        assert sorted(rates) == [25_000_000 // 8, 50_000_000 // 8]
        heir = Network(network.conf_dir, network.bin_dirs, network.cache_dir)
        entry = heir.attachments()[ID]
        assert heir.wired(entry)
        if whose != "theirs":
            await network.check(ID, node.pod.path)
            assert entry.result is not None
            port = entry.result["interfaces"][1]["name"]
            await asyncio.to_thread(node.space.run, "ip", "link", "set", port, "nomaster")
            assert not heir.wired(entry)
        await heir.delete(ID, node.pod.path)
        await heir.delete(ID, node.pod.path)

    with node.agent() if "agent" in whose else contextlib.nullcontext():
        node.run(work())
    assert node.left() == []


def test_while_the_agent_is_away_a_pod_waits_and_an_old_one_goes(node: Node) -> None:
    node.ours(agent=True)
    node.overlay_is_ready()

    async def one() -> None:
        await node.network.add(ID, node.pod.path, POD, PORTS, LIMITS)

    async def away() -> None:
        await node.network.delete(ID, node.pod.path)
        with pytest.raises(NetworkUnavailable, match="code 11"):
            await node.network.add(ID, node.pod.path, POD, PORTS, LIMITS)
        assert node.network.attachments() == {}

    with node.agent():
        node.run(one())
    node.run(away())
    assert node.left() == []


def test_the_node_is_ready_when_the_overlay_is(node: Node) -> None:
    """STATUS says so, and an ADD before answers "try again": the kubelet tells the pod and tries again."""
    node.ours()

    async def work() -> None:
        network = node.network
        assert str(node.subnet) in await network.obstacle()
        with pytest.raises(NetworkUnavailable, match=rf"{node.subnet}.*code 11"):
            await network.add(ID, node.pod.path, POD, PORTS, LIMITS)
        assert network.attachments() == {}
        node.overlay_is_ready()
        async with asyncio.timeout(30):
            while await network.obstacle():  # asked again within a second or so
                await asyncio.sleep(0.1)
        await network.add(ID, node.pod.path, POD, PORTS, LIMITS)
        await network.delete(ID, node.pod.path)

    node.run(work())
    assert node.left() == []


def test_what_nobody_will_ever_delete_is_given_back(node: Node, tmp_path: Path) -> None:
    """Its cache is lost, as after a disk was exchanged; the next kubelet's first collection finds all of it."""
    node.ours()
    node.overlay_is_ready()

    async def work() -> None:
        lost = Network(node.network.conf_dir, node.network.bin_dirs, str(tmp_path / "lost"))
        await lost.add("lost", node.pod.path, POD, PORTS, LIMITS)
        assert len(await asyncio.to_thread(node.left)) >= 2 * 3 + 2 + 2
        await node.network.collect()

    node.run(work())
    assert node.left() == []
