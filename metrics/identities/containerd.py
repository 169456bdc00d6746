"""containerd's containers, as it wrote them down when it made them: the OCI configuration of each task, below
`<state>/io.containerd.runtime.v2.task/<namespace>`. No question is asked of containerd: a scrape costs it nothing, and names
are there while it restarts. Docker's (`moby`) are left to Docker, which knows their names. A sandbox's image is written down
since version 2; before, it is empty."""

import os
import threading
from collections.abc import Iterable, Mapping

import orjson

from metrics.identities import Bundles
from metrics.model import Identity

_CRI = "io.kubernetes.cri."


class ContainerdIdentities:
    """`env`: the variables to be kept. Blocking: call it in a thread."""

    version = ""

    def __init__(self, state: str, env: Iterable[str] = (), *, optional: bool = False) -> None:
        self._state = state
        self._tasks = f"{state}/io.containerd.runtime.v2.task"
        self._env = tuple(env)
        self._optional = optional
        self._lock = threading.Lock()
        self._bundles = Bundles(self._folders, "init.pid", self._described)
        self.error = ""

    def close(self) -> None:
        """Holds nothing."""

    def __call__(self) -> Mapping[str, Identity]:
        with self._lock:
            there = self._optional or os.path.isdir(self._state)
            self.error = "" if there else f"no directory {self._state}; start containerd, or name it with --containerd"
            return self._bundles()

    def _folders(self) -> list[str]:
        try:
            names = [name for name in os.listdir(self._tasks) if name != "moby"]
            return [f"{self._tasks}/{name}" for name in sorted(names, key=lambda name: name == "k8s.io")]
        except OSError:
            return []  # made with the first pod

    def _described(self, container: str, bundle: str) -> Identity | None:
        try:
            with open(f"{bundle}/config.json", "rb") as file:
                document = orjson.loads(file.read())
            started = os.stat(f"{bundle}/init.pid").st_mtime
        except (OSError, ValueError):
            return None
        return from_oci(container, document, started, self._env, os.path.basename(os.path.dirname(bundle)))


def from_oci(container: str, document: object, started: float, env: Iterable[str], namespace: str) -> Identity | None:
    notes = document.get("annotations") or {} if isinstance(document, dict) else {}
    process = document.get("process") or {} if isinstance(document, dict) else {}
    if not isinstance(notes, dict) or not isinstance(process, dict):
        return None
    sandbox = notes.get(f"{_CRI}container-type") == "sandbox"
    return Identity(
        id=container,
        name=container,
        image=notes.get(f"{_CRI}image-name") or notes.get(f"{_CRI}podsandbox.image-name", ""),
        pod=notes.get(f"{_CRI}sandbox-name", ""),
        namespace=notes.get(f"{_CRI}sandbox-namespace", ""),
        container="" if sandbox else notes.get(f"{_CRI}container-name", ""),
        pod_uid=notes.get(f"{_CRI}sandbox-uid", ""),
        sandbox=sandbox,
        started=started,
        labels=notes,
        env=chosen(process.get("env") or (), env),
        aliases=(f"{namespace}/{container}",),
        runtime="containerd",
    )


def chosen(env: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Of `NAME=value` lines those whose names begin as one of `wanted` (cAdvisor's --env_metadata_whitelist)."""
    starts = tuple(wanted)
    if not starts:
        return {}
    return {name: value for name, _, value in (line.partition("=") for line in env) if name.startswith(starts)}
