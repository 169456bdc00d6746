"""`wherry-proxy` as a process on the node of `service_world`, our API server beside it, and the API to change things with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from kube import certificates, kubeconfig
from kube.client import Client, Connection
from kube.errors import ApiError, ApiUnreachable
from kube.resources import ENDPOINTSLICES, NODES, SERVICES
from linux import netns as kernel_netns
from tests.node.service_world import World

T = TypeVar("T")
API = "https://127.0.0.1:6443"
CONFIG = """apiVersion: wherry.io/v1alpha1
kind: ApiServerConfiguration
bindAddress: 127.0.0.1
securePort: 6443
dataDir: {home}/data
tlsCertFile: {home}/server.crt
tlsPrivateKeyFile: {home}/server.key
clientCaFile: {home}/ca.crt
"""


def until(condition: Callable[[], object], words: str, seconds: float = 20.0) -> None:
    """Wait for a condition; fail with `words` when it has not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {words}"
        time.sleep(0.05)


class Process:
    """One daemon on the node; its log goes to a file."""

    def __init__(self, world: World, log: Path, *argv: str) -> None:
        self._log = log
        with log.open("ab") as out:
            self._popen = world.node.start(sys.executable, "-m", *argv, stdout=out, stderr=out)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status. nsenter has become the daemon, so its pid is the daemon's."""
        if self._popen.poll() is None:
            os.kill(self._popen.pid, number)
        return self._popen.wait(20)

    def wait(self) -> int:
        return self._popen.wait(20)


class Cluster:
    """The API server and whatever proxies a test starts; `close` ends them all."""

    def __init__(self, world: World, home: Path) -> None:
        self.world = world
        self.home = home
        self._processes: list[Process] = []
        self._make_trust()
        self.server = self.start_api()

    def _make_trust(self) -> None:
        ca = certificates.authority("test-ca")
        server = certificates.issue(ca, "kube-apiserver", sans=["127.0.0.1", "10.96.0.1"])
        for name, pair in (("ca", ca), ("server", server)):
            (self.home / f"{name}.crt").write_bytes(pair.certificate)
            (self.home / f"{name}.key").write_bytes(pair.key)
        for user, organization in (("admin", "system:masters"), ("proxy", "system:masters")):
            pair = certificates.issue(ca, user, [organization])
            text = kubeconfig.render(API, ca.certificate, pair.certificate, pair.key, user=user)
            (self.home / f"{user}.kubeconfig").write_text(text)
        (self.home / "apiserver.yaml").write_text(CONFIG.format(home=self.home))

    def start_api(self) -> Process:
        server = self._started("apiserver", "--config", str(self.home / "apiserver.yaml"))

        def up() -> bool:
            try:
                self.api(lambda client: client.list(SERVICES))
            except (ApiUnreachable, ApiError):
                return False
            return True

        until(up, f"the API server answers\n{server.log}")
        return server

    def start_proxy(self, *flags: str) -> Process:
        return self._started(
            "proxy",
            f"--kubeconfig={self.home}/proxy.kubeconfig",
            "--hostname-override=node1",
            "--cluster-cidr=10.244.0.0/16",
            "--iptables-min-sync-period=100ms",
            *flags,
        )

    def _started(self, module: str, *argv: str) -> Process:
        process = Process(self.world, self.home / f"{module}.log", module, *argv)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.end()

    def api(self, call: Callable[[Client], Awaitable[T]]) -> T:
        """One conversation with the API server, from the node."""

        async def talk() -> T:
            async with Client(Connection.from_kubeconfig(str(self.home / "admin.kubeconfig"))) as client:
                return await call(client)

        def inside() -> T:
            return asyncio.run(talk())

        return kernel_netns.call(self.world.node.path, inside)

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
        self.api(lambda client: client.create(NODES, {"metadata": {"name": "node1"}, "spec": spec}))

    def make_service(
        self, name: str, cluster_ip: str, *endpoints: str, node_port: int = 0, protocol: str = "TCP", **spec: Any
    ) -> None:
        port = {"name": "http", "port": 80, "protocol": protocol} | ({"nodePort": node_port} if node_port else {})
        kind = "NodePort" if node_port else "ClusterIP"
        body = {"clusterIP": cluster_ip, "type": kind, "ports": [port], **spec}
        self.api(lambda client: client.create(SERVICES, {"metadata": {"name": name}, "spec": body}, "default"))
        self.api(lambda client: client.create(ENDPOINTSLICES, self._slice(name, endpoints, protocol), "default"))

    def set_endpoints(self, name: str, *endpoints: str) -> None:
        body = {"endpoints": self._slice(name, endpoints)["endpoints"]}
        self.api(lambda client: client.patch(ENDPOINTSLICES, f"{name}-1", body, "default"))

    def delete_service(self, name: str) -> None:
        self.api(lambda client: client.delete(SERVICES, name, "default"))
        self.api(lambda client: client.delete(ENDPOINTSLICES, f"{name}-1", "default"))

    @staticmethod
    def _slice(name: str, endpoints: tuple[str, ...], protocol: str = "TCP") -> dict[str, Any]:
        return {
            "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": protocol}],
            "endpoints": [
                {
                    "addresses": [ip],
                    "conditions": {"ready": True},
                    "nodeName": "node1" if ip.startswith("10.244.0.") else "node2",
                }
                for ip in endpoints
            ],
        }

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        _, text = self.get("http://127.0.0.1:10249/metrics")
        lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def parsed(text: str) -> Any:
    return json.loads(text)
