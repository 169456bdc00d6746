"""A containerd for each node: its configuration, where its programs are, its images.

It runs in the node's network and mount namespaces (lab.mounts), so its socket is /run/containerd/containerd.sock there, as
on any host: `wherry lab shell node1 -- ctr -n k8s.io containers ls`. From outside the same socket is
`<state>/node1/run/containerd/containerd.sock`. It puts itself, and with it its shims, below the node's cgroup, which is
where `down` finds them; they outlive it, so a containerd that was killed comes back to running pods.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kube.errors import UsageError
from lab.model import PAUSE_IMAGE, Lab, Node
from lab.network import inside
from linux import process
from linux.cgroup import tree

ENDPOINT = "unix:///run/containerd/containerd.sock"
STATE = "/run/containerd"
_PROGRAMS = {"containerd": "containerd", "containerd-shim-runc-v2": "containerd", "ctr": "containerd", "runc": "runc"}
_UNUSED = (
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.internal.v1.restart",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
)


def check(state: str) -> None:
    """Raises UsageError naming what a lab with this runtime lacks."""
    for program, package in _PROGRAMS.items():
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            raise UsageError(f"--runtime containerd: {program} is not on PATH; apt-get install {package}")
    if os.path.realpath(state).startswith(("/run/", "/var/lib/cni/")):
        raise UsageError(
            f"--state-dir: {state} is hidden from the nodes, which have a /run of their own; choose another"
        )


async def snapshotter(folder: str) -> str:
    """`overlayfs`, or `native` (which copies) where the file system of `folder` cannot be a layer."""
    trial = Path(folder, "overlay-trial")
    for name in ("lower", "upper", "work", "merged"):
        (trial / name).mkdir(parents=True, exist_ok=True)
    try:
        options = ",".join((f"lowerdir={trial}/lower", f"upperdir={trial}/upper", f"workdir={trial}/work"))
        argv = ["unshare", "--mount", "mount", "-t", "overlay", "-o", options, "overlay", f"{trial}/merged"]
        done = await process.run(argv, check=False)
        return "overlayfs" if done.returncode == 0 else "native"
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def make_groups(nodes: Sequence[Node]) -> None:
    """On cgroup version 2 containerd wants to find the cgroup it is to be in; on version 1 it makes it."""
    unified = tree.hierarchies().unified
    for node in nodes if unified else ():
        os.makedirs(f"{unified}{_group(node)}", exist_ok=True)


def _group(node: Node) -> str:
    return f"{node.cgroup}/runtime"


def plugins(node: Node) -> str:
    """The directory of the node's CNI plugins, which know the node's agent."""
    return f"{node.state}/cni/bin"


def config(lab: Lab, node: Node) -> str:
    """config.toml of a node's containerd."""
    unused = ", ".join(json.dumps(name) for name in _UNUSED)
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = {json.dumps(f"{node.state}/containerd")}
state = {json.dumps(STATE)}
disabled_plugins = [{unused}]

[grpc]
  address = {json.dumps(ENDPOINT.removeprefix("unix://"))}

[cgroup]
  path = {json.dumps(_group(node))}

[{cri}]
  sandbox_image = {json.dumps(PAUSE_IMAGE)}
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[{cri}.cni]
  conf_dir = {json.dumps(f"{node.state}/cni/net.d")}
  bin_dir = {json.dumps(plugins(node))}

[{cri}.containerd]
  snapshotter = {json.dumps(lab.snapshotter)}
{"".join(_handler(name, program) for name, program in {"runc": "runc", **lab.handlers}.items())}"""


def _handler(name: str, program: str) -> str:
    """What a RuntimeClass may name."""
    table = f'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}'
    return f"""
[{table}]
  runtime_type = "io.containerd.runc.v2"

[{table}.options]
  BinaryName = {json.dumps(program)}
"""


def handlers() -> dict[str, str]:
    """More OCI runtimes than runc that this machine has: path by name."""
    path = shutil.which("crun")
    return {"crun": path} if path else {}


def archive(lab: Lab) -> str:
    """Where the lab's images are as a file."""
    return f"{lab.state}/images.tar"


def importing(lab: Lab) -> tuple[str, ...]:
    """The command that gives the images to a node's containerd, run in its namespaces: static pods have nowhere else to have
    them from, so it comes before the kubelet."""
    words = ("--namespace=k8s.io", "images", "import", f"--snapshotter={lab.snapshotter}", archive(lab))
    return ("ctr", f"--address={ENDPOINT.removeprefix('unix://')}", *words)


async def load(lab: Lab, nodes: Sequence[Node]) -> None:
    """The lab's images into every node's containerd once more, all at once. Raises CommandFailed."""
    commands = [[*inside(node.namespace, node.spaces), *importing(lab)] for node in nodes]
    await process.run_all(commands, timeout=120.0)
