"""What is there: containers from Docker's labels or containerd's files, the machine from psutil, block devices and interfaces
from /proc."""

import logging
import os
import platform
import re
import threading
from collections.abc import Mapping
from typing import Any

import orjson
import psutil

from metrics.model import FileSystem, Identity, Interface, Machine

log = logging.getLogger(__name__)

_NODE = "io.wherry.node"
_KUBERNETES = "io.kubernetes."
_SANDBOX_NAME = "POD"


def identity(container_id: str, name: str, image: str, labels: Mapping[str, str], started: float | None) -> Identity:
    """A container from what its runtime says of it; the labels are those every kubelet sets."""
    container = labels.get(f"{_KUBERNETES}container.name", "")
    kind = labels.get(f"{_KUBERNETES}docker.type", "")
    sandbox = kind == "podsandbox" or container == _SANDBOX_NAME or name.startswith(f"k8s_{_SANDBOX_NAME}_")
    return Identity(
        id=container_id,
        name=name,
        image=image,
        pod=labels.get(f"{_KUBERNETES}pod.name", ""),
        namespace=labels.get(f"{_KUBERNETES}pod.namespace", ""),
        container="" if sandbox else container,
        pod_uid=labels.get(f"{_KUBERNETES}pod.uid", ""),
        sandbox=sandbox,
        started=started,
    )


class DockerIdentities:
    """The running containers of one Docker daemon, by id. Blocking: call it in a thread.

    While Docker does not answer, the containers last known keep their names; their cgroups say whether they still run.
    """

    def __init__(self, endpoint: str, node: str = "", timeout: int = 5) -> None:
        self._endpoint = endpoint
        self._node = node
        self._timeout = timeout
        self._lock = threading.Lock()
        self._known: dict[str, Identity] = {}
        self._client: Any = None
        self.error = ""

    def __call__(self) -> Mapping[str, Identity]:
        with self._lock:
            try:
                self._known = self._read()
                self.error = ""
            except OSError as error:  # requests' and docker's connection errors are OSErrors
                if self._client is not None:
                    self._client.close()
                self._client = None
                if not self.error:
                    log.warning("Docker at %s: %s; containers go without names until it answers", self._endpoint, error)
                self.error = f"Docker at {self._endpoint}: {error}; start it, or name its socket with --docker"
            return self._known

    def _read(self) -> dict[str, Identity]:
        import docker

        try:
            if self._client is None:
                self._client = docker.APIClient(base_url=self._endpoint, timeout=self._timeout)
            wanted = {"label": f"{_NODE}={self._node}"} if self._node else {}
            listed = self._client.containers(filters=wanted)
        except docker.errors.DockerException as error:
            raise OSError(str(error)) from error
        found = {}
        for entry in listed:
            name = (entry["Names"] or [""])[0].lstrip("/")
            found[entry["Id"]] = identity(
                entry["Id"], name, entry["Image"], entry["Labels"] or {}, float(entry.get("Created") or 0) or None
            )
        return found


class ContainerdIdentities:
    """The containers of a containerd, by id, as its CRI service wrote them down when it made them: the OCI configuration of
    each task, below `<state>/io.containerd.runtime.v2.task/k8s.io`. No question is asked of containerd: a scrape costs it
    nothing, and names are there while it restarts. Blocking: call it in a thread."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._tasks = f"{state}/io.containerd.runtime.v2.task/k8s.io"
        self._lock = threading.Lock()
        self._known: dict[str, Identity] = {}
        self.error = ""

    def __call__(self) -> Mapping[str, Identity]:
        with self._lock:
            there = os.path.isdir(self._state)
            self.error = "" if there else f"no directory {self._state}; start containerd, or name it with --containerd"
            tasks = os.listdir(self._tasks) if os.path.isdir(self._tasks) else []  # made with the first pod
            seen = {task: self._known.get(task) or _described(task, f"{self._tasks}/{task}") for task in tasks}
            self._known = {task: found for task, found in seen.items() if found is not None}
            return self._known


_CRI = "io.kubernetes.cri."


def _described(container: str, bundle: str) -> Identity | None:
    """None while the task is being made, and when it has just gone."""
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            notes = orjson.loads(file.read()).get("annotations") or {}
        started = os.stat(f"{bundle}/init.pid").st_mtime
    except (OSError, ValueError):
        return None
    sandbox = notes.get(f"{_CRI}container-type") == "sandbox"
    return Identity(
        id=container,
        name=container,
        image=notes.get(f"{_CRI}image-name", ""),
        pod=notes.get(f"{_CRI}sandbox-name", ""),
        namespace=notes.get(f"{_CRI}sandbox-namespace", ""),
        container="" if sandbox else notes.get(f"{_CRI}container-name", ""),
        pod_uid=notes.get(f"{_CRI}sandbox-uid", ""),
        sandbox=sandbox,
        started=started,
    )


def machine() -> Machine:
    memory = psutil.virtual_memory().total
    return Machine(
        cores=psutil.cpu_count() or 1,
        physical_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        memory_bytes=memory,
        swap_bytes=psutil.swap_memory().total,
        kernel=platform.release(),
        system=_system(),
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def filesystems() -> tuple[FileSystem, ...]:
    """Each block device that is mounted, once."""
    found: dict[str, FileSystem] = {}
    for partition in psutil.disk_partitions(all=False):
        if partition.device in found or not partition.device.startswith("/dev/"):
            continue
        try:
            status = os.statvfs(partition.mountpoint)
        except OSError:
            continue
        total = status.f_blocks * status.f_frsize
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        found[partition.device] = FileSystem(partition.device, total, used, status.f_files, status.f_ffree)
    return tuple(found.values())


def devices() -> dict[str, str]:
    """Names of block devices by `major:minor`."""
    found: dict[str, str] = {}
    try:
        with open("/proc/partitions") as table:
            for line in table:
                words = line.split()
                if len(words) == 4 and words[0].isdigit():
                    found[f"{words[0]}:{words[1]}"] = f"/dev/{words[3]}"
    except OSError:
        pass
    return found


_COUNTERS = re.compile(r"^\s*([^:\s]+):\s*(.*)$", re.MULTILINE)


def interfaces(pid: int) -> tuple[Interface, ...]:
    """The interfaces of the network namespace that process `pid` is in, without loopback; none when it is gone."""
    try:
        with open(f"/proc/{pid}/net/dev") as table:
            content = table.read()
    except OSError:
        return ()
    return parse_interfaces(content)


def parse_interfaces(content: str) -> tuple[Interface, ...]:
    """/proc/net/dev: eight receive counters, then eight transmit counters (proc(5))."""
    found = []
    for name, rest in _COUNTERS.findall(content):
        values = [int(word) for word in rest.split() if word.isdigit()]
        if name == "lo" or len(values) < 16:
            continue
        found.append(
            Interface(name, values[0], values[1], values[2], values[3], values[8], values[9], values[10], values[11])
        )
    return tuple(found)


def first_process(procs: str | None) -> int | None:
    """The first pid of a cgroup.procs file's content."""
    word = (procs or "").split(maxsplit=1)
    return int(word[0]) if word and word[0].isdigit() else None
