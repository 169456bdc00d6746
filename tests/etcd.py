"""A real etcd in a process of its own, on free ports of 127.0.0.1, with its data below a directory of the test's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_ports

READY_SECONDS = 20.0


@dataclass(slots=True)
class EtcdServer:
    """One member. `flags` are etcd's own; `cluster` is its --initial-cluster when it is one of several."""

    directory: Path
    flags: tuple[str, ...] = ()
    name: str = "default"
    cluster: str = ""
    scheme: str = "http"
    ports: list[int] = field(default_factory=lambda: free_ports(2))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.ports[0]}"

    @property
    def peer(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def data(self) -> Path:
        return self.directory / f"{self.name}.etcd"

    def start(self, *, wait: bool = True) -> None:
        argv = ["etcd", "--name", self.name, "--data-dir", str(self.data), "--log-level", "error"]
        argv += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        argv += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        argv += ["--initial-cluster", self.cluster or f"{self.name}={self.peer}", *self.flags]
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdout=log, stderr=log, env={**os.environ, "ETCD_UNSUPPORTED_ARCH": ""}
            )
        if wait and self.scheme == "http":
            self.wait_healthy()

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError, ValueError):
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                    if json.load(answer)["health"] == "true":
                        return
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"etcd ended: {(self.directory / f'{self.name}.log').read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise AssertionError("etcd is not healthy")
            time.sleep(0.05)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.process.wait(15)

    def forget(self) -> None:
        """As if its disk had been lost."""
        shutil.rmtree(self.data)


@contextlib.contextmanager
def running(directory: Path, *flags: str) -> Iterator[EtcdServer]:
    server = EtcdServer(directory, flags)
    try:
        server.start()
        yield server
    finally:
        server.kill()
