"""A lab's life: up, down, stop and start of a node, status.

`up` is a ladder of steps, each of which finds done what is done. What it finds half-built (a supervisor that was killed, a
namespace that is missing) it takes down to the state on disk and builds again; the cluster's own objects survive in the
API's store. `down` works from what is in the kernel.
"""

import asyncio
import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import orjson

from cni.launcher import write_plugins
from kube.client import Client, Connection
from kube.errors import AlreadyExists, ApiError, ApiUnreachable, UsageError
from kube.resources import LEASES, NODES
from lab import dockerd, forwarder, images, network, pki, remains, screen, supervisor
from lab.manifests import apply
from lab.model import API_PORT, DEMO_NODE_PORT, Lab, Topology
from lab.plan import topology as planned

T = TypeVar("T")

_TOOLS = {"ip": "iproute2", "nsenter": "util-linux", "iptables-restore": "iptables", "conntrack": "conntrack"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What `up` was asked for."""

    name: str
    state: str
    nodes: int
    demo: bool = True
    prometheus: bool = False
    store: str = ""
    """sqlite or etcd; empty: as it was, sqlite for a new lab."""


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
    if there and supervisor.ask(wish.state, {"order": "status"}) is not None:
        screen.say(f"lab {wish.name} is running already")
    else:
        with forwarder.choosing():
            there = await _build(wish, there)
    await _finish(there, wish, since)
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
    kept = "etcd" if found.lab.etcd else "sqlite"
    if wish.store not in ("", kept):
        raise UsageError(f"--store {wish.store}: lab {wish.name} has its objects in {kept}; `wherry lab down` first")
    if wish.prometheus and not found.lab.prometheus and _answers(wish.state):
        raise UsageError(f"--prometheus: lab {wish.name} runs without one; `wherry lab down` first")
    return found


async def _build(wish: Wish, known: Topology | None) -> Topology:
    if known or network.namespaces_of(wish.name):
        with screen.step("taking down what is left of an earlier lab (its objects are kept)"):
            remains.clear(wish.name, wish.state, docker=known.lab.docker if known else None)
    made = planned(_lab(wish, known))
    with screen.step("certificates, configuration, CNI plugins"):
        _write(made)
    with screen.step(f"{len(made.nodes)} nodes: namespaces and links on an underlay bridge"):
        await network.build(made.links, made.sysctls)
    with screen.step("supervisor and daemons"):
        process = _start_supervisor(made)

        def answers() -> bool:
            if process.poll() is not None:
                raise UsageError(f"the supervisor ended: {_last_line(made)}")
            return _answers(made.lab.state)

        await _until(answers, "the supervisor", made.lab.state, seconds=10)
    return made


def _last_line(made: Topology) -> str:
    lines = Path(made.lab.state, "log", "supervisor.log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else f"it said nothing in {made.lab.state}/log/supervisor.log"


def _etcd(wanted: bool) -> str:
    path = shutil.which("etcd")
    if wanted and not path:
        raise UsageError("--store etcd: etcd is not on PATH; apt-get install etcd-server")
    return path or "" if wanted else ""


def _lab(wish: Wish, known: Topology | None) -> Lab:
    """What is to be made; ports as they were, where they are free still."""
    endpoint = dockerd.answering()
    if endpoint and dockerd.cgroup_driver(endpoint) != "cgroupfs":
        driver = dockerd.cgroup_driver(endpoint) or "unknown"
        screen.say(
            f"  Docker at {endpoint} has the cgroup driver {driver}, pods need cgroupfs: the lab runs its own dockerd"
        )
        endpoint = None
    own = endpoint is None
    if own:
        dockerd.own_argv(wish.state)  # says at once when there is no dockerd to run
        endpoint = dockerd.own_endpoint(wish.state)
    assert endpoint
    return Lab(
        name=wish.name,
        nodes=wish.nodes,
        state=wish.state,
        docker=endpoint,
        own_docker=own,
        api_port=forwarder.free_port(known.lab.api_port if known else API_PORT),
        demo_port=forwarder.free_port(known.lab.demo_port if known else DEMO_NODE_PORT),
        python=sys.executable,
        prometheus=shutil.which("prometheus") or "" if wish.prometheus else "",
        prometheus_port=forwarder.free_port(9090) if wish.prometheus else 0,
        etcd=_etcd(wish.store == "etcd" or bool(known and known.lab.etcd)),
    )


def _write(made: Topology) -> None:
    state = Path(made.lab.state)
    state.mkdir(parents=True, exist_ok=True)
    os.chmod(state, 0o700)
    pki.write(made.lab, made.nodes)
    for path, text in made.files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    for node in made.nodes:
        for folder in ("kubelet", "cni/networks", "cni/cache", "run/flannel", "log/pods"):
            Path(node.state, folder).mkdir(parents=True, exist_ok=True)
    if made.lab.prometheus:
        _write_prometheus(made)
    write_plugins(str(state / "cni-bin"), made.lab.python)
    temporary = state / "topology.json.tmp"
    temporary.write_bytes(msgspec.json.encode(made, enc_hook=str))
    temporary.rename(state / "topology.json")


def _write_prometheus(made: Topology) -> None:
    home = Path(made.lab.state, "prometheus")
    (home / "tls").mkdir(parents=True, exist_ok=True)
    shutil.copy(screen.deployed("prometheus/prometheus.yml"), home / "prometheus.yml")
    authority = Path(made.lab.state, "pki")
    for source, target in (("ca.crt", "ca.crt"), ("prometheus.crt", "client.crt"), ("prometheus.key", "client.key")):
        shutil.copy(authority / source, home / "tls" / target)


def _start_supervisor(made: Topology) -> "subprocess.Popen[bytes]":
    log = Path(made.lab.state, "log", "supervisor.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        return subprocess.Popen(
            [made.lab.python, "-m", "lab.supervisor", made.lab.state],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
        )


async def _finish(made: Topology, wish: Wish, since: datetime) -> None:
    """From running daemons to a cluster that works: images, API, demo, every node Ready."""
    state = made.lab.state
    with screen.step("Docker answers, demo image"):
        await _until(lambda: dockerd.answers(made.lab.docker), "dockerd", state, seconds=60)
        await asyncio.to_thread(images.ensure, made.lab.docker, screen.deployed("demo/image"))
    async with Client(Connection.from_kubeconfig(os.path.join(state, "kubeconfig")), user_agent="wherry-lab") as client:
        with screen.step("API answers"):
            await _attempt(lambda: client.request("GET", "/readyz"), "the API server", state)
        with screen.step(f"{len(made.nodes)} nodes Ready"):
            await _until_async(lambda: _ready(client, len(made.nodes), since), "the nodes", state, seconds=60)
        if wish.demo:
            # Not before: all its pods would run on the node that is Ready first.
            with screen.step("demo application"):
                await _attempt(lambda: apply(client, screen.deployed("demo/hello.yaml")), "the demo application", state)
                await _until_async(lambda: _available(client), "the demo's pods", state, seconds=90)
                url = f"http://127.0.0.1:{made.lab.demo_port}/"
                await _until_async(lambda: asyncio.to_thread(_serves, url), f"the demo at {url}", state, seconds=60)


async def _ready(client: Client, wanted: int, since: datetime) -> bool:
    """Ready and open for pods: the not-ready taint goes a moment after the condition comes. What a kubelet said before this
    `up` began does not count: a lab that was killed left its nodes Ready in the store."""
    leases = (await client.list(LEASES, "kube-node-lease")).items
    if len([lease for lease in leases if lease.spec.renew_time and lease.spec.renew_time >= since]) < wanted:
        return False
    nodes = (await client.list(NODES)).items
    ready = [n for n in nodes if any(c.type == "Ready" and c.status == "True" for c in n.status.conditions)]
    return len([n for n in ready if not n.spec.taints]) >= wanted


async def _available(client: Client) -> bool:
    answer: dict[str, Any] = orjson.loads(
        await client.request("GET", "/apis/apps/v1/namespaces/default/deployments/hello")
    )
    wanted = int(answer["spec"].get("replicas", 1))
    return int(answer.get("status", {}).get("availableReplicas") or 0) >= wanted


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


async def _until(condition: Callable[[], bool], name: str, state: str, seconds: float) -> None:
    async def ask() -> bool:
        return condition()

    await _until_async(ask, name, state, seconds)


async def _until_async(condition: Callable[[], Awaitable[bool]], name: str, state: str, seconds: float) -> None:
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
    return 0


def status(state: str) -> int:
    made = _running(state)
    daemons = supervisor.ask(state, {"order": "status"})
    if daemons is None:
        raise UsageError("the lab's supervisor does not answer; `wherry lab up` brings it back")
    screen.status(made, daemons["daemons"], asyncio.run(_nodes(state)))
    return 0


async def _nodes(state: str) -> dict[str, str]:
    """Node name to what `kubectl get nodes` would say; empty when the API does not answer."""
    try:
        async with Client(Connection.from_kubeconfig(os.path.join(state, "kubeconfig")), timeout=3) as client:
            nodes = (await client.list(NODES)).items
    except (ApiUnreachable, ApiError):
        return {}
    conditions = {
        n.metadata.name: next((c.status for c in n.status.conditions if c.type == "Ready"), "Unknown") for n in nodes
    }
    return {name: "Ready" if ready == "True" else "NotReady" for name, ready in conditions.items()}


def stop_node(state: str, node: str) -> int:
    made = _running(state)
    found = next((n for n in made.nodes if n.name == node), None)
    if found is None:
        raise UsageError(f"no node {node!r}; there are {', '.join(n.name for n in made.nodes)}")
    with screen.step(f"cutting {node}'s power: link down, daemons and containers killed"):
        _link(made, node, "down")
        _order(state, "stop", node)
        remains.kill_containers(made.lab.docker, found.cgroup)
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
