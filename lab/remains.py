"""Taking down what a lab left: processes, containers, mounts, cgroups, namespaces, files.

Nothing here trusts a file: processes are found by their namespace and their cgroup, containers by their cgroup's parent,
mounts and mount namespaces by their path, cgroups by theirs. Each step is harmless when there is nothing to do.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kube.errors import UsageError
from lab import dockerd, mounts, network, supervisor
from lab.model import STATE
from linux import mounts as kernel

_LABEL = "io.wherry.node"
_CGROUPS = Path("/sys/fs/cgroup")


def clear(name: str, state: str, *, docker: str | None) -> None:
    """Everything but the files."""
    names = network.namespaces_of(name)
    nodes = [n for n in names if n != f"wherry-{name}"]
    if supervisor.ask(state, {"order": "quiet"}) is None:
        _kill_supervisor(
            name
        )  # it may live and not hear us (its socket is gone, it is stopped): it would start all again
    kill_groups(
        f"/wherry/{name}"
    )  # containers and their shims: few of them heed a SIGTERM, and nothing of them is kept
    network.end(nodes)
    for endpoint in {docker, dockerd.own_endpoint(state), dockerd.answering(), *_endpoints(state)}:
        if endpoint and dockerd.answers(endpoint):
            remove_containers(endpoint, f"/wherry/{name}")
    supervisor.ask(state, {"order": "down"})
    network.end(names)
    kill_groups(f"/wherry/{name}")
    mounts.unmake(state)
    _unmount(state)
    _remove_cgroups(f"/wherry/{name}")
    network.unmake(name)
    for run in Path(state).glob("node*/run"):  # as a reboot would: containerd's state is that of containers now gone
        kernel.remove_tree(str(run))


def _endpoints(state: str) -> set[str]:
    """The Docker daemons that the lab's kubelets were told to use, for when nobody else remembers."""
    found: set[str] = set()
    for path in Path(state).glob("node*/kubelet.yaml"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            scheme, _, socket = json.loads(_read(path))["containerRuntimeEndpoint"].partition("://")
            if scheme == "docker":
                found.add(f"unix://{socket}")
    return found


def _kill_supervisor(name: str) -> None:
    for pid in network.processes_in([f"wherry-{name}"]):
        if "\0lab.supervisor\0" in _read(Path(f"/proc/{pid}/cmdline")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def remove_containers(docker: str, cgroup: str) -> None:
    """Remove every container that runs, or ran, below a cgroup: a lab's (/wherry/<lab>) or a node's."""
    for client, container in _containers(docker, cgroup):
        with contextlib.suppress(_refused()):
            client.remove_container(container["Id"], force=True, v=True)


def kill_containers(docker: str, cgroup: str) -> None:
    """Kill every running container below a cgroup, as a power cut would."""
    for client, container in _containers(docker, cgroup):
        if container["State"]["Running"]:
            with contextlib.suppress(_refused()):
                client.kill(container["Id"])


def _refused() -> type[Exception]:
    import docker.errors

    found: type[Exception] = docker.errors.APIError
    return found


def _containers(endpoint: str, cgroup: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The client, and what `docker inspect` says. Labels name the node, and another lab on the same dockerd has a node of
    that name; the cgroup's parent is this lab's alone."""
    import docker

    client = docker.APIClient(base_url=endpoint, timeout=60)
    try:
        for row in client.containers(all=True, filters={"label": _LABEL}):
            with contextlib.suppress(_refused()):
                container = client.inspect_container(row["Id"])
                if container["HostConfig"]["CgroupParent"].startswith(f"{cgroup}/"):
                    yield client, container
    finally:
        client.close()


def _groups(cgroup: str) -> list[Path]:
    """A cgroup's directory in every hierarchy there is."""
    roots = [_CGROUPS, *(_CGROUPS.iterdir() if _CGROUPS.is_dir() else [])]
    found = [root / cgroup.lstrip("/") for root in roots if not root.is_symlink()]
    return [group for group in found if group.is_dir()]


def kill_groups(cgroup: str) -> None:
    """Kill all that runs in a lab's cgroup (/wherry/<lab>) or a node's: containers, and containerd's shims."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        pids = {
            int(pid)
            for group in _groups(cgroup)
            for folder, _, _ in os.walk(group)  # which does not mind that groups vanish meanwhile
            for pid in _read(Path(folder, "cgroup.procs")).split()
        } - {0}  # a process of another pid namespace shows as 0, and kill(0) would be ourselves
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _remove_cgroups(cgroup: str) -> None:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        for group in _groups(cgroup):
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            with contextlib.suppress(OSError):
                group.parent.rmdir()  # /wherry itself, when this was its last lab
        if not _groups(cgroup):
            return
        time.sleep(0.05)


def _unmount(state: str) -> None:
    for mount in sorted(kernel.below(state), key=lambda m: len(m.point), reverse=True):
        kernel.unmount(mount.point, lazy=True)


def remove_state(state: str) -> None:
    """Remove the lab's files; refused while anything is still mounted below, so that no mounted data is deleted."""
    left = kernel.below(state)
    if left:
        raise UsageError(f"{left[0].point} is still mounted; unmount it and run `wherry lab down` again")
    try:
        shutil.rmtree(state)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}; remove it and run `wherry lab down` again") from error
    if os.path.dirname(state) == STATE:  # folders of our own making, when this was the last lab; never the user's
        for folder in (STATE, os.path.dirname(STATE)):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
