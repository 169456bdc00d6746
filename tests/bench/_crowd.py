"""Containers for the figures of metrics: real cgroups in every hierarchy that is read, a process in each that does a little
when told, and what containerd would have written down of them."""

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from linux.cgroup.tree import hierarchies
from metrics.model import Identity

_READ = ("cpuacct", "cpu", "memory", "blkio", "pids")
_LIFE = 'for group in "$@"; do echo $$ >$group/cgroup.procs; done; echo; while read -r line; do (:); echo; done'
"""A shell that moves into its groups and then, for each line it is told, makes a process and says so."""


class Crowd:
    def __init__(self, top: str, names: list[str], mounts: list[Path], state: Path) -> None:
        self.root = f"/{top}"
        self.names = names
        self.state = state
        self._mounts = mounts
        self._living: list[subprocess.Popen[bytes]] = []

    def enter(self) -> None:
        for name in self.names:
            groups = [f"{mount}{self.root}/{name}" for mount in self._mounts]
            for group in groups:
                os.makedirs(group)
            self._living.append(
                subprocess.Popen(
                    ["sh", "-c", _LIFE, "sh", *groups], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
                )
            )
            bundle = self.state / "io.containerd.runtime.v2.task" / "k8s.io" / name
            bundle.mkdir(parents=True)
            (bundle / "init.pid").write_text(str(self._living[-1].pid))
            (bundle / "config.json").write_text(json.dumps({"annotations": _notes(name)}))
        self._answered()

    def stir(self) -> None:
        """Every container does something, so that no figure is what it was."""
        for one in self._living:
            assert one.stdin
            one.stdin.write(b"\n")
        self._answered()

    def _answered(self) -> None:
        for one in self._living:
            assert one.stdout
            assert one.stdout.read(1)

    def leave(self) -> None:
        for one in self._living:
            one.kill()
            one.communicate()
        for mount in self._mounts:
            for name in [*self.names, ""]:
                with contextlib.suppress(OSError):
                    os.rmdir(f"{mount}{self.root}/{name}")

    def files(self, wanted: tuple[str, ...]) -> list[str]:
        """Those of `wanted` that there are, of every container."""
        found = [
            f"{mount}{self.root}/{name}/{file}" for name in self.names for mount in self._mounts for file in wanted
        ]
        return [file for file in found if os.path.exists(file)]

    def identities(self) -> dict[str, Identity]:
        return {
            name: Identity(name, name, "image", f"web-{name[-4:]}", "default", "web", name[-36:], started=1.0)
            for name in self.names
        }


def _notes(name: str) -> dict[str, str]:
    cri = "io.kubernetes.cri."
    return {
        f"{cri}container-type": "container",
        f"{cri}container-name": "web",
        f"{cri}image-name": "registry.example/web:1",
        f"{cri}sandbox-name": f"web-{name[-4:]}",
        f"{cri}sandbox-namespace": "default",
        f"{cri}sandbox-uid": name[-36:],
    }


@contextlib.contextmanager
def crowd(count: int, state: Path) -> Iterator[Crowd]:
    trees = hierarchies()
    mounts = [trees.unified] if trees.unified else list(dict.fromkeys(trees.controllers[c] for c in _READ))
    names = [f"{index:064x}" for index in range(1, count + 1)]
    found = Crowd(f"wherry-bench-{uuid.uuid4().hex[:8]}", names, mounts, state)
    try:
        found.enter()
        yield found
    finally:
        found.leave()
