"""A real API server in a process of its own, on a free port of 127.0.0.1, with a throw-away CA."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kube import certificates, kubeconfig
from kube.kubeconfig import Connection
from tests.ports import free_port

READY_SECONDS = 20.0


@dataclass(slots=True)
class Server:
    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def authority(self) -> certificates.KeyPair:
        """The CA that clients and kubelets are known by."""
        return certificates.KeyPair(*((self.directory / f"ca.{end}").read_bytes() for end in ("crt", "key")))

    def connection(self) -> Connection:
        return Connection.from_kubeconfig(str(self.kubeconfig))

    async def start(self, *flags: str) -> None:
        argv = [sys.executable, "-m", "apiserver", "--config", str(self.directory / "config.yaml"), *flags]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
            while not await self._ready(session):
                if self.process.poll() is not None:
                    raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
                await asyncio.sleep(0.05)

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/readyz", ssl=False) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)


def prepared(directory: Path) -> Server:
    """Certificates, configuration and kubeconfig; nothing runs yet."""
    server = Server(directory, free_port())
    authority = certificates.authority("test-ca")
    pairs = {
        "ca": authority,
        "server": certificates.issue(authority, "kube-apiserver", sans=["127.0.0.1", "localhost"]),
        "admin": certificates.issue(authority, "kubernetes-admin", ["system:masters"]),
    }
    for name, pair in pairs.items():
        (directory / f"{name}.crt").write_bytes(pair.certificate)
        (directory / f"{name}.key").write_bytes(pair.key)
    admin = pairs["admin"]
    server.kubeconfig.write_text(kubeconfig.render(server.url, authority.certificate, admin.certificate, admin.key))
    (directory / "config.yaml").write_text(
        f"""\
apiVersion: wherry.io/v1alpha1
kind: ApiServerConfiguration
bindAddress: 127.0.0.1
securePort: {server.port}
dataDir: {directory}/data
tlsCertFile: {directory}/server.crt
tlsPrivateKeyFile: {directory}/server.key
clientCaFile: {directory}/ca.crt
kubeletClientCertificate: {directory}/admin.crt
kubeletClientKey: {directory}/admin.key
kubeletCertificateAuthority: {directory}/ca.crt
disableAdmissionPlugins: ServiceAccount  # no controllers run here to make ServiceAccounts
"""
    )
    return server


@asynccontextmanager
async def running(directory: Path, *flags: str) -> AsyncIterator[Server]:
    server = prepared(directory)
    try:
        await server.start(*flags)
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill(signal.SIGTERM)
