"""A registry that gives one image to those who know its password, over plain HTTP: what dockerd and containerd speak to on
127.0.0.1 without being told that it is insecure."""

import base64
import gzip
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """`asked` has the path of each request that was let in."""

    host: str
    repository: str
    user: str
    password: str
    manifest: bytes
    blobs: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    away: bool = False

    @property
    def image(self) -> str:
        return f"{self.host}/{self.repository}:1"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.away:
            return web.Response(status=503, text="under repair")
        expected = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            errors = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            return web.json_response(errors, status=401, headers={"WWW-Authenticate": 'Basic realm="test"'})
        self.asked.append(request.path)
        if request.path.rstrip("/") == "/v2":
            return web.json_response({})
        kind, _, name = request.path.removeprefix(f"/v2/{self.repository}/").partition("/")
        if kind == "manifests" and name in ("1", digest_of(self.manifest)):
            headers = {"Content-Type": _MANIFEST, "Docker-Content-Digest": digest_of(self.manifest)}
            return web.Response(body=self.manifest, headers=headers)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name], headers={"Content-Type": "application/octet-stream"})
        return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}, status=404)


@asynccontextmanager
async def serving(
    listener: socket.socket, repository: str, layer: bytes, *, user: str = "me", password: str = "geheim"
) -> AsyncIterator[Registry]:
    """An image of one layer, `layer` being its tar."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }
    packed, described = gzip.compress(layer, 1, mtime=0), json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "size": len(described), "digest": digest_of(described)},
        "layers": [{"mediaType": _LAYER, "size": len(packed), "digest": digest_of(packed)}],
    }
    address = "{}:{}".format(*listener.getsockname())
    blobs = {digest_of(packed): packed, digest_of(described): described}
    registry = Registry(address, repository, user, password, json.dumps(manifest).encode(), blobs)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", registry.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield registry
    finally:
        await runner.cleanup()
