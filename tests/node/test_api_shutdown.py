"""The server told to end (SIGTERM), over real TLS: not ready at once, served for a while, everything ended cleanly."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import aiohttp

from tests.node.apiserver import Server, running

NS = "/api/v1/namespaces/default"


async def ready(session: aiohttp.ClientSession, server: Server) -> int:
    async with session.get(f"{server.url}/readyz") as answer:
        return answer.status


async def test_sigterm(tmp_path: Path) -> None:
    async with running(tmp_path, "--shutdown-delay-duration", "1s") as server:
        tls = server.connection().ssl_context()
        assert isinstance(tls, ssl.SSLContext)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=0)) as session:
            watch = await session.get(f"{server.url}{NS}/configmaps?watch=true&resourceVersion=0&labelSelector=x")
            # A body that is still on its way when the signal comes.
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls)
            body = b'{"metadata":{"name":"late","labels":{"x":"y"}}}'
            writer.write(f"POST {NS}/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(body[:10])
            assert await ready(session, server) == 200
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while await ready(session, server) == 200:
                    await asyncio.sleep(0.01)
            config_map = {"metadata": {"name": "b", "labels": {"x": ""}}}
            # Not ready, and serving on: new connections too.
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as other:
                async with other.post(f"{server.url}{NS}/configmaps", json=config_map) as made:
                    assert made.status == 201
            async with asyncio.timeout(10):
                frames = await watch.read()  # ends by a clean last chunk, else this raises
            assert frames.count(b'"type":"ADDED"') == 1
            writer.write(body[10:])
            async with asyncio.timeout(5):
                answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201")
            assert b"Connection: close" in answer
            writer.close()
        async with asyncio.timeout(20):
            while server.process.poll() is None:
                await asyncio.sleep(0.02)
        assert server.process.returncode == 0
        assert "Traceback" not in server.log
        await server.start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            async with session.get(f"{server.url}{NS}/configmaps/late") as found:
                assert found.status == 200
