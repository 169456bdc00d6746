"""A node in a namespace of its own: our API server, wherry-kubelet as a process, Docker, wherry-cni."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from docker.errors import APIError

from kube import certificates, settings
from kube.client import Client
from kube.core import Event
from kube.errors import NotFound
from kube.pods import Pod
from kube.resources import EVENTS, NODES, PODS
from kubelet import config as kubelet_config
from kubelet.runtime import NODE as NODE_LABEL
from kubelet.runtime import POD_NAME
from linux import mounts
from tests.bench.kubelet import network
from tests.conftest import Netns
from tests.dockerd import IMAGE, Dockerd
from tests.node import apiserver

ADDRESS = "10.99.0.1"


@dataclass
class World:
    node: Netns
    dockerd: Dockerd
    cgroups: str
    folder: Path
    server: apiserver.Server
    client: Client
    process: "subprocess.Popen[bytes] | None" = None
    health_port: int = field(default_factory=apiserver.free_port)
    port: int = field(default_factory=apiserver.free_port)

    @property
    def root(self) -> Path:
        return self.folder / "kubelet"

    def write_config(self) -> Path:
        chosen = kubelet_config.Config(
            kubeconfig="",
            container_runtime_endpoint=f"docker://{self.dockerd.socket_path}",
            cgroup_root=self.cgroups,
            pod_logs_dir=str(self.folder / "logs"),
            address="0.0.0.0",
            port=self.port,
            tls_cert_file=str(self.folder / "kubelet.crt"),
            tls_private_key_file=str(self.folder / "kubelet.key"),
            healthz_port=self.health_port,
            authentication=kubelet_config.Authentication(
                x509=kubelet_config.X509(client_ca_file=str(self.folder / "api/ca.crt"))
            ),
        )
        document = {"apiVersion": kubelet_config.API_VERSION, "kind": kubelet_config.KIND, **settings.render(chosen)}
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(document))
        return path

    def start(self) -> None:
        argv = [
            sys.executable, "-m", "kubelet", "--config", str(self.write_config()),
            "--kubeconfig", str(self.server.kubeconfig), "--hostname-override", self.node.name, "--node-ip", ADDRESS,
            "--root-dir", str(self.root), "--cni-conf-dir", str(self.folder / "net.d"),
            "--cni-bin-dir", str(self.folder / "bin"), "--cni-cache-dir", str(self.folder / "cache"),
        ]  # fmt: skip
        with (self.folder / "kubelet.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(15)
        self.process = None
        return code

    async def healthy(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.health_port}/healthz"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def node_is(self, word: str) -> bool:
        try:
            found = await self.client.get(NODES, self.node.name)
        except NotFound:
            return False
        return any(c.type == "Ready" and c.status == word for c in found.status.conditions)

    async def create(self, name: str, containers: list[dict[str, Any]], **spec: Any) -> Pod:
        given = {"nodeName": self.node.name, "terminationGracePeriodSeconds": 1, "containers": containers, **spec}
        return await self.client.create(PODS, {"metadata": {"name": name}, "spec": given}, "default")

    async def pod(self, name: str) -> Pod | None:
        try:
            return await self.client.get(PODS, name, "default")
        except NotFound:
            return None

    async def until(self, name: str, condition: Callable[[Pod], object], what: str, seconds: float = 30) -> Pod:
        end, found = time.monotonic() + seconds, None
        while time.monotonic() < end:
            found = await self.pod(name)
            if found is not None and condition(found):
                return found
            await asyncio.sleep(0.05)
        log = (self.folder / "kubelet.log").read_text()[-4000:]
        raise AssertionError(f"not within {seconds} s: {what}: {found.status if found else 'gone'}\n{log}")

    async def until_gone(self, name: str, seconds: float = 30) -> None:
        async def gone() -> bool:
            return await self.pod(name) is None

        await self.eventually(gone, f"pod {name} is gone", seconds)

    async def eventually(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.05)
        log = (self.folder / "kubelet.log").read_text()[-4000:]
        raise AssertionError(f"not within {seconds} s: {what}\n{log}")

    async def events(self, reason: str) -> list[Event]:
        return [event for event in (await self.client.list(EVENTS, "default")).items if event.reason == reason]

    def containers(self) -> set[str]:
        """Ids of all of this node's containers that run, pause containers too."""
        client = self.dockerd.client()
        try:
            return {row["Id"] for row in client.containers(filters={"label": f"{NODE_LABEL}={self.node.name}"})}
        finally:
            client.close()

    def remains(self) -> set[str]:
        client = self.dockerd.client()
        try:
            return {
                row["Id"] for row in client.containers(all=True, filters={"label": f"{NODE_LABEL}={self.node.name}"})
            }
        finally:
            client.close()

    def namespace_of(self, pod: str) -> str:
        """The network namespace of a running pod, as a path."""
        client = self.dockerd.client()
        try:
            wanted = [f"{NODE_LABEL}={self.node.name}", f"{POD_NAME}={pod}"]
            (identity, *_) = [row["Id"] for row in client.containers(filters={"label": wanted})]
            return f"/proc/{client.inspect_container(identity)['State']['Pid']}/ns/net"
        finally:
            client.close()

    def clean(self) -> None:
        """Whatever a failed test left."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        client = self.dockerd.client()
        for identity in self.remains():
            with suppress(APIError):  # gone, or on its way: the kubelet was at it
                client.remove_container(identity, force=True, v=True)
        client.close()
        for mount in mounts.below(str(self.folder)):
            with suppress(OSError):
                mounts.unmount(mount.point, lazy=True)


async def with_world(
    node: Netns, dockerd: Dockerd, cgroups: str, folder: Path, test: Callable[[World], Any], *flags: str
) -> None:
    """Run inside the node's namespace; `flags` are the API server's."""
    node.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    network(folder)
    (folder / "api").mkdir()
    async with apiserver.running(folder / "api", *flags) as server, Client(server.connection()) as client:
        world = World(node, dockerd, cgroups, folder, server, client)
        serving = certificates.issue(server.authority(), node.name, sans=[ADDRESS])
        (folder / "kubelet.crt").write_bytes(serving.certificate)
        (folder / "kubelet.key").write_bytes(serving.key)
        try:
            world.start()
            await world.eventually(lambda: world.node_is("True"), "the node is ready", 20)
            await test(world)
        finally:
            world.clean()


def container(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **more}


def ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def cgroups_of(root: str, uid: str) -> list[Path]:
    """The pod's group in every hierarchy."""
    found = []
    for top in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
        base = top / root.strip("/") / "kubepods"
        found += [base / f"pod{uid}", base / "burstable" / f"pod{uid}", base / "besteffort" / f"pod{uid}"]
    return [path for path in found if os.path.isdir(path)]
