"""A lab's containers as its runtime has them (the Docker daemon of all nodes, or each node's containerd), and what of the runtime
is on the machine: shims, root filesystems."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.api.client import APIClient

from lab.network import inside
from linux import mounts
from tests.cluster.conftest import Lab

Json = dict[str, Any]

_SANDBOX = "podsandbox"
_TASKS = "run/containerd/io.containerd.runtime.v2.task/k8s.io"


@dataclass(frozen=True, slots=True)
class Container:
    """What its runtime says, and whose it is."""

    id: str
    running: bool
    pid: int
    started: str
    node: str
    pod: str
    """Its pod's uid."""
    name: str
    """Its name in the pod; "POD" for a sandbox."""
    sandbox: bool
    cgroup: str

    @property
    def netns(self) -> str:
        return f"/proc/{self.pid}/ns/net"


def containers(lab: Lab) -> list[Container]:
    """Every container of the lab, also those that have ended."""
    if lab.docker:
        return _of_docker(lab)
    return [found for node in lab.topology["nodes"] for found in _of_containerd(node)]


def shims(lab: Lab) -> list[str] | None:
    """The ids that the lab's shims were started for; None where the shims are not the lab's to judge."""
    if lab.docker and not lab.topology["lab"]["own_docker"]:
        return None
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "containerd-shim" in argv[0] and "-id" in argv and _ours(lab, entry, argv):
                    found.append(argv[argv.index("-id") + 1])
    return found


def _ours(lab: Lab, process: Path, argv: list[str]) -> bool:
    if lab.docker:
        return any(word.startswith(f"{lab.state}/docker/exec/") for word in argv)
    return f"/wherry/{lab.name}/" in (process / "cgroup").read_text()


def roots(lab: Lab) -> int | None:
    """How many root filesystems are mounted; None where they are not the lab's to judge."""
    if not lab.docker:
        return sum(
            1
            for node in lab.topology["nodes"]
            for mount in node_mounts(node)
            if mount.kind == "overlay" and mount.point.startswith(f"/{_TASKS}/")
        )
    if not lab.topology["lab"]["own_docker"]:
        return None
    return len([m for m in mounts.below(f"{lab.state}/docker/data") if m.point.endswith("/merged")])


def node_mounts(node: Json) -> tuple[mounts.Mount, ...]:
    """The mounts that a node of the topology sees."""
    argv = [*inside(node["namespace"], node["spaces"]), "cat", "/proc/self/mountinfo"]
    return mounts.parse(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout)


# --- Docker -----------------------------------------------------------------------------------------------------------


def _of_docker(lab: Lab) -> list[Container]:
    top = f"/wherry/{lab.name}/"
    client = APIClient(base_url=lab.docker, version="auto", timeout=30)
    try:
        rows = client.containers(all=True, filters={"label": "io.wherry.node"})
        seen = [entry for row in rows if (entry := _inspected(client, row["Id"])) is not None]
    finally:
        client.close()
    return [_container(entry) for entry in seen if entry["HostConfig"]["CgroupParent"].startswith(top)]


def _inspected(client: APIClient, identity: str) -> Json | None:
    import docker.errors

    try:
        found: Json = client.inspect_container(identity)
    except docker.errors.NotFound:  # removed in between
        return None
    return found


def _container(entry: Json) -> Container:
    labels: Mapping[str, str] = entry["Config"]["Labels"]
    return Container(
        id=entry["Id"],
        running=bool(entry["State"]["Running"]),
        pid=int(entry["State"]["Pid"]),
        started=str(entry["State"]["StartedAt"]),
        node=labels["io.wherry.node"],
        pod=labels["io.kubernetes.pod.uid"],
        name=labels["io.kubernetes.container.name"],
        sandbox=labels["io.kubernetes.docker.type"] == _SANDBOX,
        cgroup=entry["HostConfig"]["CgroupParent"],
    )


# --- containerd -------------------------------------------------------------------------------------------------------


def _of_containerd(node: Json) -> Iterator[Container]:
    for name in _ctr(node, "containers", "ls", "--quiet").split():
        with contextlib.suppress(subprocess.CalledProcessError):  # removed in between
            entry: Json = json.loads(_ctr(node, "containers", "info", name))
            labels: Mapping[str, str] = entry["Labels"]
            sandbox = labels["io.cri-containerd.kind"] == "sandbox"
            pid, started = _process(Path(node["state"], _TASKS, name, "init.pid"))
            yield Container(
                id=name,
                running=pid > 0,
                pid=pid,
                started=started,
                node=node["name"],
                pod=labels["io.kubernetes.pod.uid"],
                name="POD" if sandbox else labels["io.kubernetes.container.name"],
                sandbox=sandbox,
                cgroup=str(Path(entry["Spec"]["linux"]["cgroupsPath"]).parent),
            )


def _ctr(node: Json, *words: str) -> str:
    argv = ["ctr", f"--address={node['state']}/run/containerd/containerd.sock", "--namespace=k8s.io", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def _process(file: Path) -> tuple[int, str]:
    """A task's first process and the moment it was started; no process when it has ended."""
    try:
        pid, started = int(file.read_text()), str(file.stat().st_mtime_ns)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0, ""
    return (0, started) if state in "ZX" else (pid, started)
