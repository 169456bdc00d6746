"""The API server as a process: what survives its death, who may come in, how it ends."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from kube import certificates
from kube.kubeconfig import Connection
from tests.node.apiserver import Server, prepared, running

CMS = "/api/v1/namespaces/default/configmaps"


async def create(session: aiohttp.ClientSession, server: Server, name: str) -> bool:
    """Whether the server has acknowledged it."""
    body = {"metadata": {"name": name}, "data": {"text": "x" * 500}}
    try:
        async with session.post(server.url + CMS, json=body) as response:
            return response.status == 201
    except aiohttp.ClientError:
        return False


def session_of(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=server.connection().ssl_context() or True, limit=64)
    )


async def fetch(session: aiohttp.ClientSession, server: Server, path: str) -> Any:
    async with session.get(server.url + path) as response:
        return await response.json()


async def hammer(session: aiohttp.ClientSession, server: Server, prefix: str, enough: int) -> set[str]:
    """Creates from 16 writers; kills the server when `enough` are acknowledged; the names that were."""
    acknowledged: set[str] = set()

    async def write(writer: int) -> None:
        number = 0
        while await create(session, server, name := f"{prefix}-{writer}-{number}"):
            acknowledged.add(name)
            number += 1
            if len(acknowledged) >= enough and server.process and server.process.poll() is None:
                server.process.kill()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for writer in range(16):
            group.create_task(write(writer))
    assert server.process is not None
    server.process.wait(10)
    return acknowledged


async def test_kill_9_loses_no_acknowledged_write_and_no_watcher(tmp_path: Path) -> None:
    async with running(tmp_path) as server, session_of(server) as session:
        expected: set[str] = set()
        version = (await fetch(session, server, CMS))["metadata"]["resourceVersion"]
        for turn in range(3):
            expected |= await hammer(session, server, f"t{turn}", 120)
            await server.start()
            found = await fetch(session, server, CMS)
            names = {item["metadata"]["name"] for item in found["items"]}
            assert expected <= names
        # A watch from before the first death is told everything that happened since.
        told: set[str] = set()
        query = f"{CMS}?watch=true&resourceVersion={version}&timeoutSeconds=2"
        async with session.get(server.url + query) as response:
            async for line in response.content:
                frame = orjson.loads(line)
                assert frame["type"] == "ADDED", frame
                told.add(frame["object"]["metadata"]["name"])
        assert told == names


async def test_the_store_process_dying_ends_the_server_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as server, session_of(server) as session:
        assert await create(session, server, "a")
        assert server.process is not None
        child = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        subprocess.run(["kill", "-9", *child], check=True)
        assert server.process.wait(15) == 1
        assert "the store's process ended" in server.log
        await server.start()
        assert (await fetch(session, server, f"{CMS}/a"))["metadata"]["name"] == "a"


async def test_sigterm_ends_watches_cleanly(tmp_path: Path) -> None:
    async with running(tmp_path) as server, session_of(server) as session:
        async with session.get(f"{server.url}{CMS}?watch=true&resourceVersion=0") as response:
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            assert await response.content.read() == b""  # the last chunk, not a broken connection
        assert server.process.wait(15) == 0


async def test_who_may_come_in(tmp_path: Path) -> None:
    stranger = certificates.issue(certificates.authority("other-ca"), "kubernetes-admin", ["system:masters"])
    async with running(tmp_path) as server, session_of(server) as session:
        assert (await fetch(session, server, CMS))["items"] == []
        plain = Connection(server.url, ca=(tmp_path / "ca.crt").read_bytes())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=plain.ssl_context() or True)) as anonymous:
            for path in ("/healthz", "/livez", "/readyz", "/readyz/informer-sync", "/version", "/version/"):
                async with anonymous.get(server.url + path) as response:
                    assert response.status == 200
            for path in (CMS, "/api", "/metrics", "/openapi/v3"):
                async with anonymous.get(server.url + path) as response:
                    assert response.status == 403
                    assert (await response.json())["reason"] == "Forbidden"
        forged = Connection(server.url, plain.ca, stranger.certificate, stranger.key)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=forged.ssl_context() or True)) as other:
            with pytest.raises(aiohttp.ClientError):
                await other.get(server.url + "/api")


async def test_wire_manners(tmp_path: Path) -> None:
    async with running(tmp_path) as server, session_of(server) as session:
        async with session.get(server.url + CMS, headers={"User-Agent": "curl/8"}) as response:
            assert response.headers["Cache-Control"] == "no-cache, private"
            assert response.headers["Audit-Id"]
            assert (await response.text()).startswith('{\n  "kind"')
        async with session.get(server.url + CMS, headers={"Accept": "application/yaml"}) as response:
            assert (await response.text()).startswith("kind: ConfigMapList\n")
        async with session.get(
            server.url + CMS, headers={"Accept": "application/vnd.kubernetes.protobuf, */*"}
        ) as response:
            assert response.content_type == "application/json"
        async with session.get(server.url + CMS, headers={"Accept": "text/html"}) as response:
            assert response.status == 406
        async with session.post(server.url + CMS, json={"metadata": {"name": "w"}, "no": 1}) as response:
            assert response.headers["Warning"] == '299 - "unknown field \\"no\\""'
        async with session.post(server.url + CMS, data=io.BytesIO(b"x" * (4 << 20))) as response:
            assert (response.status, (await response.json())["reason"]) == (413, "RequestEntityTooLarge")
        for number in range(40):
            body = {"metadata": {"name": f"big{number}"}, "data": {"x": "y" * 50_000}}
            async with session.post(server.url + CMS, json=body) as response:
                assert response.status == 201
        async with session.get(server.url + CMS) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert len((await response.json())["items"]) == 41
        async with session.get(server.url + CMS, headers={"Accept-Encoding": "identity"}) as response:
            assert len((await response.json())["items"]) == 41
        async with session.get(server.url + "/openapi/v3") as response:
            etag = response.headers["ETag"]
        async with session.get(server.url + "/openapi/v3", headers={"If-None-Match": etag}) as response:
            assert response.status == 304


async def test_events_go_after_their_time(tmp_path: Path) -> None:
    async with running(tmp_path, "--event-ttl", "1s") as server, session_of(server) as session:
        path = "/api/v1/namespaces/default/events"
        event = {"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"namespace": "default"}}
        async with session.post(server.url + path, json=event) as response:
            assert response.status == 201, await response.text()
            version = (await response.json())["metadata"]["resourceVersion"]
        query = f"{path}?watch=true&resourceVersion={version}&timeoutSeconds=15"
        async with session.get(server.url + query) as response:
            frame = orjson.loads(await response.content.readline())
        assert (frame["type"], frame["object"]["metadata"]["name"]) == ("DELETED", "e")
        assert (await fetch(session, server, path))["items"] == []


async def refused(server: Server, *flags: str) -> str:
    argv = [sys.executable, "-m", "apiserver", "--config", str(server.directory / "config.yaml"), *flags]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


async def test_bad_configuration_is_one_line(tmp_path: Path) -> None:
    server = prepared(tmp_path)
    assert "--tls-cert-file" in await refused(server, "--tls-cert-file", "")
    assert "--service-cluster-ip-range" in await refused(server, "--service-cluster-ip-range", "10.96.0.0/33")
    assert "--service-node-port-range" in await refused(server, "--service-node-port-range", "many")
    assert "--advertise-address" in await refused(server, "--advertise-address", "here")
    assert "/nonexistent" in await refused(server, "--client-ca-file", "/nonexistent")
    assert "--data-dir" in await refused(server, "--data-dir", "/dev/null/x")
    assert "--bind-adress: unknown flag; did you mean --bind-address?" in await refused(server, "--bind-adress", "x")


async def test_one_owner_of_port_and_data(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        taken, locked = await asyncio.gather(
            refused(server, "--data-dir", str(tmp_path / "other")), refused(server, "--secure-port", "0")
        )
        assert f"cannot listen on 127.0.0.1:{server.port}" in taken
        assert "another process has it open" in locked
