"""The Docker daemon a lab uses: the one that answers and lets its clients choose cgroups (our kubelet's driver is cgroupfs), or
one of the lab's own.

The own one runs in the lab's outer namespace with no bridge and no iptables (pods get their network from CNI), and with its
own data, exec root and socket, so it shares nothing with a dockerd that may be installed.

    python -m lab.dockerd STATE_DIRECTORY     becomes that dockerd, once no stale pid file is in its way
"""

import contextlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path

from kube.errors import UsageError

SYSTEM = "unix:///var/run/docker.sock"
SOCKET_PATH = 107  # bytes (unix(7))


def answering() -> str | None:
    """The endpoint of a Docker daemon that is there already: $DOCKER_HOST (unix sockets only) or the system's."""
    named = os.environ.get("DOCKER_HOST", "")
    for endpoint in (named, SYSTEM):
        if endpoint.startswith("unix://") and answers(endpoint):
            return endpoint
    return None


def answers(endpoint: str) -> bool:
    """Whether a Docker daemon answers at unix:///..."""
    return b"200 OK" in _asked(endpoint, "/_ping")[:256]


def cgroup_driver(endpoint: str) -> str:
    """`cgroupfs` or `systemd`, as the daemon says; "" when it does not say."""
    _, _, body = _asked(endpoint, "/info").partition(b"\r\n\r\n")
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return str(found.get("CgroupDriver", "")) if isinstance(found, dict) else ""


def _asked(endpoint: str, path: str) -> bytes:
    """The whole answer to a GET, head and body; nothing when nobody answers within 3 s."""
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(3.0)
            probe.connect(endpoint.removeprefix("unix://"))
            probe.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            while chunk := probe.recv(2**16):
                answer += chunk
    except OSError:
        pass
    return bytes(answer)


def own_endpoint(state: str) -> str:
    """Where the lab's own dockerd listens."""
    return f"unix://{os.path.join(state, 'docker.sock')}"


def placed(state: str) -> str:
    """`own_endpoint` of a dockerd that is to be started. A Unix socket's path has 107 bytes at most, and the deepest is that
    of the containerd that dockerd starts: a longer one would be waited for in vain. Raises UsageError."""
    deepest = os.path.join(state, "docker", "exec", "containerd", "containerd.sock.ttrpc")
    if len(os.fsencode(deepest)) > SOCKET_PATH:
        raise UsageError(f"{deepest}: too long for a socket path; choose a shorter --state-dir or lab name")
    return own_endpoint(state)


def own_argv(state: str) -> tuple[str, ...]:
    """dockerd and its options; raises UsageError where there is no dockerd."""
    program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/sbin")
    if not program:
        raise UsageError(
            "no Docker daemon answers and dockerd is not installed; apt-get install docker.io, or start yours"
        )
    home = Path(state, "docker")
    return (
        program,
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--live-restore",
        f"--data-root={home / 'data'}",
        f"--exec-root={home / 'exec'}",
        f"--pidfile={home / 'dockerd.pid'}",
        f"--host={own_endpoint(state)}",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        "--log-level=warn",
    )


def forget_dead(pid_file: Path) -> None:
    """Remove the pid file of a process that is gone or a zombie. A dockerd that was killed takes its containerd along, which
    stays a zombie where PID 1 reaps nobody; the next dockerd takes it for alive, waits 15 s for it and gives up."""
    with contextlib.suppress(OSError):
        pid, state = pid_file.read_text().strip(), "gone"
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in ("gone", "Z", "X"):
            pid_file.unlink()


def main() -> None:
    state = sys.argv[1]
    home = Path(state, "docker")
    for pid_file in (home / "dockerd.pid", home / "exec" / "containerd" / "containerd.pid"):
        forget_dead(pid_file)
    argv = own_argv(state)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
