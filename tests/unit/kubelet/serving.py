"""The kubelet's HTTPS API over a fake runtime, and a client of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from kube import certificates
from kube.pods import Pod
from kubelet.runtime import ContainerConfig, PodIdentity, SandboxConfig
from kubelet.server import Server, serve, tls_context
from kubelet.streams.websocket import Dialect
from tests.fakes.runtime import IMAGE, FakeRuntime

CA = certificates.authority()


def pod(name: str = "web", **status: object) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
            "spec": {"containers": [{"name": "main", "image": IMAGE}], "initContainers": [{"name": "prepare"}]},
            "status": status,
        },
        Pod,
    )


def with_status(name: str = "main", *, state: object = None, last: object = None, identity: str = "") -> Pod:
    row = {"name": name, "state": state or {}, "lastState": last or {}, "containerID": identity}
    return pod(containerStatuses=[row])


class Source:
    def __init__(self) -> None:
        self.known: list[Pod] = []

    def pods(self) -> list[Pod]:
        return self.known


@dataclass
class World:
    source: Source
    runtime: FakeRuntime
    folder: Path
    url: str
    session: aiohttp.ClientSession
    container_id: str = ""

    async def start(self, *command: str) -> None:
        """A pod `web` with one running container."""
        config = SandboxConfig(pod=PodIdentity("web", "default", "uid-web"), log_directory=str(self.folder))
        sandbox_id = await self.runtime.run_sandbox(config)
        container = ContainerConfig(name="main", image=IMAGE, command=command, log_path="main/0.log")
        self.container_id = await self.runtime.create_container(sandbox_id, container, config)
        await self.runtime.start_container(self.container_id)
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        self.source.known = [with_status(state=running, identity=f"docker://{self.container_id}")]

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, headers=headers) as response:
            return response.status, await response.text()

    async def talk(self, path: str, protocol: str, *messages: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        """Everything the server says, after `messages` have been sent."""
        dialect = Dialect(protocol)
        found: list[tuple[int, bytes]] = []
        names = (protocol,) if protocol else ()
        async with asyncio.timeout(10), self.session.ws_connect(self.url + path, protocols=names) as socket:
            for channel, data in messages:
                encoded = dialect.encode(channel, data)
                await (socket.send_str(encoded) if isinstance(encoded, str) else socket.send_bytes(encoded))
            async for message in socket:
                piece = dialect.decode(message.data)
                assert piece is not None
                found.append(piece)
        return found


def client_tls(folder: Path, name: str, *groups: str) -> ssl.SSLContext:
    pair = certificates.issue(CA, name, groups)
    path = folder / f"{name}.pem"
    path.write_bytes(pair.key + pair.certificate)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(path)
    return context


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[World]:
    source, runtime = Source(), FakeRuntime()
    (folder / "ca.pem").write_bytes(CA.certificate)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text="kubelet_running_pods 1\n")

    server = Server(source, runtime, checks={"syncloop": lambda: None}, routes={"/metrics": metrics})
    tls = tls_context("node1", "", "", str(folder / "ca.pem"))
    admin = client_tls(folder, "admin", "system:masters")
    async with serve(server, "127.0.0.1", 0, tls) as port:
        connector = aiohttp.TCPConnector(ssl=admin)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield World(source, runtime, folder, f"https://127.0.0.1:{port}", session)
