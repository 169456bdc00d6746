"""A dockerd for tests: the one $WHERRY_TEST_DOCKER_HOST names, or one of our own that leaves no trace.

Our own lives in a network namespace of its own, with no bridge and no iptables, its data on disk under /var/tmp and its socket
beside them; it is ended and removed with everything in it. The fixtures `dockerd` and `cgroup_parent` are imported by the
tiers' conftest, so that a tier has one dockerd and not one a module.

`Dockerd.image` is a busybox that every test may run; `Dockerd.cgroups` a cgroup parent that is removed afterwards.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from docker.api.client import APIClient

from kubelet.docker.pause import static_busybox
from kubelet.exits import pidfd_of
from linux import netns
from tests.leave_no_trace import LANE
from tests.requirements import requires

IMAGE = "wherry.local/busybox:dev"
_APPLETS = (
    "sh",
    "sleep",
    "cat",
    "echo",
    "true",
    "false",
    "id",
    "stat",
    "httpd",
    "nc",
    "wget",
    "ip",
    "ping",
    "tail",
    "stty",
    "kill",
)


@dataclass(frozen=True, slots=True)
class Dockerd:
    socket_path: str
    process: "subprocess.Popen[bytes] | None" = None  # None: somebody else's, not to be stopped or frozen
    image: str = IMAGE

    @property
    def host(self) -> str:
        return f"unix://{self.socket_path}"

    def client(self) -> APIClient:
        return APIClient(base_url=self.host, version="auto", timeout=60, num_pools=4)

    def load_image(self) -> None:
        """The busybox image, with an applet's name for each program tests call; made when missing."""
        client = self.client()
        try:
            if not client.images(name=IMAGE):
                name, _, tag = IMAGE.rpartition(":")
                client.import_image_from_data(busybox_tar(), repository=name, tag=tag)
        finally:
            client.close()


def busybox_tar() -> bytes:
    busybox = Path(static_busybox()).read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.mode, entry.size = 0o755, len(busybox)
        tar.addfile(entry, io.BytesIO(busybox))
        for applet in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return buffer.getvalue()


def start(folder: Path, namespace: str, enter: Sequence[str] = ()) -> Dockerd:
    """A dockerd whose files are all in `folder`, in a network namespace that exists; waits until it answers. `enter` is
    the command that enters more than that namespace."""
    socket_path = str(folder / "docker.sock")
    forget_dead(folder / "exec" / "containerd" / "containerd.pid")
    log = (folder / "dockerd.log").open("wb")
    argv = [
        *(enter or ("nsenter", f"--net=/run/netns/{namespace}")), "dockerd",
        "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--live-restore",
        "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "docker.pid"),
        "--exec-opt", "native.cgroupdriver=cgroupfs", "--host", f"unix://{socket_path}",
    ]  # fmt: skip
    process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    log.close()
    found = Dockerd(socket_path, process)
    end = time.monotonic() + 60
    while not _answers(found):
        if process.poll() is not None or time.monotonic() > end:
            text = (folder / "dockerd.log").read_text(errors="replace")
            stop(found)
            raise RuntimeError(f"dockerd does not start:\n{text[-3000:]}")
        time.sleep(0.05)
    return found


def forget_dead(pid_file: Path) -> None:
    """Remove the pid file of a process that is gone or a zombie: dockerd takes a zombie containerd for a living one and waits."""
    with contextlib.suppress(OSError):
        state = "gone"
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("gone", "Z", "X"):
            pid_file.unlink()


def kill_left(folder: Path) -> None:
    """End the containers that a dockerd which died before us has left, their shims with them, and what shims leave in
    /run/containerd/s."""
    for pid_file in (folder / "exec").glob("containerd/daemon/*/moby/*/init.pid"):
        descriptor = pidfd_of(int(pid_file.read_text() or 0), pid_file.parent.name)
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{folder}/exec/".encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    for address in (folder / "exec").glob("containerd/daemon/*/moby/*/address"):
        with contextlib.suppress(OSError):
            Path(address.read_text().removeprefix("unix://")).unlink()


def _answers(found: Dockerd) -> bool:
    request = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(found.socket_path)
        connection.sendall(request)
        return b" 200 " in connection.recv(64)
    return False


def stop(found: Dockerd) -> None:
    """Remove its containers, then end it and the containerd it started."""
    process = found.process
    if process is None:
        return
    if process.poll() is None:
        os.kill(process.pid, signal.SIGCONT)
        with contextlib.suppress(Exception):
            client = found.client()
            for row in client.containers(all=True):
                client.remove_container(row["Id"], force=True, v=True)
            client.close()
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def unmount_below(folder: Path) -> None:
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4] for line in table]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)


@contextlib.contextmanager
def private() -> Iterator[Dockerd]:
    """A dockerd of one's own from start to end."""
    folder = Path(tempfile.mkdtemp(prefix="wherry-dockerd-", dir="/var/tmp"))
    namespace = f"wd-{uuid.uuid4().hex[:8]}"
    netns.create(namespace)
    try:
        found = start(folder, namespace)
        try:
            found.load_image()
            yield found
        finally:
            stop(found)
    finally:
        kill_left(folder)
        netns.delete(namespace)
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    requires("root")
    given = os.environ.get("WHERRY_TEST_DOCKER_HOST", "")
    if given:
        found = Dockerd(given.removeprefix("unix://"))
        found.load_image()
        yield found
        return
    requires("dockerd", "nsenter", "netns")
    with private() as found:
        yield found


@contextlib.contextmanager
def a_cgroup_parent() -> Iterator[str]:
    """A cgroup parent for pods, below the mount of every controller; removed when the pods are gone."""
    name = f"/wherry-test-{os.environ.get(LANE, 'run')}-{uuid.uuid4().hex[:8]}"
    yield name
    for controller in Path("/sys/fs/cgroup").iterdir():
        remove_cgroups(controller / name.lstrip("/"))
    remove_cgroups(Path("/sys/fs/cgroup") / name.lstrip("/"))


@pytest.fixture
def cgroup_parent() -> Iterator[str]:
    with a_cgroup_parent() as name:
        yield name


def remove_cgroups(top: Path) -> None:
    if not top.is_dir() or top.is_symlink():
        return
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
