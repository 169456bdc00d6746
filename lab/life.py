"""A lab's life: up, down, stop and start of a node, status.

`up` is a ladder of steps, each of which finds done what is done. What it finds half-built (a supervisor that was killed, a
namespace that is missing) it takes down to the state on disk and builds again; the cluster's own objects survive in the
API's store. `down` works from what is in the kernel.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from kube.client import Client, Connection
from kube.errors import ApiError, ApiUnreachable, UsageError
from kube.pods import Pod
from kube.resources import NODES, PODS
from lab import forwarder, images, mounts, network, readiness, remains, screen, static, supervisor
from lab.build import build
from lab.model import Topology, Wish

_TOOLS = {"ip": "iproute2", "nsenter": "util-linux", "iptables-restore": "iptables"}


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One command at a time changes a lab. The lock is a name in the kernel that ends with the process: nothing is left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0wherry-lab-{name}")
        except OSError as error:
            raise UsageError(f"another wherry lab command is at work on lab {name}; wait for it to end") from error
        yield


def up(wish: Wish) -> int:
    return asyncio.run(_up(wish))


async def _up(wish: Wish) -> int:
    started, since = time.monotonic(), datetime.now(UTC)
    _check_machine(wish)
    there = _existing(wish)
    fresh = not (there and _answers(wish.state))
    if not fresh:
        screen.say(f"lab {wish.name} is running already")
    else:
        with forwarder.choosing():
            there = await build(wish, there)
    assert there
    await readiness.finish(there, wish, since, fresh=fresh)
    screen.say(f"up in {time.monotonic() - started:.1f} s")
    screen.farewell(there)
    return 0


def _check_machine(wish: Wish) -> None:
    if not 1 <= wish.nodes <= 100:
        raise UsageError(f"--nodes {wish.nodes}: a lab has 1 to 100 nodes")
    for tool, package in _TOOLS.items():
        if not shutil.which(tool):
            raise UsageError(f"{tool} is not on PATH; apt-get install {package}")
    images.busybox()
    if wish.prometheus and not shutil.which("prometheus"):
        raise UsageError("--prometheus: prometheus is not on PATH; apt-get install prometheus")


def _existing(wish: Wish) -> Topology | None:
    try:
        found = supervisor.read(wish.state)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    if found.lab.nodes != wish.nodes:
        raise UsageError(
            f"lab {wish.name} has {found.lab.nodes} nodes; `wherry lab down` first, or ask for --nodes {found.lab.nodes}"
        )
    if wish.runtime not in ("", found.lab.runtime):
        raise UsageError(
            f"--runtime {wish.runtime}: lab {wish.name} runs its pods on {found.lab.runtime}; `wherry lab down` first"
        )
    if wish.static and not found.lab.static:
        raise UsageError(
            f"--static-control-plane: lab {wish.name} has its control plane as daemons; `wherry lab down` first"
        )
    kept = "etcd" if found.lab.etcd else "sqlite"
    if wish.store not in ("", kept):
        raise UsageError(f"--store {wish.store}: lab {wish.name} has its objects in {kept}; `wherry lab down` first")
    if wish.proxy_mode not in ("", found.lab.proxy_mode) and _answers(wish.state):
        raise UsageError(
            f"--proxy-mode {wish.proxy_mode}: lab {wish.name} runs with {found.lab.proxy_mode}; `wherry lab down` first"
        )
    if wish.overlay not in ("", found.lab.overlay) and _answers(wish.state):
        raise UsageError(
            f"--overlay {wish.overlay}: lab {wish.name} runs with {found.lab.overlay}; `wherry lab down` first"
        )
    if wish.prometheus and not found.lab.prometheus and _answers(wish.state):
        raise UsageError(f"--prometheus: lab {wish.name} runs without one; `wherry lab down` first")
    return found


def _answers(state: str) -> bool:
    return supervisor.ask(state, {"order": "status"}) is not None


def down(name: str, state: str) -> int:
    if not network.namespaces_of(name) and not os.path.exists(state):
        screen.say(f"there is no lab {name}")
        return 0
    with screen.step(f"taking lab {name} down"):
        try:
            docker = supervisor.read(state).lab.docker
        except (FileNotFoundError, msgspec.DecodeError):
            docker = None
        remains.clear(name, state, docker=docker)
        remains.remove_state(state)
        if not network.labs():
            mounts.forget_cache()
    return 0


def status(state: str) -> int:
    made = _running(state)
    daemons = supervisor.ask(state, {"order": "status"})
    if daemons is None:
        raise UsageError("the lab's supervisor does not answer; `wherry lab up` brings it back")
    nodes, pods = asyncio.run(_seen(state))
    rows = {**daemons["daemons"], **_static(made, pods)}
    screen.status(made, dict(sorted(rows.items(), key=lambda row: row[0].rpartition("/")[0])), nodes)
    return 0


async def _seen(state: str) -> tuple[dict[str, str], list[Pod]]:
    """Node name to what `kubectl get nodes` would say, and the pods of kube-system; nothing when the API does not answer."""
    try:
        async with Client(Connection.from_kubeconfig(os.path.join(state, "kubeconfig")), timeout=3) as client:
            nodes = (await client.list(NODES)).items
            pods = (await client.list(PODS, "kube-system")).items
    except (ApiUnreachable, ApiError):
        return {}, []
    conditions = {
        n.metadata.name: next((c.status for c in n.status.conditions if c.type == "Ready"), "Unknown") for n in nodes
    }
    return {name: "Ready" if ready == "True" else "NotReady" for name, ready in conditions.items()}, list(pods)


def _static(made: Topology, pods: Sequence[Pod]) -> dict[str, dict[str, Any]]:
    """The control plane's static pods, as the supervisor tells of daemons; what they are is known from their mirror pods."""
    if not made.lab.static:
        return {}
    centre = made.nodes[0].name
    found = {pod.metadata.name: pod.status for pod in pods}
    rows: dict[str, dict[str, Any]] = {}
    for name in static.names(made.lab):
        status = found.get(f"{name}-{centre}")
        ready = bool(status and any(c.type == "Ready" and c.status == "True" for c in status.conditions))
        restarts = sum(c.restart_count for c in status.container_statuses) if status else ""
        rows[f"{centre}/{name}"] = {
            "state": "ready" if ready else status.phase.lower() if status else "unknown",
            "pid": "pod",
            "restarts": restarts,
        }
    return rows


def stop_node(state: str, node: str) -> int:
    made = _running(state)
    found = next((n for n in made.nodes if n.name == node), None)
    if found is None:
        raise UsageError(f"no node {node!r}; there are {', '.join(n.name for n in made.nodes)}")
    with screen.step(f"cutting {node}'s power: link down, daemons and containers killed"):
        _link(made, node, "down")
        _order(state, "stop", node)
        if made.lab.docker:
            remains.kill_containers(made.lab.docker, found.cgroup)
        else:
            remains.kill_groups(found.cgroup)
    return 0


def start_node(state: str, node: str) -> int:
    made = _running(state)
    if node not in [n.name for n in made.nodes]:
        raise UsageError(f"no node {node!r}; there are {', '.join(n.name for n in made.nodes)}")
    with screen.step(f"starting {node}"):
        _link(made, node, "up")
        _order(state, "start", node)
    return 0


def _order(state: str, order: str, node: str) -> None:
    answer = supervisor.ask(state, {"order": order, "node": node})
    if answer is None:
        raise UsageError("the lab's supervisor does not answer; `wherry lab up` brings it back")
    if "error" in answer:
        raise UsageError(str(answer["error"]))


def _link(made: Topology, node: str, state: str) -> None:
    done = subprocess.run(
        [*network.inside(made.lab.outer), "ip", "link", "set", node, state], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"{node}'s link: {done.stderr.strip()}; `wherry lab up` builds what is missing")


def _running(state: str) -> Topology:
    try:
        return supervisor.read(state)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise UsageError("there is no such lab; `wherry lab up` makes one") from error
