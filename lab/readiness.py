"""From running daemons to a cluster that works: images, API, every node Ready, the demo."""

import asyncio
import http.client
import os
import time
import urllib.request
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson

from kube.client import Client, Connection
from kube.errors import AlreadyExists, ApiError, ApiUnreachable, UsageError
from kube.resources import LEASES, NODES, PODS
from lab import containerd, dockerd, images, screen, static, supervisor
from lab.manifests import apply
from lab.model import Topology, Wish
from linux.process import CommandFailed

T = TypeVar("T")


async def finish(made: Topology, wish: Wish, since: datetime, *, fresh: bool) -> None:
    """`fresh`: whether this `up` has started the daemons, not an earlier one."""
    state = made.lab.state
    if made.lab.docker:
        with screen.step("Docker answers, demo image"):
            await until(lambda: dockerd.answers(made.lab.docker), "dockerd", state, seconds=60)
            built = await asyncio.to_thread(images.demo, screen.deployed("demo/image"))
            await asyncio.to_thread(images.load, made.lab.docker, [built])
    else:
        with screen.step(f"{len(made.nodes)} containerds answer, images"):
            await _images(made, fresh)
    async with Client(Connection.from_kubeconfig(os.path.join(state, "kubeconfig")), user_agent="wherry-lab") as client:
        with screen.step("API answers"):
            await _attempt(lambda: client.request("GET", "/readyz"), "the API server", state)
        with screen.step(f"{len(made.nodes)} nodes Ready"):
            await _until(lambda: _ready(client, len(made.nodes), since), "the nodes", state, seconds=60)
            # No node may give itself this label; kubeadm gives it too.
            role = {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}
            await client.patch(NODES, made.nodes[0].name, role)
        if made.lab.static:
            with screen.step("control plane Ready, as static pods"):
                began = since.replace(microsecond=0) if fresh else datetime.min.replace(tzinfo=UTC)
                await _until(lambda: _control_plane(client, made, began), "the control plane's pods", state, seconds=60)
        if wish.demo:
            # Not before: all its pods would run on the node that is Ready first.
            with screen.step("demo application"):
                await _attempt(lambda: apply(client, screen.deployed("demo/hello.yaml")), "the demo application", state)
                await _until(lambda: _available(client), "the demo's pods", state, seconds=90)
                url = f"http://127.0.0.1:{made.lab.demo_port}/"
                await _until(lambda: asyncio.to_thread(_serves, url), f"the demo at {url}", state, seconds=60)


async def _images(made: Topology, fresh: bool) -> None:
    """In each node's own containerd. A fresh lab's supervisor sees to them, before it starts the kubelets."""
    state = made.lab.state

    def started() -> bool:
        daemons = (supervisor.ask(state, {"order": "status"}) or {}).get("daemons", {})
        return bool(daemons) and all(daemons[f"{node.name}/kubelet"]["pid"] for node in made.nodes)

    try:
        if not fresh:
            await containerd.load(made.lab, made.nodes)
    except CommandFailed as failed:
        raise UsageError(f"{failed}; the log is in {state}/*/log/containerd.log") from failed
    await until(started, "containerd and its images", state, seconds=60)


async def _ready(client: Client, wanted: int, since: datetime) -> bool:
    """Ready and open for pods: the not-ready taint goes a moment after the condition comes. What a kubelet said before this
    `up` began does not count: a lab that was killed left its nodes Ready in the store."""
    leases = (await client.list(LEASES, "kube-node-lease")).items
    if len([lease for lease in leases if lease.spec.renew_time and lease.spec.renew_time >= since]) < wanted:
        return False
    nodes = (await client.list(NODES)).items
    ready = [n for n in nodes if any(c.type == "Ready" and c.status == "True" for c in n.status.conditions)]
    return len([n for n in ready if not n.spec.taints]) >= wanted


async def _control_plane(client: Client, made: Topology, since: datetime) -> bool:
    """Whether every mirror pod of the control plane is Ready, in a life that began after `since`."""
    pods = (await client.list(PODS, "kube-system")).items
    wanted = {f"{name}-{made.nodes[0].name}" for name in static.names(made.lab)}
    ready = [pod for pod in pods if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)]
    runs = {pod.metadata.name: [c.state.running for c in pod.status.container_statuses] for pod in ready}
    fresh = {
        name
        for name, lives in runs.items()
        if all(life and life.started_at and life.started_at >= since for life in lives)
    }
    return wanted <= fresh


async def _available(client: Client) -> bool:
    answer = await _json(client, "/apis/apps/v1/namespaces/default/deployments/hello")
    wanted = int(answer["spec"].get("replicas", 1))
    return int(answer.get("status", {}).get("availableReplicas") or 0) >= wanted


async def _json(client: Client, path: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(await client.request("GET", path))
    return found


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


async def _attempt(what: Callable[[], Awaitable[T]], name: str, state: str, seconds: float = 60.0) -> T:
    """Its answer, as soon as it has one."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await what()
        except (ApiUnreachable, ApiError) as error:
            if time.monotonic() > deadline or isinstance(error, AlreadyExists):
                raise UsageError(f"{name}: {error}; the logs are in {state}/*/log") from error
        await asyncio.sleep(0.1)


async def until(condition: Callable[[], bool], name: str, state: str, seconds: float) -> None:
    """As soon as `condition` holds; UsageError when it does not within `seconds`."""

    async def ask() -> bool:
        return condition()

    await _until(ask, name, state, seconds)


async def _until(condition: Callable[[], Awaitable[bool]], name: str, state: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if await condition():
                return
        except (ApiUnreachable, ApiError):
            pass
        if time.monotonic() > deadline:
            raise UsageError(
                f"{name}: not there after {seconds:.0f} s; see `wherry lab status` and the logs in {state}/*/log"
            )
        await asyncio.sleep(0.1)
