"""A pod made by hand: the runtime's own calls and nothing else, as floors for the kubelet's figures.

Docker: create and start of the pause and of the container by the `docker` package, the CNI plugin called as any caller calls
it. containerd: RunPodSandbox (in which it calls the same plugin), CreateContainer, StartContainer over one gRPC connection.
"""

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from docker.api.client import APIClient

from kubelet.cri import calls, spec
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import Client
from kubelet.docker.pause import COMMAND, PAUSE_IMAGE
from kubelet.runtime import ContainerConfig, PodIdentity, SandboxConfig
from tests.dockerd import IMAGE

T = TypeVar("T")
POLL = 0.005  # seconds between two questions whether it has ended


@dataclass(frozen=True, slots=True)
class Bare:
    """A pod of one container."""

    sandbox: str
    container: str
    pid: int  # of the container's first process; 0 where the runtime does not say it by itself


class Runtime(Protocol):
    async def start(self, command: Sequence[str]) -> Bare: ...
    async def end(self, pod: Bare) -> None:
        """Stop with one second of grace, and remove."""

    async def exited(self, pod: Bare) -> None:
        """Until the runtime says so."""

    async def close(self) -> None: ...


class Docker:
    def __init__(self, socket_path: str, home: Path, parent: str) -> None:
        self._client = APIClient(base_url=f"unix://{socket_path}", version="auto", timeout=60, num_pools=40)
        self._threads = ThreadPoolExecutor(20)
        self._home, self._parent = home, parent
        (conflist,) = (home / "net.d").glob("*.conflist")
        self._network = json.loads(conflist.read_text())

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def start(self, command: Sequence[str]) -> Bare:
        return await self._call(lambda: self._start(command))

    def _start(self, command: Sequence[str]) -> Bare:
        common = {"RestartPolicy": {"Name": "no"}, "CgroupParent": self._parent}
        host = {**common, "NetworkMode": "none", "IpcMode": "shareable"}
        sandbox = self._made({"Image": PAUSE_IMAGE, "Entrypoint": list(COMMAND), "HostConfig": host})
        self._plugins("ADD", sandbox, self._pid(sandbox))
        joined = {**common, "NetworkMode": f"container:{sandbox}", "IpcMode": f"container:{sandbox}"}
        container = self._made({"Image": IMAGE, "Entrypoint": list(command), "HostConfig": joined})
        return Bare(sandbox, container, self._pid(container))

    def _made(self, config: dict[str, Any]) -> str:
        identity = str(self._client.create_container_from_config(config, None)["Id"])  # type: ignore[no-untyped-call]
        self._client.start(identity)
        return identity

    def _pid(self, identity: str) -> int:
        return int(self._client.inspect_container(identity)["State"]["Pid"])

    def _plugins(self, command: str, sandbox: str, pid: int) -> None:
        told = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": sandbox, "CNI_NETNS": f"/proc/{pid}/ns/net", "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self._home / "bin"), "PATH": os.environ["PATH"],
        }  # fmt: skip
        previous: dict[str, Any] | None = None
        for plugin in self._network["plugins"]:
            given = {"cniVersion": self._network["cniVersion"], "name": self._network["name"], **plugin}
            given |= {"prevResult": previous} if previous else {}
            program = str(self._home / "bin" / plugin["type"])
            done = subprocess.run(
                [program], input=json.dumps(given).encode(), env=told, capture_output=True, check=True
            )
            previous = json.loads(done.stdout) if done.stdout else previous

    async def end(self, pod: Bare) -> None:
        await self._call(lambda: self._end(pod))

    def _end(self, pod: Bare) -> None:
        self._client.stop(pod.container, timeout=1)
        self._client.remove_container(pod.container)
        self._plugins("DEL", pod.sandbox, self._pid(pod.sandbox))
        self._client.kill(pod.sandbox)
        self._client.remove_container(pod.sandbox, force=True)

    async def exited(self, pod: Bare) -> None:
        while await self._call(lambda: bool(self._client.inspect_container(pod.container)["State"]["Running"])):
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        self._client.close()
        self._threads.shutdown()


class Cri:
    def __init__(self, socket_path: str, home: Path, parent: str) -> None:
        self._client = Client(socket_path)
        self._home, self._parent = home, parent

    async def start(self, command: Sequence[str]) -> Bare:
        pod = PodIdentity("bare", "bare", uuid.uuid4().hex)
        config = SandboxConfig(
            pod=pod, hostname="bare", log_directory=str(self._home / "bare"), cgroup_parent=self._parent
        )
        owner = spec.Owner("bare")
        sandbox = spec.sandbox(config, owner)
        run = await self._client.call(calls.RUN_SANDBOX, pb.RunPodSandboxRequest(config=sandbox))
        wanted = ContainerConfig(name="main", image=IMAGE, command=tuple(command), log_path="main.log")
        question = pb.CreateContainerRequest(
            pod_sandbox_id=run.pod_sandbox_id, config=spec.container(wanted, config, owner), sandbox_config=sandbox
        )
        made = await self._client.call(calls.CREATE, question)
        await self._client.call(calls.START, pb.StartContainerRequest(container_id=made.container_id))
        return Bare(run.pod_sandbox_id, made.container_id, 0)

    async def end(self, pod: Bare) -> None:
        await self._client.call(calls.STOP, pb.StopContainerRequest(container_id=pod.container, timeout=1))
        await self._client.call(calls.REMOVE, pb.RemoveContainerRequest(container_id=pod.container))
        await self._client.call(calls.STOP_SANDBOX, pb.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox))
        await self._client.call(calls.REMOVE_SANDBOX, pb.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox))

    async def exited(self, pod: Bare) -> None:
        question = pb.ContainerStatusRequest(container_id=pod.container)
        while (await self._client.call(calls.CONTAINER_STATUS, question)).status.state != pb.CONTAINER_EXITED:
            await asyncio.sleep(POLL)

    async def exec(self, container: str, command: Sequence[str]) -> int:
        question = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=1)
        return (await self._client.call(calls.EXEC_SYNC, question)).exit_code

    async def close(self) -> None:
        self._client.close()
