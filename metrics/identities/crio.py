"""CRI-O's containers, as it wrote them down: `<state>/<id>/userdata/config.json` (the OCI configuration, whose
`io.kubernetes.cri-o.*` annotations say whose it is), below /run/containers/storage/overlay-containers. Read from recorded
files; CRI-O itself has not been run against it."""

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from metrics.identities import Bundles
from metrics.identities.containerd import chosen
from metrics.model import Identity

_CRIO = "io.kubernetes.cri-o."


class CrioIdentities:
    """`env`: the variables to be kept. Blocking: call it in a thread."""

    version = ""

    def __init__(self, state: str, env: Iterable[str] = (), *, optional: bool = False) -> None:
        self._state = state
        self._env = tuple(env)
        self._optional = optional
        self._lock = threading.Lock()
        self._bundles = Bundles(lambda: (self._state,), "userdata/config.json", self._described)
        self.error = ""

    def close(self) -> None:
        """Holds nothing."""

    def __call__(self) -> Mapping[str, Identity]:
        with self._lock:
            there = self._optional or os.path.isdir(self._state)
            self.error = "" if there else f"no directory {self._state}; start CRI-O, or name it with --crio"
            return self._bundles()

    def _described(self, container: str, bundle: str) -> Identity | None:
        file = f"{bundle}/userdata/config.json"
        try:
            with open(file, "rb") as opened:
                document = orjson.loads(opened.read())
            started = os.stat(file).st_mtime
        except (OSError, ValueError):
            return None
        notes = document.get("annotations") if isinstance(document, dict) else None
        if not isinstance(notes, dict) or f"{_CRIO}ContainerType" not in notes:
            return None  # podman's share the directory
        sandbox = notes[f"{_CRIO}ContainerType"] == "sandbox"
        labels = _document(notes.get(f"{_CRIO}Labels"))
        return Identity(
            id=container,
            name=notes.get(f"{_CRIO}Name", container),
            image=notes.get(f"{_CRIO}UserRequestedImage")
            or notes.get(f"{_CRIO}ImageName")
            or notes.get(f"{_CRIO}Image", ""),
            pod=labels.get("io.kubernetes.pod.name", ""),
            namespace=labels.get("io.kubernetes.pod.namespace") or str(notes.get(f"{_CRIO}Namespace", "")),
            container="" if sandbox else labels.get("io.kubernetes.container.name", ""),
            pod_uid=labels.get("io.kubernetes.pod.uid", ""),
            sandbox=sandbox,
            started=started,
            labels=labels,
            env=chosen((document.get("process") or {}).get("env") or (), self._env),
            runtime="crio",
        )


def _document(text: Any) -> dict[str, str]:
    try:
        found = orjson.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
