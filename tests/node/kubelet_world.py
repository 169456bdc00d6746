"""A node in a namespace of its own: our API server, wherry-kubelet as a process, Docker or containerd, wherry-cni."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from kube import certificates
from kube import settings as kube_settings
from kube.client import Client
from kube.core import Event
from kube.errors import NotFound
from kube.pods import Pod
from kube.resources import EVENTS, NODES, PODS
from kubelet import config as kubelet_config
from linux import mounts
from tests.conftest import Netns
from tests.dockerd import IMAGE, Dockerd
from tests.node import apiserver, engines
from tests.node.engines import Engine, Row
from tests.ports import free_port

ADDRESS = "10.99.0.1"


@dataclass
class World:
    node: Netns
    engine: Engine
    cgroups: str
    folder: Path
    server: apiserver.Server
    client: Client
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of KubeletConfiguration that a test wants otherwise."""
    endpoint: str = ""
    """The runtime's, where it is not the engine's own: something stands in between."""
    root_directory: Path | None = None
    """The kubelet's, where a test wants it on a disk of its own."""
    process: "subprocess.Popen[bytes] | None" = None
    health_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)

    @property
    def root(self) -> Path:
        return self.root_directory or self.folder / "kubelet"

    def write_config(self) -> Path:
        chosen = kubelet_config.Config(
            kubeconfig="",
            container_runtime_endpoint=self.endpoint or self.engine.endpoint,
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
        document = {
            "apiVersion": kubelet_config.API_VERSION,
            "kind": kubelet_config.KIND,
            **kube_settings.render(chosen),
        } | dict(self.settings)
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(document))
        return path

    def start(self, *flags: str) -> None:
        """`flags` come last, and win."""
        argv = [
            sys.executable, "-m", "kubelet", "--config", str(self.write_config()),
            "--kubeconfig", str(self.server.kubeconfig), "--hostname-override", self.node.name, "--node-ip", ADDRESS,
            "--root-dir", str(self.root), "--cni-conf-dir", str(self.folder / "net.d"),
            "--cni-bin-dir", str(self.folder / "bin"), "--cni-cache-dir", str(self.folder / "cache"), *flags,
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
            with suppress(IndexError):  # what is looked for may be in a list that nobody has filled yet
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

    def running(self) -> list[Row]:
        """What of this node runs, sandboxes too, according to the runtime."""
        return self.engine.running(self.node.name)

    def containers(self) -> set[str]:
        """Ids of all of this node's containers that run, sandboxes too."""
        return {row.id for row in self.running()}

    def row(self, pod: str, container: str = engines.SANDBOX) -> Row:
        """The one that runs."""
        (found,) = [row for row in self.running() if (row.pod, row.container) == (pod, container)]
        return found

    def remains(self) -> set[str]:
        return self.engine.everything(self.node.name)

    def namespace_of(self, pod: str) -> str:
        """The network namespace of a running pod, as a path."""
        return f"/proc/{self.row(pod).pid}/ns/net"

    def clean(self) -> None:
        """Whatever a failed test left."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.engine.clean(self.node.name)
        for mount in mounts.below(str(self.folder)):
            with suppress(OSError):
                mounts.unmount(mount.point, lazy=True)


@asynccontextmanager
async def a_world(
    node: Netns,
    engine: Engine,
    cgroups: str,
    folder: Path,
    *flags: str,
    settings: Mapping[str, Any] | None = None,
    endpoint: str = "",
) -> AsyncIterator[World]:
    """To be entered inside the node's namespace; `flags` are the API server's, `settings` the kubelet's."""
    node.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    engine.prepare(folder)
    (folder / "api").mkdir()
    async with apiserver.running(folder / "api", *flags) as server, Client(server.connection()) as client:
        world = World(node, engine, cgroups, folder, server, client, settings or {}, endpoint)
        serving = certificates.issue(server.authority(), node.name, sans=[ADDRESS])
        (folder / "kubelet.crt").write_bytes(serving.certificate)
        (folder / "kubelet.key").write_bytes(serving.key)
        try:
            world.start()
            await world.eventually(lambda: world.node_is("True"), "the node is ready", 20)
            yield world
        finally:
            world.clean()


async def with_world(
    node: Netns,
    runtime: Dockerd | Engine,
    cgroups: str,
    folder: Path,
    test: Callable[[World], Any],
    *flags: str,
    settings: Mapping[str, Any] | None = None,
) -> None:
    engine = engines.shared(runtime) if isinstance(runtime, Dockerd) else runtime
    async with a_world(node, engine, cgroups, folder, *flags, settings=settings) as world:
        await test(world)


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
