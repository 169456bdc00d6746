"""A dockerd that refuses what nobody is to blame for: that is worth another try, and never a bug of ours."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kubelet.docker.backend import DockerOptions, DockerRuntime, _with_profile
from kubelet.network import Network
from kubelet.runtime import ContainerConfig, RuntimeRefused, RuntimeUnavailable, SecurityContext

ID = "c" * 64
LABELS = {
    "io.wherry.node": "n", "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "d",
    "io.kubernetes.pod.uid": "u", "io.kubernetes.container.name": "a",
}  # fmt: skip
CONTAINER = {
    "Id": ID, "Name": "/a", "Image": "sha256:" + "1" * 64, "Created": "2026-01-01T00:00:00Z", "Mounts": [],
    "Config": {"Labels": LABELS, "Image": "i", "Tty": False}, "HostConfig": {}, "LogPath": "",
    "State": {
        "Running": True, "Status": "running", "Pid": os.getpid(), "ExitCode": 0,
        "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z",
    },
}  # fmt: skip


class Dockerd:
    """Knows one container that runs, and refuses everything else with this status."""

    def __init__(self, status: int = 500) -> None:
        self.status = status

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        path = re.sub(r"^/v[0-9.]+", "", path)
        if path == "/version" and self.status != 501:
            return 200, {"ApiVersion": "1.43", "Version": "24"}
        if method == "GET" and path == f"/containers/{ID}/json":
            return 200, CONTAINER
        return self.status, {"message": f"{method} {path}: layer does not exist"}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.decode().partition("\r\n")[0].split(" ")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                status, body = self.answer(method, path)
                data = json.dumps(body).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                    + data
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class NoNetwork:
    def obstacle(self) -> str:
        return ""


@asynccontextmanager
async def refusing(folder: Path, status: int = 500) -> AsyncIterator[DockerRuntime]:
    network: Network = NoNetwork()  # type: ignore[assignment]
    server = await asyncio.start_unix_server(Dockerd(status).talk, folder / "s")
    runtime = DockerRuntime(DockerOptions(socket_path=str(folder / "s"), node="n", timeout=5), network)
    try:
        yield runtime
    finally:
        await runtime.close()
        server.close()
        await server.wait_closed()


async def test_what_has_no_author_is_tried_again(tmp_path: Path) -> None:
    async with refusing(tmp_path) as runtime:
        for call in (
            runtime.stop_container(ID, 1),
            runtime.stop_container(ID, 0),
            runtime.remove_container(ID),
            runtime.list_pods(),
            runtime.list_images(),
            runtime.remove_image("i"),
            runtime.image_fs(),
        ):
            with pytest.raises(RuntimeUnavailable, match="layer does not exist"):
                await call


async def test_a_container_whose_image_is_damaged_is_known_all_the_same(tmp_path: Path) -> None:
    async with refusing(tmp_path) as runtime:
        assert (await runtime.container_status(ID)).id == ID
        with pytest.raises(RuntimeRefused, match="layer does not exist"):
            await runtime.image_status("i")


async def test_what_has_ended_by_itself_need_not_be_killed(tmp_path: Path) -> None:
    async with refusing(tmp_path, 409) as runtime:
        await runtime._containers._kill("stop_container", ID, "SIGTERM")


async def test_a_version_that_is_refused(tmp_path: Path) -> None:
    async with refusing(tmp_path, 501) as runtime:
        with pytest.raises(RuntimeUnavailable):
            await runtime.version()


def test_a_profile_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "fifo")
    for name in ("binary", "fifo", "absent", "a\0b", ""):
        security = SecurityContext(seccomp=f"{tmp_path}/{name}")
        with pytest.raises(RuntimeRefused, match="seccomp profile"):
            _with_profile(ContainerConfig(name="a", image="i", security=security))
