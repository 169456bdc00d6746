"""A centre for tests: our API server, scheduler and controllers as processes of their own, on free ports of 127.0.0.1.

Nothing here is a fake: the three are started as people start them, with certificates of a throw-away CA, and ended with
the signals that a test asks for.
"""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from kube import certificates, kubeconfig
from kube.client import Client, Connection
from kube.errors import ApiUnreachable
from tests.ports import free_port

R = TypeVar("R")

ROOT = Path(__file__).resolve().parents[2]


async def eventually(
    what: str, check: Callable[[], Awaitable[R]], *, timeout: float = 30.0, why: Callable[[], str] = str
) -> R:
    """The first true answer of `check`; a failure that names `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := await check():
                return last  # type: ignore[return-value]
        except (AssertionError, ApiUnreachable) as error:
            last = error
        await asyncio.sleep(0.03)
    raise AssertionError(f"after {timeout} s still not: {what} (last answer: {last}) {why()}")


class Daemon:
    """One process, its log, and its way back after it was killed."""

    def __init__(self, folder: Path, module: str, port: int, argv: list[str]) -> None:
        self.module = module
        self.port = port
        self.log = folder / f"{module}.log"
        self._argv = [sys.executable, "-m", module, *argv]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "WHERRY_LOG": "info"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT
            )

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15.0) -> int:
        """The exit status; negative for a signal, as subprocess has it."""
        assert self._process
        self._process.send_signal(number)
        status = self._process.wait(timeout)
        self._process = None
        return status

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{self.port}/readyz", context=context, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            assert self.alive, f"{self.module} has ended: {self.log.read_text()[-3000:]}"
            return False

    def get(self, path: str) -> str:
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(f"https://127.0.0.1:{self.port}{path}", context=context, timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def rss(self) -> int:
        """Resident memory in bytes."""
        assert self._process
        fields = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        assert self._process
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Centre:
    def __init__(
        self, folder: Path, *, grace: str = "40s", toleration: int = 2, controllers: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        ports = [free_port() for _ in range(3)]
        self._certify(ports[0])
        self.apiserver = Daemon(folder, "apiserver", ports[0], self._server_flags(ports[0], toleration))
        shared = ["--kubeconfig", str(self.kubeconfig), "--bind-address", "127.0.0.1"]
        self.scheduler = Daemon(folder, "scheduler", ports[1], [*shared, "--secure-port", str(ports[1])])
        self.controllers = Daemon(
            folder,
            "controllers",
            ports[2],
            [
                *(*shared, "--secure-port", str(ports[2])),
                *("--node-monitor-grace-period", grace, "--root-ca-file", str(folder / "ca.crt")),
                *controllers,
            ],
        )

    @property
    def daemons(self) -> tuple[Daemon, Daemon, Daemon]:
        return self.apiserver, self.scheduler, self.controllers

    def _certify(self, port: int) -> None:
        ca = certificates.authority("test-ca")
        server = certificates.issue(ca, "kube-apiserver", sans=["127.0.0.1"])
        admin = certificates.issue(ca, "kubernetes-admin", ["system:masters"])
        for name, pair in (("ca", ca), ("server", server), ("admin", admin)):
            (self.folder / f"{name}.crt").write_bytes(pair.certificate)
            (self.folder / f"{name}.key").write_bytes(pair.key)
        url = f"https://127.0.0.1:{port}"
        self.kubeconfig.write_text(kubeconfig.render(url, ca.certificate, admin.certificate, admin.key))

    def _server_flags(self, port: int, toleration: int) -> list[str]:
        config = self.folder / "apiserver.yaml"
        config.write_text(
            f"""apiVersion: wherry.io/v1alpha1
kind: ApiServerConfiguration
bindAddress: 127.0.0.1
securePort: {port}
dataDir: {self.folder}/data
tlsCertFile: {self.folder}/server.crt
tlsPrivateKeyFile: {self.folder}/server.key
clientCaFile: {self.folder}/ca.crt
defaultNotReadyTolerationSeconds: {toleration}
defaultUnreachableTolerationSeconds: {toleration}
"""
        )
        return ["--config", str(config)]

    def client(self) -> Client:
        return Client(Connection.from_kubeconfig(str(self.kubeconfig)), user_agent="test")

    def logs(self) -> str:
        texts = (f"--- {d.module}\n{d.log.read_text()[-2000:]}" for d in self.daemons if d.log.exists())
        return "\n".join(texts)


@asynccontextmanager
async def centre(folder: Path, *, scheduler: bool = True, **options: object) -> AsyncIterator[Centre]:
    """A running centre: every daemon ready."""
    made = Centre(folder, **options)  # type: ignore[arg-type]
    with _ending(made):
        made.apiserver.start()
        await _ready(made.apiserver)
        made.controllers.start()
        if scheduler:
            made.scheduler.start()
            await _ready(made.scheduler)
        await _ready(made.controllers)
        yield made


async def _ready(daemon: Daemon) -> None:
    async def check() -> bool:
        return await asyncio.to_thread(daemon.ready)

    await eventually(f"{daemon.module} ready", check, why=lambda: daemon.log.read_text()[-3000:])


@contextlib.contextmanager
def _ending(made: Centre) -> Iterator[None]:
    try:
        yield
    finally:
        for daemon in reversed(made.daemons):
            if daemon.alive:
                daemon.end()
