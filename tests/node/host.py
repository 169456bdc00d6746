"""A host of one's own: a network and a mount namespace in which `wherry install` lays out `/` and units run as systemd runs them.

    network   eth0 10.200.0.11/24, on a wire that ends here
    mounts    /etc (a copy), /opt, /var/lib, /var/log and /run are the test's own; everything else is the machine's

There is no systemd in a container, so `Host.start` does by hand what it does with a unit: the sandbox (ProtectSystem=strict with
ReadWritePaths, StateDirectory and RuntimeDirectory, ProtectHome, PrivateTmp, PrivateDevices, ProtectKernelTunables,
ProtectControlGroups), UMask, exactly the capabilities of CapabilityBoundingSet, NoNewPrivileges, a clean environment and a
NOTIFY_SOCKET. What needs seccomp (the Restrict... lines) is not imitated.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from kube.client import Client, Connection
from linux import netns
from tests import dockerd
from tests.dockerd import Dockerd

T = TypeVar("T")

ADDRESS = "10.200.0.11"
BIN = Path(sys.prefix, "bin")
_OWN = ("etc", "opt", "var/lib", "var/log", "run")
_CREDENTIALS = struct.Struct("3i")


def until(condition: Callable[[], T], what: Callable[[], str] | str, seconds: float = 30.0) -> T:
    """The first true answer; a failure says what did not come."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.05)
    return answer


class Unit:
    """A unit file's [Service] section, as far as it is imitated."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._lines = [line.partition("=") for line in path.read_text().splitlines() if re.match(r"\w+=", line)]

    def __getitem__(self, key: str) -> str:
        return " ".join(value for name, _, value in self._lines if name == key)

    def has(self, key: str) -> bool:
        return any(name == key for name, _, _ in self._lines)

    @property
    def command(self) -> list[str]:
        return shlex.split(self["ExecStart"])

    @property
    def capabilities(self) -> list[str] | None:
        """Lower-case names without `cap_`; None when the unit does not bound them."""
        if not self.has("CapabilityBoundingSet"):
            return None
        return [name.lower().removeprefix("cap_") for name in self["CapabilityBoundingSet"].split()]

    def script(self) -> str:
        """Shell that makes the unit's view of the file system; runs in a mount namespace of its own."""
        made = [f"/var/lib/{d}" for d in self["StateDirectory"].split()]
        made += [f"/run/{d}" for d in self["RuntimeDirectory"].split()]
        lines = ["set -eu", f"umask {self['UMask'] or '0022'}", *(f"mkdir -p -m 755 {path}" for path in made)]
        if self["PrivateTmp"] == "yes":
            lines += ["mount -t tmpfs -o mode=1777 tmp /tmp", "mount -t tmpfs -o mode=1777 tmp /var/tmp"]
        if self["ProtectHome"] in ("yes", "true"):
            lines += [f"mount -t tmpfs -o mode=000 home {path}" for path in ("/home", "/root")]
        if self["PrivateDevices"] == "yes":
            lines += [
                "mount -t tmpfs dev /mnt",
                "cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /mnt",
                "mkdir /mnt/shm",
                "mount --rbind /dev/shm /mnt/shm",
                "mount --move /mnt /dev",
            ]
        writable = [*made, *self["ReadWritePaths"].split()]
        tunables = ["/proc/sys", "/sys"] if self["ProtectKernelTunables"] == "yes" else []
        tunables += ["/sys/fs/cgroup"] if self["ProtectControlGroups"] == "yes" else []
        lines += [f"mount --bind {path} {path}" for path in (*writable, *tunables)]
        lines += [f"mount -o remount,bind,ro {path}" for path in tunables]
        if self["ProtectSystem"] == "strict":
            keep = "|".join([*(f"{p}|{p}/*" for p in (*writable, "/tmp", "/var/tmp", "/proc", "/sys", "/dev"))])
            lines += [
                "cut -d' ' -f5 /proc/self/mountinfo | while read -r point; do",
                f'  case "$point" in {keep}) ;; *) mount -o remount,bind,ro "$point" 2>/dev/null || true;; esac',
                "done",
                'if touch /usr/written 2>/dev/null; then rm /usr/written; echo "this sandbox is none" >&2; exit 97; fi',
            ]
        return "\n".join([*lines, 'exec "$@"'])

    def argv(self) -> list[str]:
        """Everything between entering the host's namespaces and the daemon."""
        words = ["unshare", "--mount", "--propagation", "private", "bash", "-c", self.script(), self.name]
        if self.capabilities is not None:
            bound = ",".join(["-all", *(f"+{name}" for name in self.capabilities)])
            words += ["setpriv", f"--bounding-set={bound}", "--inh-caps=-all"]
            words += ["--no-new-privs"] if self["NoNewPrivileges"] == "yes" else []
            words.append("--")
        return words


class Service:
    """A started unit or command: its process, its log, and what it has told its supervisor."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path, notices: socket.socket) -> None:
        self.name, self._popen, self._log, self._notices = name, popen, log, notices
        self._told: list[tuple[int, str]] = []
        self._listener = threading.Thread(target=self._listen, name=f"notices of {name}")
        self._listener.start()

    def _listen(self) -> None:
        """Read on, as systemd does: a full socket would hold the daemon up."""
        while True:
            text, ancillary, _, _ = self._notices.recvmsg(4096, 256)
            if not text:
                return
            pid = next((_CREDENTIALS.unpack(data)[0] for _, _, data in ancillary), 0)
            self._told.append((pid, text.decode()))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def told(self) -> list[str]:
        """What the main process has said, in order; NotifyAccess=main ignores everybody else."""
        return [text for pid, text in self._told if pid == self.pid]

    def ready(self, seconds: float = 60.0) -> "Service":
        def said() -> bool:
            assert self.alive, f"{self.name} ended with {self._popen.returncode}:\n{self.log[-4000:]}"
            return "READY=1" in self.told()

        until(said, lambda: f"{self.name} says READY=1\n{self.log[-4000:]}", seconds)
        return self

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20.0) -> int:
        """The exit status after a signal."""
        if self.alive:
            os.kill(self.pid, number)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(10)
            raise AssertionError(
                f"{self.name} lives {seconds:g} s after signal {number}:\n{self.log[-4000:]}"
            ) from None

    def wait(self, seconds: float = 30.0) -> int:
        return self._popen.wait(seconds)

    def close(self) -> None:
        if self.alive:
            self._popen.kill()
            self._popen.wait(10)
        self._notices.shutdown(socket.SHUT_RD)
        self._listener.join(10)
        self._notices.close()


class Host:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.space = f"wt-host-{uuid.uuid4().hex[:6]}"
        self._services: list[Service] = []
        self.docker: Dockerd | None = None
        for path in _OWN:
            (home / path).mkdir(parents=True)
        shutil.copytree("/etc", home / "etc", symlinks=True, dirs_exist_ok=True, ignore=_foreign)
        netns.create(self.space)
        try:
            self._keeper = self._keep()
        except BaseException:
            netns.delete(self.space)
            raise

    def wire(self) -> None:
        for words in (
            "ip link set lo up",
            "ip link add eth0 type veth peer name wire0",
            "ip link set wire0 up",
            f"ip addr add {ADDRESS}/24 dev eth0",
            "ip link set eth0 up",
            "ip route add default dev eth0",
        ):
            self.run(*words.split())

    def _keep(self) -> "subprocess.Popen[bytes]":
        """The process that holds the mount namespace."""
        binds = "; ".join(f"mount --bind {self.home / path} /{path}" for path in _OWN)
        keeper = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{self.space}"),
                *("unshare", "--mount", "--propagation", "private", "bash", "-ec"),
                f"{binds}; echo made; exec sleep infinity",
            ],
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout
        assert keeper.stdout.readline() == b"made\n", "the host's mount namespace"
        return keeper

    def path(self, inside: str) -> Path:
        """Where a file of the host lies on the machine."""
        return self.home / inside.lstrip("/")

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        return ["nsenter", f"--target={self._keeper.pid}", "--mount", "--net", "--", *map(str, argv)]

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 60.0) -> str:
        """A program's stdout and stderr."""
        done = subprocess.run(
            self.inside(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{argv}: exit {done.returncode}: {done.stdout}"
        return done.stdout

    def install(self) -> None:
        """A server and a node on it, by the commands that docs/install.md names."""
        self.run(BIN / "wherry", "install", "server", "--address", ADDRESS, "--node", f"node1={ADDRESS}")
        self.run(BIN / "wherry", "install", "agent", "--bundle", "/etc/wherry/bundles/node1.tar")

        path = self.path("etc/wherry/kubelet.yaml")  # an edited file, which a second installation keeps
        path.write_text(json.dumps({**json.loads(path.read_text()), "cgroupRoot": f"/{self.space}"}))
        self._export_admin()

    def _export_admin(self) -> None:
        connection = Connection.from_kubeconfig(str(self.path("etc/wherry/admin.kubeconfig")))
        assert connection.certificate
        assert connection.key
        self.identity.write_bytes(connection.certificate + connection.key)

    @property
    def identity(self) -> Path:
        """The administrator's certificate and key, PEM."""
        return self.home / "admin.pem"

    def start_docker(self) -> Dockerd:
        """A dockerd on this host, at its usual socket."""
        folder = self.home / "docker"
        folder.mkdir()
        self.docker = dockerd.start(folder, self.space, self.inside([]))
        self.docker.load_image()
        self.path("run/docker.sock").touch()
        self.run("mount", "--bind", folder / "docker.sock", "/run/docker.sock")
        return self.docker

    def api(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        """A conversation with the API server, on the host."""

        async def talk() -> T:
            connection = Connection.from_kubeconfig(str(self.path("etc/wherry/admin.kubeconfig")))
            async with Client(connection, timeout=10) as client:
                return await ask(client)

        return netns.call(f"/run/netns/{self.space}", lambda: asyncio.run(talk()))

    def unit(self, name: str) -> Unit:
        return Unit(self.path(f"etc/systemd/system/{name}.service"))

    def start(self, name: str, *flags: str, watchdog: float = 1.0) -> Service:
        """A unit, sandboxed as it says."""
        unit = self.unit(name)
        return self._spawn(name, [*unit.argv(), *unit.command, *flags], watchdog)

    def command(self, *argv: str | Path, watchdog: float = 1.0) -> Service:
        """A command that runs on, without a sandbox."""
        return self._spawn(" ".join(Path(word).name for word in argv[:2]), argv, watchdog)

    def _spawn(self, name: str, argv: Sequence[str | Path], watchdog: float) -> Service:
        mark = f"{name.replace(' ', '-')}-{len(self._services)}"
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notices.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        notices.bind(str(self.path(f"run/{mark}.notify")))
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": f"/run/{mark}.notify",
            "WATCHDOG_USEC": str(int(watchdog * 1e6)),
        }
        log = self.home / f"{mark}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                self.inside(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd="/"
            )
        service = Service(name, popen, log, notices)
        self._services.append(service)
        return service

    def get(self, url: str) -> tuple[int, str]:
        """Status and body of a URL asked on the host; status 0 when nobody answers."""
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.load_cert_chain(self.identity)

        def ask() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(url, timeout=10, context=tls) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError as error:
                return 0, str(error)

        return netns.call(f"/run/netns/{self.space}", ask)

    def close(self) -> None:
        for service in reversed(self._services):
            service.close()
        if self.docker:
            dockerd.stop(self.docker)
            dockerd.kill_left(self.home / "docker")
        for controller in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            dockerd.remove_cgroups(controller / self.space)
        self._keeper.kill()
        self._keeper.wait(10)
        assert self._keeper.stdout
        self._keeper.stdout.close()
        netns.delete(self.space)


def _foreign(folder: str, names: list[str]) -> list[str]:
    """What of /etc the host does not get: another installation's files, and sockets."""
    return [name for name in names if folder == "/etc" and name in ("wherry", "cni", "kubernetes")]


@contextlib.contextmanager
def host() -> Iterator[Host]:
    home = Path(tempfile.mkdtemp(prefix="wherry-host-", dir="/var/tmp"))
    try:
        made = Host(home)
        try:
            made.wire()
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
