"""Where a container's log is, beside the log itself.

    <podLogsDir>/<namespace>_<pod>_<uid>/<container>/<restart>.log        the log; rotated: .log.YYYYMMDD-HHMMSS[.gz]
    <dirname podLogsDir>/containers/<pod>_<namespace>_<container>-<id>.log  a link to it, which log collectors look for

The links are what the runtime's containers make them: `settle` adds those that are missing and removes ours that belong to no
container any more, so that a kubelet killed in between leaves none wrong for long. Others' links in the same directory
(those that lead elsewhere) are left alone. (Upstream: pkg/kubelet/kuberuntime/legacy.go.)
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable

from kubelet.runtime import PodIdentity, PodRecord

_LONGEST = 255 - len(".log")


def directory_of(pod_logs_dir: str) -> str:
    return os.path.join(os.path.dirname(pod_logs_dir.rstrip("/")), "containers")


def name_of(pod: PodIdentity, container: str, container_id: str) -> str:
    return f"{pod.name}_{pod.namespace}_{container}-{container_id}"[:_LONGEST] + ".log"


def settle(directory: str, pod_logs_dir: str, records: Iterable[PodRecord]) -> bool:
    """Whether that was all: False when a container has no log yet. Blocking. OSError when the directory cannot be
    written."""
    root = pod_logs_dir.rstrip("/")
    wanted, whole = {}, True
    for record in records:
        pod = record.pod
        home = f"{root}/{pod.namespace}_{pod.name}_{pod.uid}"
        for container in record.containers:
            log = f"{home}/{container.name}/{container.attempt}.log"
            if os.path.lexists(log):
                wanted[name_of(pod, container.name, container.id)] = log
            else:
                whole = False
    try:
        there = set(os.listdir(directory))
    except FileNotFoundError:
        there = set()
        if wanted:
            os.makedirs(directory, exist_ok=True)
            os.chmod(directory, 0o755)  # whatever our umask: a collector may be another user
    for name in there - wanted.keys():
        path = os.path.join(directory, name)
        if _target(path).startswith(root + "/"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    for name in wanted.keys() - there:
        with contextlib.suppress(FileExistsError):
            os.symlink(wanted[name], os.path.join(directory, name))
    return whole


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def rotated(log: str) -> list[str]:
    """Everything that was made of the log by rotating it, oldest first."""
    return sorted(glob.glob(glob.escape(log) + ".*"))


def erase(log: str) -> None:
    """The log of a container that is removed, and what was rotated away of it. Blocking."""
    for path in (*rotated(log), log):
        with contextlib.suppress(OSError):
            os.unlink(path)
