"""A whole kubelet in this process: our API server, the fake runtime, real files below a temporary directory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiserver import config as api_config
from apiserver import daemon as api_daemon
from kube import certificates
from kube.client import Client
from kube.core import Event
from kube.errors import NotFound
from kube.kubeconfig import Connection
from kube.pods import Pod
from kube.resources import EVENTS, PODS
from kubelet.config import Config
from kubelet.metrics import Metrics
from kubelet.wiring import Wiring
from linux.cgroup.tree import Hierarchies
from tests.fakes.runtime import IMAGE, FakeRuntime
from tests.ports import free_port

NODE = "node1"


@asynccontextmanager
async def api(folder: Path, port: int = 0) -> AsyncIterator[Connection]:
    """Our API server on loopback, as administrator; the same folder and port again is the same server again."""
    connection = connection_to(folder, port or free_port())
    config = api_config.Config(
        bind_address="127.0.0.1",
        secure_port=int(connection.server.rpartition(":")[2]),
        tls_cert_file=str(folder / "tls.crt"),
        tls_private_key_file=str(folder / "tls.key"),
        client_ca_file=str(folder / "ca.crt"),
        data_dir=str(folder / "data"),
        disable_admission_plugins="ServiceAccount",  # no controllers run here to make them
    )
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(api_daemon.run(config, ready.set))
        await ready.wait()
        try:
            yield connection
        finally:
            task.cancel()


def connection_to(folder: Path, port: int) -> Connection:
    """An administrator's way to the server of that folder, which need not run yet."""
    if not (folder / "ca.crt").exists():
        authority = certificates.authority("test-ca")
        serving = certificates.issue(authority, "kube-apiserver", sans=["127.0.0.1"])
        admin = certificates.issue(authority, "admin", ["system:masters"])
        files = {"ca.crt": authority.certificate, "ca.key": authority.key, "admin.crt": admin.certificate}
        files |= {"admin.key": admin.key, "tls.crt": serving.certificate, "tls.key": serving.key}
        for name, content in files.items():
            (folder / name).write_bytes(content)
    ca, certificate, key = ((folder / name).read_bytes() for name in ("ca.crt", "admin.crt", "admin.key"))
    return Connection(f"https://127.0.0.1:{port}", ca, certificate, key)


@dataclass
class Rig:
    """One API, one runtime, and a kubelet that can be killed and started."""

    connection: Connection
    client: Client
    runtime: FakeRuntime
    folder: Path
    group: asyncio.TaskGroup
    wiring: Wiring | None = None
    task: asyncio.Task[None] | None = None
    own: Client | None = None

    async def start(self) -> None:
        config = Config(
            kubeconfig="",
            hostname_override=NODE,
            node_ip="10.0.0.1",
            root_dir=str(self.folder / "kubelet"),
            pod_logs_dir=str(self.folder / "logs"),
            resolv_conf=str(self.folder / "resolv.conf"),
            node_status_update_frequency=0.2,
            max_pods=20,
            static_pod_path=str(self.folder / "manifests"),
        )
        self.own = await Client(self.connection).__aenter__()
        self.wiring = Wiring(config, self.own, self.connection, self.runtime, Metrics(NODE), Hierarchies())
        self.task = self.group.create_task(self.wiring.run())

    async def kill(self) -> None:
        """The kubelet is gone at once; nothing is tidied up."""
        assert self.task is not None
        assert self.own is not None
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.own.__aexit__(None, None, None)
        self.task = None

    async def create(self, name: str = "p", *, containers: list[dict[str, Any]] | None = None, **spec: Any) -> Pod:
        body = {
            "metadata": {"name": name},
            "spec": {
                "nodeName": NODE,
                "containers": containers or [container("a")],
                "terminationGracePeriodSeconds": 1,
                **spec,
            },
        }
        return await self.client.create(PODS, body, "default")

    async def pod(self, name: str = "p") -> Pod | None:
        try:
            return await self.client.get(PODS, name, "default")
        except NotFound:
            return None

    async def until(self, condition: Callable[[Pod], object], what: str, name: str = "p", seconds: float = 30) -> Pod:
        """The pod, once the condition holds for it as the API shows it."""
        end, pod = time.monotonic() + seconds, None
        while time.monotonic() < end:
            pod = await self.pod(name)
            with suppress(IndexError):  # what is looked for may be in a list that nobody has filled yet
                if pod is not None and condition(pod):
                    return pod
            await asyncio.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}; the status is {pod.status if pod else 'gone'}")

    async def until_gone(self, name: str = "p", seconds: float = 30) -> None:
        await eventually(lambda: self._absent(name), f"pod {name} is gone", seconds)

    async def _absent(self, name: str) -> bool:
        return await self.pod(name) is None

    async def events(self, reason: str) -> list[Event]:
        return [e for e in (await self.client.list(EVENTS, "default")).items if e.reason == reason]

    async def until_event(self, reason: str, seconds: float = 30) -> Event:
        async def there() -> bool:
            return bool(await self.events(reason))

        await eventually(there, f"event {reason}", seconds)
        return (await self.events(reason))[0]

    async def another_pass(self, uid: str) -> None:
        """Wake the pod and wait until it has been looked at twice: the first look may have been under way."""
        assert self.wiring is not None
        for _ in range(2):
            looks = self.runtime.calls.count(("list_pods", ""))
            self.wiring.workers.look(uid)
            await eventually(lambda: self.runtime.calls.count(("list_pods", "")) > looks, "a pass")  # noqa: B023

    def starts(self) -> int:
        return sum(1 for operation, _ in self.runtime.calls if operation == "start_container")


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


@asynccontextmanager
async def rig(folder: Path, runtime: FakeRuntime | None = None) -> AsyncIterator[Rig]:
    (folder / "resolv.conf").write_text("nameserver 9.9.9.9\n")
    (folder / "api").mkdir()
    async with api(folder / "api") as connection, Client(connection) as client, asyncio.TaskGroup() as group:
        made = Rig(connection, client, runtime or FakeRuntime(), folder, group)
        await made.start()
        try:
            yield made
        finally:
            if made.task is not None:
                await made.kill()


def container(name: str, *command: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": IMAGE, "command": list(command) or ["sleep", "1000"], **more}


def ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


def waiting(pod: Pod, index: int = 0) -> str:
    statuses = pod.status.container_statuses
    state = statuses[index].state if len(statuses) > index else None
    return state.waiting.reason if state and state.waiting else ""


def with_a_node(test: Callable[[Rig], Awaitable[None]]) -> Callable[[Path], Awaitable[None]]:
    """The rig around the test, in the test's own task: its task groups do not cross into a fixture's."""

    async def run(tmp_path: Path) -> None:
        async with rig(tmp_path) as node:
            await test(node)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
