"""Nodes for the overlay: namespaces on a bridge in another, where the API server runs; a pod's namespace behind each.

    internet  eth0 198.51.100.2/24 2001:db8::2/64; knows the way back to nodes, never to pods
    outer     br0 10.200.0.1/24 fd00:200::1/64, wherry-apiserver; routes between br0, br1 and the internet
    nodeN     eth0 10.200.0.1N/24 fd00:200::1N/64 (MTU 1500), default routes via outer, wherry-overlay,
              pod0 10.244.N.1/24 fd10:244:N::1/64
    podN      eth0 10.244.N.2/24 fd10:244:N::2/64, default routes via its node

A node that is `far` lives on br1 (10.201.0.0/24, fd00:201::/64): the others reach it through a router. The daemons are the
real ones, as processes in their node's network namespace, with state below a directory of the test. Whether a world has one
family or two, and which backend, its net-conf.json says.
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
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kube import certificates, kubeconfig
from kube.client import Client, Connection, Patch
from kube.core import Node
from kube.errors import ApiError, ApiUnreachable
from kube.resources import NODES
from linux import netns
from tests.node import overlay_seen
from tests.node.pinger import ping

T = TypeVar("T")

API = "10.200.0.1"
OUTSIDE = {4: "198.51.100.2", 6: "2001:db8::2"}
VXLAN: dict[str, Any] = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
DUAL: dict[str, Any] = {**VXLAN, "EnableIPv6": True, "IPv6Network": "fd10:244::/48"}
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
            raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {answer!r}\n{evidence()[-4000:]}")
        time.sleep(0.05)


def until_equal(
    ask: Callable[[], T], wanted: T, what: str, seconds: float = 10.0, evidence: Callable[[], str] = lambda: ""
) -> None:
    """`ask` answers what is wanted in time; a failure shows both."""
    seen = ask()
    deadline = time.monotonic() + seconds
    while seen != wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s\nwanted {wanted!r}\nseen   {seen!r}\n{evidence()}")
        time.sleep(0.05)
        seen = ask()


def difference(wanted: object, seen: object, where: str = "") -> Iterator[str]:
    """Where two values differ, in lines; mappings are compared key by key."""
    if isinstance(wanted, dict) and isinstance(seen, dict):
        for key in {**wanted, **seen}:
            yield from difference(wanted.get(key), seen.get(key), f"{where}[{key!r}]")
    elif wanted != seen:
        yield f"{where} wanted {wanted!r}"
        yield f"{where} seen   {seen!r}"


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

    def address(self, device: str, *addresses: str) -> None:
        """Give a device addresses of a /24 or a /64, usable at once."""
        for one in addresses:
            more = ("/64", "nodad") if ":" in one else ("/24",)
            self.run("ip", "addr", "replace", one + more[0], "dev", device, *more[1:])


def annotations(notes: Mapping[str, str | None]) -> dict[str, str | None]:
    """flannel's keys for Python's names."""
    return {PREFIX + key.replace("_", "-"): value for key, value in notes.items()}


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Signal and reap."""
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(timeout=10)


class OverlayNode:
    """One node: its namespace, its pod's, its daemon."""

    def __init__(self, world: "World", number: int, *, far: bool = False, iface: str = "eth0") -> None:
        self.world, self.number, self.name, self.iface = world, number, f"node{number}", iface
        self.space, self.pod = world.space(self.name), world.space(f"pod{number}")
        self.home = world.home / self.name
        self.home.mkdir()
        self.subnet_file, self.log = self.home / "run" / "subnet.env", self.home / "overlay.log"
        net = 201 if far else 200
        self.address, self.address6 = f"10.{net}.0.1{number}", f"fd00:{net}::1{number}"
        self.pod_address, self.pod_address6 = f"10.244.{number}.2", f"fd10:244:0:{number}::2"
        self.daemon: subprocess.Popen[bytes] | None = None
        world.wire(self.space, iface, bridge="br1" if far else "br0")
        self.routers = f"10.{net}.0.1", f"fd00:{net}::1"
        self.configure()
        self.space.run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", self.pod.name)
        gateways = f"10.244.{number}.1", f"fd10:244:0:{number}::1"
        for space, name, addresses in (
            (self.space, "pod0", gateways),
            (self.pod, "eth0", (self.pod_address, self.pod_address6)),
        ):
            space.address(name, *addresses)
            space.run("ip", "link", "set", name, "mtu", "1450", "up")
        for gateway in gateways:
            self.pod.run("ip", "route", "add", "default", "via", gateway)

    def configure(self) -> None:
        """Give the underlay's interface its addresses and the node its way out, as the host's networking does."""
        self.space.address(self.iface, self.address, self.address6)
        for router in self.routers:
            self.space.run("ip", "route", "replace", "default", "via", router)

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

    @property
    def running(self) -> bool:
        return self.daemon is not None and self.daemon.poll() is None

    def ready(self) -> "OverlayNode":
        def ready() -> bool:
            assert self.running, f"{self.name}'s daemon has ended:\n{self.text()}"
            return self.get("/readyz") == "ok"

        until(
            ready,
            f"{self.name} ready",
            30,
            lambda: f"{self.get('/readyz')}\n{self.text()}",
        )
        return self

    def fit_pods(self) -> None:
        """Give the pod's veth the MTU that subnet.env names, as the CNI plugin would."""
        mtu = self.subnet_env()["FLANNEL_MTU"]
        self.space.run("ip", "link", "set", "pod0", "mtu", mtu)
        self.pod.run("ip", "link", "set", "eth0", "mtu", mtu)

    def subnet_env(self) -> dict[str, str]:
        text = self.subnet_file.read_text() if self.subnet_file.exists() else ""
        return dict(line.split("=", 1) for line in text.splitlines())

    def get(self, path: str) -> str:
        def ask() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:10262{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except OSError as error:
                body = error.read().decode() if hasattr(error, "read") else ""
                return f"{error}: {body}"

        return netns.call(self.space.path, ask)

    def metric(self, name: str) -> float:
        """The value of a series, which may bear labels; 0 when it is not there."""
        found = re.search(rf"^{re.escape(name)} (\S+)", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def drift(self, name: str) -> float:
        return self.metric(f'wherry_overlay_drift_repaired_total{{object="{name}"}}')

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else "(no log)"

    def both(self) -> dict[str, dict[str, Any]]:
        """What the kernel has of the overlay here, by family."""
        return overlay_seen.kernel(self.space.run)

    def kernel(self) -> dict[str, Any]:
        """What it has of IPv4's."""
        return self.both()["4"]

    def rules(self) -> list[str]:
        """What iptables and nft have, in order, without counters."""
        return overlay_seen.rules(self.space.run)

    def pod_of(self, version: int) -> str:
        return self.pod_address if version == 4 else self.pod_address6

    def reaches(self, other: "OverlayNode", size: int = 56, count: int = 1, version: int = 4) -> bool:
        """Whether the other's pod answers ours, unfragmented."""
        return ping(self.pod.path, other.pod_of(version), size=size, count=count)


class World:
    """`conf` is net-conf.json; the numbers in `far` are nodes of the other underlay network; `iface` is the underlay's
    interface on every node."""

    def __init__(
        self,
        home: Path,
        nodes: int = 3,
        *,
        conf: Mapping[str, Any] = VXLAN,
        far: Collection[int] = (),
        iface: str = "eth0",
    ) -> None:
        self.home, self._mark = home, uuid.uuid4().hex[:5]
        self._spaces: list[Space] = []
        self.kubeconfig = home / "kubeconfig"
        self.server: subprocess.Popen[bytes] | None = None
        self.nodes: list[OverlayNode] = []
        self.versions = (4, 6) if conf.get("EnableIPv6") else (4,)
        try:
            self._underlay()
            (home / "net-conf.json").write_text(json.dumps(conf))
            self._certificates()
            self.start_server()
            self.nodes = [OverlayNode(self, number, far=number in far, iface=iface) for number in range(1, nodes + 1)]
            for node in self.nodes:
                self.create_node(node.name, f"10.244.{node.number}.0/24")
        except BaseException:
            self.close()
            raise

    def _underlay(self) -> None:
        self.outer, self.internet = self.space("outer"), self.space("internet")
        for net in (200, 201):
            # A MAC of its own: a bridge's is else the least of its ports', and one that joins later takes it to another.
            bridge, mac = f"br{net - 200}", f"0a:58:0a:c8:00:{net - 199:02x}"
            self.outer.run("ip", "link", "add", bridge, "address", mac, "type", "bridge")
            self.outer.address(bridge, f"10.{net}.0.1", f"fd00:{net}::1")
            self.outer.run("ip", "link", "set", bridge, "up")
        self.outer.run(
            "ip", "link", "add", "world", "type", "veth", "peer", "name", "eth0", "netns", self.internet.name
        )
        for space, name, last in ((self.outer, "world", "1"), (self.internet, "eth0", "2")):
            space.address(name, f"198.51.100.{last}", f"2001:db8::{last}")
            space.run("ip", "link", "set", name, "up")
        for nodes, router in (("10.200.0.0/15", "198.51.100.1"), ("fd00::/16", "2001:db8::1")):
            self.internet.run("ip", "route", "add", nodes, "via", router)
        self.outer.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def space(self, label: str) -> Space:
        made = Space(f"wt-{self._mark}-{label}")
        self._spaces.append(made)
        return made

    def wire(self, space: Space, name: str, *addresses: str, bridge: str = "br0") -> None:
        """An interface in `space` on an underlay's bridge."""
        port = f"p{uuid.uuid4().hex[:8]}"
        self.outer.run(
            "ip", "link", "add", port, "master", bridge, "type", "veth", "peer", "name", name, "netns", space.name
        )
        self.outer.run("ip", "link", "set", port, "up")
        space.address(name, *addresses)
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

    def create_node(self, name: str, cidr: str, **notes: str) -> None:
        """A Node; `cidr` empty: its podCIDR is still to come."""
        self.api(lambda client: client.create(NODES, self.node_object(name, cidr, **notes)))

    def node_object(self, name: str, cidr: str, **notes: str) -> dict[str, Any]:
        """With podCIDRs of the world's families: 10.244.7.0/24 goes with fd10:244:0:7::/64."""
        cidrs = [cidr, f"fd10:244:0:{cidr.split('.')[2]}::/64"][: len(self.versions)] if cidr else []
        spec = {"podCIDR": cidr, "podCIDRs": cidrs} if cidr else {}
        return {"metadata": {"name": name, "annotations": annotations(notes)}, "spec": spec}

    def create_claims(self, numbers: Iterable[int]) -> None:
        """Nodes that announce a VTEP each, as a daemon on them would; nobody is there."""

        async def create(client: Client) -> None:
            gate = asyncio.Semaphore(20)

            async def one(number: int) -> None:
                async with gate:
                    await client.create(NODES, self.claim(number))

            await asyncio.gather(*map(one, numbers))

        self.api(create)

    def claim(self, number: int) -> dict[str, Any]:
        six = {
            "backend_v6_data": f'{{"VNI":1,"VtepMAC":"02:06:00:00:00:{number:02x}"}}',
            "public_ipv6": f"fd00:200::{number:x}:1",
        }
        return self.node_object(
            f"node{number}",
            f"10.244.{number}.0/24",
            kube_subnet_manager="true",
            backend_type="vxlan",
            backend_data=f'{{"VNI":1,"VtepMAC":"02:04:00:00:00:{number:02x}"}}',
            public_ip=f"10.200.1.{number}",
            **(six if 6 in self.versions else {}),
        )

    def delete_node(self, name: str) -> None:
        self.api(lambda client: client.delete(NODES, name))

    def node(self, name: str) -> Node:
        return self.api(lambda client: client.get(NODES, name))

    def annotate(self, name: str, **notes: str | None) -> None:
        body = {"metadata": {"annotations": annotations(notes)}}
        self.api(lambda client: client.patch(NODES, name, body, kind=Patch.MERGE))

    def start_daemons(self, *more: str) -> "World":
        for node in self.nodes:
            node.start(*more)
        for node in self.nodes:
            node.ready()
            node.fit_pods()
        for here in self.nodes:
            for there in self.nodes:
                for version in self.versions:
                    until(
                        lambda a=here, b=there, v=version: a is b or a.reaches(b, version=v),  # type: ignore[misc]
                        f"{here.name} -> {there.name}, IPv{version}",
                        20,
                        lambda a=here: f"{a.both()}\n{a.text()}",  # type: ignore[misc]
                    )
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
