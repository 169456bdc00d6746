"""A containerd for tests: its root, state, socket, streams and CNI directories are all in one folder, and it leaves no trace.

Containers outlive it, as they must: `kill` and `start` again is what a package upgrade does. `remove` ends everything, by what
the kernel and the state directory say, so it also works when containerd is dead: each container's first process, then its shim
(whose command line names our socket), the sockets shims have in /run/containerd/s, mounts, and the folder.

The images come from no registry: `docker_archive` packs a root filesystem as `docker save` does, and `ctr image import` reads it.
Where the network namespace matters (streams listen on its 127.0.0.1, CNI plugins work from it), `enter` is the command that
enters it.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubelet.docker.pause import COMMAND, PAUSE_IMAGE, root_filesystem, static_busybox
from kubelet.exits import pidfd_of
from tests.dockerd import IMAGE, busybox_tar, unmount_below
from tests.requirements import requires, tool

_CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
  "io.containerd.internal.v1.restart",
]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/bin"
    conf_dir = "{folder}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{program}"
        Root = "{folder}/runc"
"""


@dataclass
class Containerd:
    folder: Path
    enter: Sequence[str] = ()
    program: str = "runc"
    process: "subprocess.Popen[bytes] | None" = None
    image: str = IMAGE

    @property
    def socket_path(self) -> str:
        return str(self.folder / "containerd.sock")

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def tasks(self) -> Path:
        return self.folder / "state/io.containerd.runtime.v2.task/k8s.io"

    def start(self) -> None:
        """Until its CRI service answers."""
        for name in ("bin", "net.d"):
            (self.folder / name).mkdir(exist_ok=True)
        loopback = self.folder / "bin" / "loopback"  # containerd calls it for every sandbox, whatever the network is
        if not loopback.exists():
            loopback.symlink_to(tool("loopback") or "/usr/lib/cni/loopback")
        config = self.folder / "config.toml"
        program = shutil.which(self.program) or self.program
        config.write_text(_CONFIG.format(folder=self.folder, pause=PAUSE_IMAGE, program=program))
        log = (self.folder / "containerd.log").open("ab")
        argv = [*self.enter, "containerd", "--config", str(config), "--log-level", "warn"]
        self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        log.close()
        end = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                text = (self.folder / "containerd.log").read_text(errors="replace")
                self.kill()
                raise RuntimeError(f"containerd does not start:\n{text[-3000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Its socket is there before its plugins are; `ctr version` waits for them."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket_path)
            asked = ["ctr", "--address", self.socket_path, "--timeout", "5s", "plugins", "ls", "id==cri"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            return " ok" in done.stdout
        return False

    def ctr(self, *argv: str) -> str:
        command = ["ctr", "--address", self.socket_path, "--namespace", "k8s.io", *argv]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def load_images(self) -> None:
        """The sandbox image and the busybox every test may run; they are the same bytes each time."""
        pause = root_filesystem(Path(static_busybox()).read_bytes())
        for name, layer, config in (
            (PAUSE_IMAGE, pause, {"Entrypoint": list(COMMAND), "StopSignal": "SIGKILL"}),
            (IMAGE, busybox_tar(), {"Env": ["PATH=/bin"], "Cmd": ["sh"]}),
        ):
            self.load(name, layer, config)

    def load(self, name: str, layer: bytes, config: dict[str, object]) -> None:
        archive = self.folder / "image.tar"
        archive.write_bytes(docker_archive(name, layer, config))
        self.ctr("image", "import", str(archive))
        archive.unlink()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """The daemon alone; containers and their shims live on."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        """Everything that is left of it."""
        self.kill(signal.SIGTERM)
        for task in self.tasks.glob("*"):
            with contextlib.suppress(OSError, ValueError):
                descriptor = pidfd_of(int((task / "init.pid").read_text()), task.name)
                if descriptor is not None:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    os.close(descriptor)
        end = time.monotonic() + 10
        while shims := self.shims():
            for pid in shims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                raise RuntimeError(f"shims survive SIGKILL: {shims}")
            time.sleep(0.02)
        for task in self.tasks.glob("*"):
            with contextlib.suppress(OSError):
                Path((task / "address").read_text().removeprefix("unix://")).unlink()
        unmount_below(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def shims(self) -> list[int]:
        """Process ids of the shims that serve this containerd."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"containerd-shim" in words[0] and self.socket_path.encode() in words:
                        found.append(int(entry.name))
        return found


def docker_archive(name: str, layer: bytes, config: dict[str, object]) -> bytes:
    """An image of one layer as `docker save` writes it; the same bytes for the same input."""
    digest = hashlib.sha256(layer).hexdigest()
    described = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    }
    text = json.dumps(described, sort_keys=True).encode()
    identity = hashlib.sha256(text).hexdigest()
    manifest = [{"Config": f"{identity}.json", "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        f"{identity}.json": text,
        f"{digest}/layer.tar": layer,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@contextlib.contextmanager
def private(enter: Sequence[str] = (), program: str = "runc") -> Iterator[Containerd]:
    """A containerd of one's own from start to end."""
    found = Containerd(Path(tempfile.mkdtemp(prefix="wherry-containerd-", dir="/var/tmp")), enter, program)
    try:
        found.start()
        found.load_images()
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """In the test run's own network namespace."""
    requires("root", "containerd", "loopback")
    with private() as found:
        yield found
