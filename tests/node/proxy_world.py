"""`wherry-proxy` as a process on the node of `service_world`, our API server beside it, and the API to change things with."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kube import certificates, kubeconfig
from kube.client import Client, Connection
from kube.errors import AlreadyExists, ApiError, ApiUnreachable
from kube.resources import ENDPOINTSLICES, NODES, SERVICES, Resource
from linux import netns as kernel_netns
from tests.fakes.eavesdropper import Heard, eavesdropping
from tests.node.rule_writers import Inside
from tests.node.service_world import LOCAL_PODS, NODE, POD_RANGE, PORT, Site, World, spell

T = TypeVar("T")
_OF_IPTABLES = ("nat", "filter", "mangle", "raw", "security")
_MADE_BY_LOOKING = (
    r"#.*|\*\w+|COMMIT|table \w+ (nat|filter|mangle|raw|security) {|}|"
    r":[A-Z]+ ACCEPT|chain (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) {|type .* policy accept;|"
)
API = "https://127.0.0.1:6443"
NODE_NAME = "node1"
SERVICE_RANGE = {4: "172.30.0.0/16", 6: f"{spell('172.30.0.0', 6)}/112"}
CONFIG = """apiVersion: wherry.io/v1alpha1
kind: ApiServerConfiguration
bindAddress: 127.0.0.1
securePort: 6443
dataDir: {home}/data
tlsCertFile: {home}/server.crt
tlsPrivateKeyFile: {home}/server.key
clientCaFile: {home}/ca.crt
serviceClusterIPRange: {range}
"""


class Kernel(enum.StrEnum):
    """A mode of the proxy and the interface of the kernel that it writes to."""

    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"
    NFTABLES = "nftables"

    @property
    def mode(self) -> str:
        return str(self).partition("-")[0]


def until(condition: Callable[[], object], words: str | Callable[[], str], seconds: float = 20.0) -> None:
    """Wait for a condition; fail with `words` when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {words if isinstance(words, str) else words()}")
        time.sleep(0.02)


class Process:
    """One daemon on the node; its log goes to a file."""

    def __init__(self, world: World, log: Path, *argv: str) -> None:
        self._log = log
        with log.open("ab") as out:
            self._from = out.tell()
            self._popen = world.node.start(sys.executable, "-m", *argv, stdout=out, stderr=out)

    @property
    def log(self) -> str:
        """What this process has said."""
        return self._log.read_bytes()[self._from :].decode()

    @property
    def pid(self) -> int:
        """nsenter has become the daemon."""
        return self._popen.pid

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        if self._popen.poll() is None:
            os.kill(self._popen.pid, number)
        return self._popen.wait(20)

    def wait(self) -> int:
        return self._popen.wait(20)

    def ready(self) -> Process:
        """Once it is a proxy whose first rules are in."""
        self.says("wherry-proxy is ready")
        return self

    def says(self, words: str) -> None:
        """Wait for words in its log."""
        until(lambda: words in self.log or self.ended, lambda: f"it says {words!r}\n{self.log}")
        assert words in self.log, self.log

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None


@dataclass(frozen=True, slots=True)
class End:
    """An endpoint as a slice tells it; on this node if its address is. Spelt in IPv4 for both families."""

    ip: str
    ready: bool = True
    serving: bool = True
    terminating: bool = False

    def body(self, family: int) -> dict[str, Any]:
        return {
            "addresses": [spell(self.ip, family)],
            "conditions": {"ready": self.ready, "serving": self.serving, "terminating": self.terminating},
            "nodeName": NODE_NAME if self.ip in (*LOCAL_PODS, NODE) else "node2",
        }


Ends = Sequence[str | End]


def many(index: int) -> str:
    """The cluster IP of the service `many<index>`."""
    return f"172.30.{10 + index // 200}.{1 + index % 200}"


class Cluster:
    """The API server and whatever proxies a test starts; `close` ends them all. One family: our API server's Services have
    one."""

    def __init__(self, world: World, home: Path, family: int = 4) -> None:
        site = Site(world, family)
        self.at, self.flow, self.ask, self.ask_all = site.at, site.flow, site.ask, site.ask_all
        self.world = world
        self.family = family
        self.home = home
        self._processes: list[Process] = []
        self._make_trust()
        self._inside = Inside(world.node)
        self._stack = contextlib.AsyncExitStack()
        connection = Connection.from_kubeconfig(str(home / "admin.kubeconfig"))

        async def connected() -> Client:
            return await self._stack.enter_async_context(Client(connection))

        self._client = self._inside(connected())
        self.server = self.start_api()
        self.make_node()

    def _make_trust(self) -> None:
        ca = certificates.authority("test-ca")
        server = certificates.issue(ca, "kube-apiserver", sans=["127.0.0.1", "172.30.0.1"])
        for name, pair in (("ca", ca), ("server", server)):
            (self.home / f"{name}.crt").write_bytes(pair.certificate)
            (self.home / f"{name}.key").write_bytes(pair.key)
        for user, organization in (("admin", "system:masters"), ("proxy", "system:masters")):
            pair = certificates.issue(ca, user, [organization])
            text = kubeconfig.render(API, ca.certificate, pair.certificate, pair.key, user=user)
            (self.home / f"{user}.kubeconfig").write_text(text)
        text = CONFIG.format(home=self.home, range=SERVICE_RANGE[self.family])
        (self.home / "apiserver.yaml").write_text(text)

    def start_api(self) -> Process:
        server = self._started("apiserver", "--config", str(self.home / "apiserver.yaml"))

        def up() -> bool:
            try:
                self.api(lambda client: client.list(SERVICES))
            except (ApiUnreachable, ApiError):
                return False
            return True

        until(up, lambda: f"the API server answers\n{server.log}")
        return server

    @contextlib.contextmanager
    def overheard(self) -> Iterator[tuple[str, list[Heard]]]:
        """A kubeconfig whose every request is heard on its way to the API server, and what was heard."""
        ear = eavesdropping(Connection.from_kubeconfig(str(self.home / "admin.kubeconfig")))
        connection, heard = self._inside(ear.__aenter__())
        path = self.home / "overheard.kubeconfig"
        cluster = {"name": "c", "cluster": {"server": connection.server}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        document = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
        path.write_text(yaml.safe_dump({**document, "apiVersion": "v1", "kind": "Config", "current-context": "c"}))
        try:
            yield str(path), heard
        finally:
            self._inside(ear.__aexit__(None, None, None))

    def config(self, **keys: Any) -> Path:
        """A configuration file of the proxy; `keys` go over what a test needs."""
        document: dict[str, Any] = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{self.home}/proxy.kubeconfig"},
            "hostnameOverride": NODE_NAME,
            "clusterCIDR": ",".join(spell(POD_RANGE, family) for family in (4, 6)),
            **keys,
        }
        path = self.home / "proxy.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def start_proxy(self, *flags: str, kernel: Kernel = Kernel.IPTABLES_NFT, **keys: Any) -> Process:
        """`keys` of its configuration; it is not waited for."""
        hinted = "KUBE-IPTABLES-HINT" in self.world.node.run("iptables-legacy-save", "-t", "mangle")
        if hinted is not (kernel is Kernel.IPTABLES_LEGACY):
            self.hint("-X" if hinted else "-N")
        return self._started("proxy", f"--config={self.config(mode=kernel.mode, **keys)}", *flags)

    def hint(self, word: str) -> None:
        """Make (`-N`) or delete (`-X`) the kubelet's word that the node uses the legacy interface."""
        for stem in ("iptables", "ip6tables"):
            self.world.node.run(f"{stem}-legacy", "-t", "mangle", word, "KUBE-IPTABLES-HINT")

    def rules(self) -> list[str]:
        """Every rule, chain, set and element of all three interfaces, without counters; in order. Not the tables and base
        chains that are empty: looking makes them, and they decide nothing. (nft's own words for rules that iptables wrote
        differ from one look to the next.)"""
        run, stem = self.world.node.run, "iptables" if self.family == 4 else "ip6tables"
        tables = [line.split() for line in run("nft", "list", "tables").splitlines()]
        listings = [[f"{stem}-legacy-save"], [f"{stem}-nft-save"]]
        listings += [["nft", "list", *table] for table in tables if table[2] not in _OF_IPTABLES]
        listed = [line.strip() for argv in listings for line in run(*argv).splitlines()]
        plain = [re.sub(r" ?\[\d+:\d+\]| packets \d+ bytes \d+", "", line) for line in listed]
        return sorted(line for line in plain if not re.fullmatch(_MADE_BY_LOOKING, line))

    def _started(self, module: str, *argv: str) -> Process:
        process = Process(self.world, self.home / f"{module}.log", module, *argv)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.end()
        self._inside(self._stack.aclose())
        self._inside.close()

    def api(self, call: Callable[[Client], Awaitable[T]]) -> T:
        """One conversation with the API server, from the node."""

        async def talk() -> T:
            return await call(self._client)

        return self._inside(talk())

    def create(self, resource: Resource[Any], body: Mapping[str, Any]) -> None:
        self.api(lambda client: client.create(resource, body, "default"))

    def get(self, url: str) -> tuple[int, str]:
        """Status and body, asked on the node."""

        def asking() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        return kernel_netns.call(self.world.node.path, asking)

    def make_node(self, **spec: Any) -> None:
        """The Node as its kubelet makes it; one without a range of pods is there from the beginning."""
        addresses = [{"type": "InternalIP", "address": spell(NODE, family)} for family in (4, 6)]

        async def made(client: Client) -> None:
            try:
                await client.create(NODES, {"metadata": {"name": NODE_NAME}, "spec": spec})
            except AlreadyExists:
                await client.patch(NODES, NODE_NAME, {"spec": spec})
            await client.patch(NODES, NODE_NAME, {"status": {"addresses": addresses}}, subresource="status")

        self.api(made)

    def make_services(self, count: int, *endpoints: str | End) -> None:
        """`many0`, `many1`, ... at 172.30.10.0 and following, all at once."""

        async def made(client: Client) -> None:
            for first in range(0, count, 100):
                async with asyncio.TaskGroup() as group:
                    for index in range(first, min(count, first + 100)):
                        group.create_task(one(client, index))

        async def one(client: Client, index: int) -> None:
            name = f"many{index}"
            body = {"clusterIP": self.at(many(index)), "ports": [{"name": "http", "port": 80}]}
            await client.create(SERVICES, {"metadata": {"name": name}, "spec": body}, "default")
            await client.create(ENDPOINTSLICES, self.slice_of(name, endpoints), "default")

        self.api(made)

    def make_service(
        self,
        name: str,
        cluster_ip: str,
        *endpoints: str | End,
        node_port: int = 0,
        protocol: str = "TCP",
        balancer: str = "",
        **spec: Any,
    ) -> None:
        """Port 80, with `balancer` as the address that a load balancer has given it."""
        port = {"name": "http", "port": 80, "protocol": protocol} | ({"nodePort": node_port} if node_port else {})
        kind = "LoadBalancer" if balancer else "NodePort" if node_port else "ClusterIP"
        body = {"clusterIP": self.at(cluster_ip), "type": kind, "ports": [port], **spec}

        async def made(client: Client) -> None:
            await client.create(SERVICES, {"metadata": {"name": name}, "spec": body}, "default")
            await client.create(ENDPOINTSLICES, self.slice_of(name, endpoints, protocol), "default")
            if balancer:
                status = {"status": {"loadBalancer": {"ingress": [{"ip": self.at(balancer)}]}}}
                await client.patch(SERVICES, name, status, "default", subresource="status")

        self.api(made)

    def change_service(
        self, name: str, spec: Mapping[str, Any], labels: Mapping[str, str | None] | None = None
    ) -> None:
        """A merge patch."""
        body = {"spec": spec, **({"metadata": {"labels": labels}} if labels else {})}
        self.api(lambda client: client.patch(SERVICES, name, body, "default"))

    def set_endpoints(self, name: str, *endpoints: str | End) -> None:
        body = {"endpoints": self.slice_of(name, endpoints)["endpoints"]}
        self.api(lambda client: client.patch(ENDPOINTSLICES, f"{name}-1", body, "default"))

    def delete_service(self, name: str) -> None:
        async def deleted(client: Client) -> None:
            await client.delete(SERVICES, name, "default")
            await client.delete(ENDPOINTSLICES, f"{name}-1", "default")

        self.api(deleted)

    def slice_of(self, name: str, endpoints: Ends, protocol: str = "TCP") -> dict[str, Any]:
        ends = [End(each) if isinstance(each, str) else each for each in endpoints]
        return {
            "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": f"IPv{self.family}",
            "ports": [{"name": "http", "port": PORT, "protocol": protocol}],
            "endpoints": [end.body(self.family) for end in ends],
        }

    def names(
        self, source: str, destination: str, port: int, times: int = 20, timeout: float = 0.5, **more: Any
    ) -> set[str]:
        """Who answers: addresses, or words."""
        found = self.ask(source, destination, port, times=times, timeout=timeout, **more)
        return {answer.split(" ")[0].removesuffix(f":{PORT}") for answer in found}

    def answers(self, source: str, destination: str, port: int, *names: str, **more: Any) -> None:
        """Wait until exactly these answer."""
        seen: set[str] = set()

        def so() -> bool:
            nonlocal seen
            seen = self.names(source, destination, port, **more)
            return seen == set(names)

        until(so, lambda: f"{destination}:{port} is answered by {names} only, not by {seen}\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(process.log[-3000:] for process in self._processes)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        _, text = self.get("http://127.0.0.1:10249/metrics")
        lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@contextlib.contextmanager
def running(world: World, home: Path, family: int = 4) -> Iterator[Cluster]:
    cluster = Cluster(world, home, family)
    try:
        yield cluster
    finally:
        cluster.close()


def parsed(text: str) -> Any:
    return json.loads(text)
