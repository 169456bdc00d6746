"""The runtimes a node test runs on, seen past the kubelet: what runs according to the runtime itself, and ways to hurt it.

An engine is Docker or containerd with what a test needs of it. Docker's may be the tier's shared one (`docker`), which nobody
hurts; an engine that a test freezes, kills or starts again is the test's own (`own`). A containerd is always the test's own: it
lives in the node's network namespace, where its CNI plugins work and its streams listen.

Rows come from the runtime's labels (Docker) or from the bundles of its tasks (containerd: they are there when the daemon is
not); a sandbox's container name is POD, as its labels have it.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from docker.errors import APIError

from kubelet.runtime import CONTAINER_NAME, NODE, POD_NAME, POD_UID
from tests import containerd, dockerd
from tests.bench.kubelet import network
from tests.conftest import Netns
from tests.containerd import Containerd
from tests.dockerd import Dockerd
from tests.requirements import requires

SANDBOX = "POD"
NAMES = ("docker", "containerd")


@dataclass(frozen=True, slots=True)
class Row:
    """A container that runs."""

    id: str
    pod: str
    uid: str
    container: str
    pid: int

    @property
    def sandbox(self) -> bool:
        return self.container == SANDBOX


class Engine(Protocol):
    name: str

    @property
    def endpoint(self) -> str:
        """The kubelet's containerRuntimeEndpoint."""

    @property
    def socket_path(self) -> str: ...
    def prepare(self, folder: Path) -> None:
        """Networks for the node whose files are in `folder`."""

    def running(self, node: str) -> list[Row]: ...
    def everything(self, node: str) -> set[str]:
        """Ids of all there is of the node, ended ones too."""

    def clean(self, node: str) -> None:
        """Remove what a failed test left."""

    def signal(self, number: signal.Signals) -> None:
        """To the daemon, which must be the test's own."""

    def kill(self) -> None:
        """The daemon is killed; containers run on."""

    def start(self) -> None: ...


@dataclass
class DockerEngine:
    found: Dockerd
    folder: Path | None = None  # of a dockerd of one's own
    namespace: str = ""
    name: str = "docker"

    @property
    def socket_path(self) -> str:
        return self.found.socket_path

    @property
    def endpoint(self) -> str:
        return f"docker://{self.found.socket_path}"

    def prepare(self, folder: Path) -> None:
        network(folder)

    def running(self, node: str) -> list[Row]:
        client = self.found.client()
        rows = []
        try:
            for row in client.containers(filters={"label": f"{NODE}={node}"}):
                labels = row["Labels"]
                with suppress(APIError):  # gone in between
                    pid = client.inspect_container(row["Id"])["State"]["Pid"]
                    rows.append(Row(row["Id"], labels[POD_NAME], labels[POD_UID], labels[CONTAINER_NAME], pid))
        finally:
            client.close()
        return [row for row in rows if row.pid]

    def everything(self, node: str) -> set[str]:
        client = self.found.client()
        try:
            return {row["Id"] for row in client.containers(all=True, filters={"label": f"{NODE}={node}"})}
        finally:
            client.close()

    def clean(self, node: str) -> None:
        client = self.found.client()
        for identity in self.everything(node):
            with suppress(APIError):  # gone, or on its way: the kubelet was at it
                client.remove_container(identity, force=True, v=True)
        client.close()

    def signal(self, number: signal.Signals) -> None:
        assert self.folder is not None, "the tier's dockerd is everybody's"
        assert self.found.process is not None
        self.found.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.found.process is not None
        self.found.process.wait(15)

    def start(self) -> None:
        assert self.folder is not None
        self.found = dockerd.start(self.folder, self.namespace)


@dataclass
class ContainerdEngine:
    found: Containerd
    name: str = "containerd"
    _prepared: list[Path] = field(default_factory=list)

    @property
    def socket_path(self) -> str:
        return self.found.socket_path

    @property
    def endpoint(self) -> str:
        return self.found.endpoint

    def prepare(self, folder: Path) -> None:
        """The plugins first: containerd loads a configuration when it sees it."""
        network(folder)
        for plugin in (folder / "bin").iterdir():
            place = self.found.folder / "bin" / plugin.name
            place.unlink(missing_ok=True)  # a link to the distribution's loopback is not to be written through
            shutil.copy(plugin, place)
        for conf in (folder / "net.d").iterdir():
            shutil.copy(conf, self.found.folder / "net.d" / conf.name)

    def running(self, node: str) -> list[Row]:
        rows = []
        for bundle in self.found.tasks.glob("*"):
            with suppress(OSError, ValueError, KeyError):
                said = json.loads((bundle / "config.json").read_text())["annotations"]
                pid = int((bundle / "init.pid").read_text())
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                prefix = "io.kubernetes.cri"
                kind = said[f"{prefix}.container-type"]
                container = SANDBOX if kind == "sandbox" else said[f"{prefix}.container-name"]
                if state not in ("Z", "X"):
                    name, uid = said[f"{prefix}.sandbox-name"], said[f"{prefix}.sandbox-uid"]
                    rows.append(Row(bundle.name, name, uid, container, pid))
        return rows

    def everything(self, node: str) -> set[str]:
        return set(self.found.ctr("containers", "ls", "--quiet").split())

    def clean(self, node: str) -> None:
        """With the whole of it, when the test's containerd goes."""

    def signal(self, number: signal.Signals) -> None:
        assert self.found.process is not None
        self.found.process.send_signal(number)

    def kill(self) -> None:
        self.found.kill()

    def start(self) -> None:
        self.found.start()


def shared(found: Dockerd) -> DockerEngine:
    return DockerEngine(found)


@contextlib.contextmanager
def own(name: str, node: Netns) -> Iterator[Engine]:
    """A runtime of the test's own, in the node's network namespace."""
    requires("root", "netns", "nsenter", "dockerd" if name == "docker" else "containerd")
    if name == "containerd":
        with containerd.private(enter=["nsenter", f"--net={node.path}"]) as found:
            yield ContainerdEngine(found)
        return
    folder = Path(tempfile.mkdtemp(prefix="wherry-dockerd-", dir="/var/tmp"))
    engine = None
    try:
        started = dockerd.start(folder, node.name)
        engine = DockerEngine(started, folder, node.name)
        started.load_image()
        yield engine
    finally:
        if engine is not None:
            dockerd.stop(engine.found)
        dockerd.kill_left(folder)
        dockerd.unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def end(row: Row, number: signal.Signals = signal.SIGKILL) -> None:
    """A container's first process ends, as if by itself."""
    with suppress(ProcessLookupError):
        os.kill(row.pid, number)
