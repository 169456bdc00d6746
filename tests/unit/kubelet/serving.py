"""The kubelet's HTTPS API over a fake runtime, and a client of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from kube import certificates
from kube.errors import ApiUnreachable
from kube.pods import Pod
from kubelet.runtime import ContainerConfig, PodIdentity, SandboxConfig
from kubelet.server import Access, Pages, Policy, Server, serve, tls_context
from kubelet.server.access import ACCESS_REVIEWS, TOKEN_REVIEWS
from kubelet.streams.websocket import Dialect
from tests.fakes.runtime import IMAGE, FakeRuntime

CA = certificates.authority()
UPSTREAMS = Policy()


def pod(name: str = "web", *, once: bool = True, **status: object) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
            "spec": {
                "containers": [{"name": "main", "image": IMAGE, "stdin": True, "stdinOnce": once}],
                "initContainers": [{"name": "prepare"}],
            },
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
class Reviews:
    """The API server's side: who has which token, and who may read what."""

    users: dict[str, dict[str, object]] = field(default_factory=dict)
    allowed: set[tuple[str, str, str]] = field(default_factory=set)  # user, verb, subresource
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    away: bool = False

    async def __call__(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.away:
            raise ApiUnreachable("nobody there")
        spec = body["spec"]
        self.asked.append((path, spec))
        if path == TOKEN_REVIEWS:
            user = self.users.get(spec["token"])
            return {"status": {"authenticated": True, "user": user} if user else {"authenticated": False}}
        assert path == ACCESS_REVIEWS
        about = spec["resourceAttributes"]
        assert (about["resource"], about["name"], about["version"]) == ("nodes", "node1", "v1")
        return {"status": {"allowed": (spec["user"], about["verb"], about["subresource"]) in self.allowed}}


@dataclass
class World:
    source: Source
    runtime: FakeRuntime
    folder: Path
    url: str
    session: aiohttp.ClientSession
    reviews: Reviews
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(path)
    return context


@asynccontextmanager
async def serving(
    folder: Path,
    policy: Policy = UPSTREAMS,
    *,
    commands: bool = True,
    patience: float = 0.0,
    read_only: bool = False,
    log_query: bool = False,
) -> AsyncIterator[World]:
    source, runtime = Source(), FakeRuntime()
    (folder / "ca.pem").write_bytes(CA.certificate)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text="kubelet_running_pods 1\n")

    reviews = Reviews()
    pages = Pages(
        checks={"ping": lambda: None, "syncloop": lambda: None},
        routes={"/metrics": metrics},
        log_directory=str(folder / "log"),
        commands=commands,
        log_query=log_query,
        stream_patience=patience,
    )
    mirror = {"uid-mirror": "uid-web"}
    server = Server(source, runtime, Access("node1", policy, reviews), pages, own_uid=lambda uid: mirror.get(uid, uid))
    tls = tls_context("node1", "", "", str(folder / "ca.pem"))
    admin = client_tls(folder, "admin", "system:masters")
    application = server.application(read_only=read_only)
    async with serve(application, "127.0.0.1", 0, tls) as port:
        connector = aiohttp.TCPConnector(ssl=admin)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield World(source, runtime, folder, f"https://127.0.0.1:{port}", session, reviews)
