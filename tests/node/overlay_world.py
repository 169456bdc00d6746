"""Three nodes for the overlay: namespaces on a bridge in a fourth, where the API server runs; a pod's namespace behind each.

    outer   br0 10.200.0.1/24, wherry-apiserver
    nodeN   eth0 10.200.0.1N/24 (MTU 1500), wherry-overlay, pod0 10.244.N.1/24
    podN    eth0 10.244.N.2/24, default route via its node

The daemons are the real ones, as processes in their node's network namespace, with state below a directory of the test.
"""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kube import certificates, kubeconfig
from kube.client import Client, Connection, Patch
from kube.core import Node
from kube.errors import ApiError, ApiUnreachable
from kube.resources import NODES
from linux import netns
from tests.node.pinger import ping

T = TypeVar("T")

API = "10.200.0.1"
PREFIX = "flannel.alpha.coreos.com/"
ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], T], what: str, seconds: float = 10.0, evidence: Callable[[], str] = lambda: "") -> T:
    """The first true answer; a failure names what did not come and what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {answer!r}\n{evidence()}")
        time.sleep(0.05)


def until_equal(ask: Callable[[], T], wanted: T, what: str, seconds: float = 10.0) -> None:
    """`ask` answers what is wanted in time; a failure shows both."""
    seen = ask()
    deadline = time.monotonic() + seconds
    while seen != wanted:
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\nwanted {wanted!r}\nseen   {seen!r}"
        time.sleep(0.05)
        seen = ask()


class Space:
    """A network namespace and what runs in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = netns.create(name).path
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, check: bool = True, timeout: float = 30.0) -> str:
        done = subprocess.run(
            netns.argv_in(self.path, argv), capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                netns.argv_in(self.path, argv), cwd=ROOT, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv) or "[]")


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Signal and reap."""
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(timeout=10)


class OverlayNode:
    """One node: its namespace, its pod's, its daemon."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.number, self.name = world, number, f"node{number}"
        self.space, self.pod = world.space(self.name), world.space(f"pod{number}")
        self.home = world.home / self.name
        self.home.mkdir()
        self.subnet_file, self.log = self.home / "run" / "subnet.env", self.home / "overlay.log"
        self.address, self.pod_address = f"10.200.0.1{number}", f"10.244.{number}.2"
        self.daemon: subprocess.Popen[bytes] | None = None
        world.wire(self.space, "eth0", self.address)
        self.space.run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", self.pod.name)
        self.space.run("ip", "addr", "add", f"10.244.{number}.1/24", "dev", "pod0")
        self.space.run("ip", "link", "set", "pod0", "mtu", "1450", "up")
        self.pod.run("ip", "addr", "add", f"{self.pod_address}/24", "dev", "eth0")
        self.pod.run("ip", "link", "set", "eth0", "mtu", "1450", "up")
        self.pod.run("ip", "route", "add", "default", "via", f"10.244.{number}.1")

    def argv(self, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "overlay", f"--kubeconfig={self.world.kubeconfig}"),
            f"--net-config-path={self.world.home / 'net-conf.json'}",
            *(f"--hostname-override={self.name}", f"--subnet-file={self.subnet_file}"),
            "--healthz-bind-address=127.0.0.1:10262",
            *more,
        ]

    def start(self, *more: str) -> None:
        self.daemon = self.space.start(self.argv(*more), self.log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.daemon
        status, self.daemon = end(self.daemon, number), None
        return status

    def ready(self) -> "OverlayNode":
        until(
            lambda: self.get("/readyz") == "ok",
            f"{self.name} ready",
            20,
            lambda: f"{self.get('/readyz')}\n{self.text()}",
        )
        return self

    def get(self, path: str) -> str:
        def ask() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:10262{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except OSError as error:
                body = error.read().decode() if hasattr(error, "read") else ""
                return f"{error}: {body}"

        return netns.call(self.space.path, ask)

    def drift(self, name: str) -> float:
        found = re.search(
            rf'^wherry_overlay_drift_repaired_total{{object="{name}"}} (\S+)', self.get("/metrics"), re.MULTILINE
        )
        assert found, f"no drift metric for {name}"
        return float(found[1])

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else "(no log)"

    def kernel(self) -> dict[str, Any]:
        """What ip and bridge say of the overlay here; compared whole, before and after."""
        try:
            return self._kernel()
        except AssertionError as error:  # the device went away between two looks
            return {"device": str(error)}

    def _kernel(self) -> dict[str, Any]:
        links = {one["ifname"]: one for one in self.space.json("ip", "-d", "-j", "link")}
        device = links.get("flannel.1")
        if device is None:
            return {"device": None, "routes": self._routes("proto", "87")}
        return {
            "elsewhere": [
                one["dst"]
                for one in self.space.json("ip", "-j", "-4", "route", "show", "proto", "87")
                if one["dev"] != "flannel.1"
            ],
            "device": (
                device["address"],
                device["mtu"],
                device["linkinfo"]["info_data"].get("id"),
                "UP" in device["flags"],
            ),
            "addresses": sorted(
                f"{a['local']}/{a['prefixlen']}"
                for one in self.space.json("ip", "-j", "-4", "addr", "show", "dev", "flannel.1")
                for a in one["addr_info"]
            ),
            "routes": self._routes("dev", "flannel.1"),
            "neighbours": sorted(
                f"{one['dst']} {one.get('lladdr')} {one['state']}"
                for one in self.space.json("ip", "-j", "-4", "neigh", "show", "dev", "flannel.1")
            ),
            "fdb": sorted(
                f"{one['mac']} {one['dst']} {one.get('port', '')}"
                for one in self.space.json("bridge", "-j", "fdb", "show", "dev", "flannel.1")
                if "dst" in one
            ),
        }

    def _routes(self, *selection: str) -> list[str]:
        found = self.space.json("ip", "-j", "-4", "route", "show", *selection)
        return sorted(f"{one['dst']} {one.get('gateway')} {one.get('protocol')} {one.get('flags')}" for one in found)

    def reaches(self, other: "OverlayNode", size: int = 56, count: int = 1) -> bool:
        """Whether the other's pod answers ours, unfragmented."""
        return ping(self.pod.path, other.pod_address, size=size, count=count)


class World:
    def __init__(self, home: Path, nodes: int = 3) -> None:
        self.home, self._mark = home, uuid.uuid4().hex[:5]
        self._spaces: list[Space] = []
        self.kubeconfig = home / "kubeconfig"
        self.server: subprocess.Popen[bytes] | None = None
        self.nodes: list[OverlayNode] = []
        try:
            self.outer = self.space("outer")
            # A MAC of its own: a bridge's is else the least of its ports', and one that joins later takes it to another.
            self.outer.run("ip", "link", "add", "br0", "address", "0a:58:0a:c8:00:01", "type", "bridge")
            self.outer.run("ip", "addr", "add", f"{API}/24", "dev", "br0")
            self.outer.run("ip", "link", "set", "br0", "up")
            (home / "net-conf.json").write_text('{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}')
            self._certificates()
            self.start_server()
            self.nodes = [OverlayNode(self, number) for number in range(1, nodes + 1)]
            for node in self.nodes:
                self.create_node(node.name, f"10.244.{node.number}.0/24")
        except BaseException:
            self.close()
            raise

    def space(self, label: str) -> Space:
        made = Space(f"wt-{self._mark}-{label}")
        self._spaces.append(made)
        return made

    def wire(self, space: Space, name: str, address: str) -> None:
        """An interface in `space` on the underlay's bridge."""
        port = f"p{uuid.uuid4().hex[:8]}"
        self.outer.run(
            "ip", "link", "add", port, "master", "br0", "type", "veth", "peer", "name", name, "netns", space.name
        )
        self.outer.run("ip", "link", "set", port, "up")
        space.run("ip", "addr", "add", f"{address}/24", "dev", name)
        space.run("ip", "link", "set", name, "up")

    def start_server(self) -> None:
        argv = [sys.executable, "-m", "apiserver", "--config", str(self.home / "apiserver.yaml")]
        self.server = self.outer.start(argv, self.home / "apiserver.log")

        def up() -> bool:
            try:
                self.api(lambda client: client.list(NODES))
            except (ApiError, ApiUnreachable):
                return False
            return True

        until(up, "API server", 30, lambda: (self.home / "apiserver.log").read_text())

    def api(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        """A conversation with the API server, from the outer namespace."""

        async def talk() -> T:
            async with Client(Connection.from_kubeconfig(str(self.kubeconfig)), timeout=5) as client:
                return await ask(client)

        return netns.call(self.outer.path, lambda: asyncio.run(talk()))

    def create_node(self, name: str, cidr: str) -> None:
        """A Node; `cidr` empty: its podCIDR is still to come."""
        spec = {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {}
        self.api(lambda client: client.create(NODES, {"metadata": {"name": name}, "spec": spec}))

    def delete_node(self, name: str) -> None:
        self.api(lambda client: client.delete(NODES, name))

    def node(self, name: str) -> Node:
        return self.api(lambda client: client.get(NODES, name))

    def annotate(self, name: str, **notes: str | None) -> None:
        body = {"metadata": {"annotations": {PREFIX + key.replace("_", "-"): value for key, value in notes.items()}}}
        self.api(lambda client: client.patch(NODES, name, body, kind=Patch.MERGE))

    def start_daemons(self, *more: str) -> "World":
        for node in self.nodes:
            node.start(*more)
        for node in self.nodes:
            node.ready()
        for node in self.nodes:
            until(lambda here=node: len(here.kernel()["routes"]) == len(self.nodes) - 1, f"{node.name} has its peers")  # type: ignore[misc]
        return self

    def close(self) -> None:
        processes = [one for one in (*(node.daemon for node in self.nodes), self.server) if one]
        for process in processes:
            if process.poll() is None:
                process.kill()
        for process in processes:
            process.wait(timeout=10)
        for space in self._spaces:
            netns.delete(space.name)

    def _certificates(self) -> None:
        ca = certificates.authority("test-ca")
        serving = certificates.issue(ca, "kube-apiserver", sans=[API, "127.0.0.1"])
        admin = certificates.issue(ca, "kubernetes-admin", ["system:masters"])
        for name, data in {
            "ca.crt": ca.certificate,
            "server.crt": serving.certificate,
            "server.key": serving.key,
            "kubeconfig": kubeconfig.render(f"https://{API}:6443", ca.certificate, admin.certificate, admin.key),
        }.items():
            path = self.home / name
            path.touch(mode=0o600)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        (self.home / "apiserver.yaml").write_text(
            "apiVersion: wherry.io/v1alpha1\nkind: ApiServerConfiguration\n"
            f"bindAddress: {API}\nsecurePort: 6443\nadvertiseAddress: {API}\ndataDir: {self.home}/data\n"
            f"tlsCertFile: {self.home}/server.crt\ntlsPrivateKeyFile: {self.home}/server.key\nclientCaFile: {self.home}/ca.crt\n"
        )
