"""Two nodes whose registry is etcd, on one bridge; node1's wire to it may be a network card's that breaks checksums.

    outer    br0 10.200.0.1/24 fd00:200::1/64, etcd
    nodeN    eth0 10.200.0.1N/24 fd00:200::1N/64, wherry-overlay
    podN     eth0, the .2 of the subnet that its node took

With `card` frames between node1 and the bridge go through `tests.node.broken_nic`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linux import ethtool, netns
from tests.node.overlay_world import OverlayNode, Space, until
from tests.node.pinger import ping

PREFIX = "/coreos.com/network"
CONFIG: dict[str, Any] = {"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}
DUAL: dict[str, Any] = {**CONFIG, "EnableIPv6": True, "IPv6Network": "fc00:5::/48"}
_SEGMENTATION = (0x1F, 0x24)  # ETHTOOL_STSO, ETHTOOL_SGSO


class EtcdNode(OverlayNode):
    """A node of this world: what asks the daemon is the parent's, what is wired differs."""

    def __init__(self, world: EtcdWorld, number: int) -> None:
        self.number, self.name, self.iface = number, f"node{number}", "eth0"
        self.etcd = world
        self.space, self.pod = world.space(self.name), world.space(f"pod{number}")
        self.home = world.home / self.name
        self.home.mkdir()
        self.subnet_file, self.log = self.home / "run" / "subnet.env", self.home / "overlay.log"
        self.address, self.address6 = f"10.200.0.1{number}", f"fd00:200::1{number}"
        self.pod_address = self.pod_address6 = ""
        self.daemon = None

    def argv(self, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "overlay", f"--etcd-endpoints={self.etcd.url}", "--iface=eth0"),
            *(f"--subnet-file={self.subnet_file}", "--healthz-bind-address=127.0.0.1:10262", "--ip-masq"),
            *more,
        ]

    def make_pod(self) -> None:
        """A pod in the subnet that subnet.env names, as the CNI plugin would."""
        env = self.subnet_env()
        mtu = env["FLANNEL_MTU"]
        if not self.pod_address:
            self.space.run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", self.pod.name)
        for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"):
            if key not in env:
                continue
            gateway = ipaddress.ip_interface(env[key])
            mine, more = f"{gateway.ip + 1}/{gateway.network.prefixlen}", ("nodad",) if gateway.version == 6 else ()
            self.space.run("ip", "addr", "replace", str(gateway), "dev", "pod0", *more)
            self.space.run("ip", "link", "set", "pod0", "mtu", mtu, "up")
            self.pod.run("ip", "addr", "replace", mine, "dev", "eth0", *more)
            self.pod.run("ip", "link", "set", "eth0", "mtu", mtu, "up")
            self.pod.run("ip", "route", "replace", "default", "via", str(gateway.ip))
            if gateway.version == 4:
                self.pod_address = str(gateway.ip + 1)
            else:
                self.pod_address6 = str(gateway.ip + 1)


class EtcdWorld:
    def __init__(self, home: Path, conf: Mapping[str, Any] = CONFIG, *, card: str = "") -> None:
        """`card`: "broken" or "whole"; empty: a plain wire."""
        self.home, self._mark = home, uuid.uuid4().hex[:5]
        self.url = "http://10.200.0.1:2379"
        self.versions = (4, 6) if conf.get("EnableIPv6") else (4,)
        self._spaces: list[Space] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.server: subprocess.Popen[bytes] | None = None
        self.nodes: list[EtcdNode] = []
        try:
            self.outer = self.space("outer")
            self.outer.run("ip", "link", "add", "br0", "address", "0a:58:0a:c8:00:01", "type", "bridge")
            self.outer.address("br0", "10.200.0.1", "fd00:200::1")
            self.outer.run("ip", "link", "set", "br0", "up")
            self.start_server()
            self.ctl("put", f"{PREFIX}/config", json.dumps(conf))
            self.nodes = [EtcdNode(self, number) for number in (1, 2)]
            for node in self.nodes:
                self._wire(node, card if node.number == 1 else "")
        except BaseException:
            self.close()
            raise

    def space(self, label: str) -> Space:
        made = Space(f"wt-{self._mark}-{label}")
        self._spaces.append(made)
        return made

    def _wire(self, node: EtcdNode, card: str) -> None:
        port, outer = f"p{node.number}", self.outer
        if card:
            outer.run("ip", "link", "add", "card0", "type", "veth", "peer", "name", "eth0", "netns", node.space.name)
            outer.run("ip", "link", "add", port, "master", "br0", "type", "veth", "peer", "name", "card1")
            for name in ("card0", "card1"):
                outer.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
                outer.run("ip", "link", "set", name, "up", "promisc", "on")
            self._unsegmented(outer, port)
        else:
            outer.run(
                "ip",
                "link",
                "add",
                port,
                "master",
                "br0",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                node.space.name,
            )
        if card or any(one for one in self.nodes):
            self._unsegmented(node.space, "eth0")
        outer.run("ip", "link", "set", port, "up")
        node.space.address("eth0", node.address, node.address6)
        node.space.run("ip", "link", "set", "eth0", "up")
        if card:
            argv = [sys.executable, "-m", "tests.node.broken_nic", "card0", "card1"]
            self._processes.append(
                outer.start([*argv, *(["--whole"] if card == "whole" else [])], self.home / "card.log")
            )
            until(lambda: "ready" in (self.home / "card.log").read_text(), "the card", 20)

    def _unsegmented(self, space: Space, device: str) -> None:
        """So that no frame is longer than the wire's MTU: what a process copies nobody segments."""

        def switch() -> None:
            for command in _SEGMENTATION:
                ethtool._asked(device, command, 0)

        netns.call(space.path, switch)

    def start_server(self) -> None:
        argv = ["etcd", "--data-dir", str(self.home / "etcd"), "--log-level", "error"]
        argv += [f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}"]
        argv += ["--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"]
        argv += ["--initial-cluster=default=http://127.0.0.1:2380"]
        self.server = self.outer.start(argv, self.home / "etcd.log")
        until(
            lambda: self.ctl("endpoint", "health", check=False) or "is healthy" in self._said,
            "etcd",
            30,
            lambda: (self.home / "etcd.log").read_text(),
        )

    def stop_server(self) -> None:
        assert self.server
        self.server.kill()
        self.server.wait(timeout=10)

    _said = ""

    def ctl(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(
            netns.argv_in(self.outer.path, ["etcdctl", "--endpoints", self.url, *argv]),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        self._said = done.stdout + done.stderr
        assert not check or done.returncode == 0, self._said
        return done.stdout

    def subnets(self) -> dict[str, Any]:
        lines = self.ctl("get", "--prefix", f"{PREFIX}/subnets/").splitlines()
        return {key.rpartition("/")[2]: json.loads(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}

    def start_daemons(self, *more: str) -> EtcdWorld:
        for node in self.nodes:
            node.start(*more)
        for node in self.nodes:
            node.ready()
            node.make_pod()
        self.until_all_reach()
        return self

    def until_all_reach(self, seconds: float = 20.0) -> None:
        one, two = self.nodes
        for version in self.versions:
            until(
                lambda v=version: ping(one.pod.path, two.pod_of(v)) and ping(two.pod.path, one.pod_of(v)),  # type: ignore[misc]
                f"pods of both nodes, IPv{version}",
                seconds,
                lambda: f"{one.both()}\n{one.text()}\n{two.both()}\n{two.text()}",
            )

    def close(self) -> None:
        processes = [*self._processes, *(node.daemon for node in self.nodes if node.daemon)]
        processes += [self.server] if self.server else []
        for process in processes:
            if process.poll() is None:
                process.kill()
        for process in processes:
            process.wait(timeout=10)
        for space in self._spaces:
            netns.delete(space.name)
