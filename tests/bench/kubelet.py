"""What the kubelet adds to the runtime's own calls, and what it costs when nothing happens.

    kubelet.start.one.<runtime>       from the create call for a pod with a nodeName to the moment a watch shows it Running
    kubelet.start.twenty.<runtime>    the same for twenty created at once, until the last one runs
    kubelet.exit-to-status.<runtime>  from a container's end to the moment a watch shows it terminated
    kubelet.delete.<runtime>          from the delete call, one second of grace, a container that ends on SIGTERM, until a watch
                                      shows that the object is gone
    kubelet.idle50.cpu, .rss          of the kubelet's process, with 50 pods in which nothing happens, on containerd
    kubelet.probes500.cpu             of the kubelet's process, for 500 probes a minute (half httpGet, half exec), on containerd

API server and kubelet are processes of their own; both work and measure on the same machine. The floors are the runtime's own
calls for the same, made by hand (tests/bench/_runtimes.py), in turn with ours; a floor of exit-to-status is a question each 5 ms
until the runtime says it. The network is wherry-cni's, stand-alone, on either side. QUICK=1 takes fewer runs and shorter windows.
"""

import asyncio
import os
import signal
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from cni.launcher import conflist, write_conflist, write_plugins
from kube.pods import Pod
from kube.resources import PODS
from kubelet.network import Network
from linux import netns
from tests import dockerd as daemons
from tests.requirements import missing

if TYPE_CHECKING:
    from tests.bench._runtimes import Bare, Cri, Runtime
    from tests.node.kubelet_world import World

Row = dict[str, Any]

QUICK = bool(os.environ.get("QUICK"))
RUNS = 5 if QUICK else 15
BURSTS = 2 if QUICK else 5
BURST = 20
IDLE_PODS = 50
WINDOW = 10.0 if QUICK else 30.0  # seconds
PERIOD = 3  # seconds; 25 probes each make 500 a minute
ENDS = ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"]
SERVES = ["httpd", "-f", "-p", "8080"]
RUNTIMES = ("docker", "containerd")
IDLE = ("kubelet.idle50.cpu", "kubelet.idle50.rss")
PROBES = "kubelet.probes500.cpu"


def network(home: Path) -> Network:
    """wherry-cni on a subnet of its own, its files all below `home`."""
    subnet = home / "subnet.env"
    subnet.write_text(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    write_plugins(home / "bin", run=str(home / "run"))
    write_conflist(home / "net.d", conflist(subnet_file=str(subnet), data_dir=str(home / "networks")))
    return Network(str(home / "net.d"), [str(home / "bin")], str(home / "cache"))


def rows(only: str | None = None) -> Iterator[Row]:
    for runtime in RUNTIMES:
        measures: dict[str, Callable[[Bench, str], Awaitable[Iterable[Row]]]] = {
            f"kubelet.start.one.{runtime}": _start_one,
            f"kubelet.start.twenty.{runtime}": _start_twenty,
            f"kubelet.exit-to-status.{runtime}": _exit,
            f"kubelet.delete.{runtime}": _delete,
        }
        if runtime == "containerd":
            measures |= {"kubelet.idle50": _idle, PROBES: _probes}
        wanted = {name: measure for name, measure in measures.items() if not only or _means(name, only)}
        if not wanted:
            continue
        daemon = "dockerd" if runtime == "docker" else "containerd"
        if lacking := missing("root", "netns", daemon, "nsenter"):
            print(f"{', '.join(wanted)}: not measured, this machine lacks {', '.join(lacking)}")
            continue
        for name, measure in wanted.items():
            yield from _measured(runtime, name, measure)


def _means(name: str, only: str) -> bool:
    return name.startswith(only) or only.startswith(f"{name}.")


def _measured(runtime: str, name: str, measure: Callable[["Bench", str], Awaitable[Iterable[Row]]]) -> list[Row]:
    """In a world of its own: a node's namespace, a runtime, an API server, a kubelet."""
    from tests.bench import _runtimes
    from tests.conftest import Netns
    from tests.node import engines
    from tests.node.kubelet_world import World, with_world

    node, parent = Netns(f"wt-bench-{uuid.uuid4().hex[:6]}"), f"/wherry-test-{uuid.uuid4().hex[:8]}"
    netns.create(node.name)
    found: list[Row] = []
    try:
        node.run("ip", "link", "set", "lo", "up")
        with engines.own(runtime, node) as engine, tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:

            async def inside(world: World) -> None:
                bare = (_runtimes.Docker if runtime == "docker" else _runtimes.Cri)(
                    engine.socket_path, Path(home), f"{parent}/bare"
                )
                try:
                    async with _bench(world, bare) as bench:
                        await bench.start(["warm"])
                        await bench.end(["warm"])
                        found.extend(await measure(bench, name))
                finally:
                    await bare.close()

            with netns.enter(netns.path_of(node.name)):  # the plugins that the loop starts are started in here
                uvloop.run(with_world(node, engine, parent, Path(home), inside))
    finally:
        netns.delete(node.name)
        for controller in Path("/sys/fs/cgroup").iterdir():
            daemons.remove_cgroups(controller / parent.lstrip("/"))
    return found


# --- our side ---------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    world: "World"
    bare: "Runtime"
    pods: dict[str, Pod]  # as a watch shows them
    changed: asyncio.Condition

    async def start(self, names: list[str], **container: Any) -> float:
        """Seconds until all run."""
        begun = time.perf_counter()
        await asyncio.gather(*(self._create(name, container) for name in names))
        await self.until(lambda: all(n in self.pods and self.pods[n].status.phase == "Running" for n in names))
        return time.perf_counter() - begun

    async def _create(self, name: str, container: dict[str, Any]) -> None:
        given = {"name": "main", "image": daemons.IMAGE, "command": ENDS} | container
        spec = {
            "nodeName": self.world.node.name,
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "containers": [given],
        }
        await self.world.client.create(PODS, {"metadata": {"name": name}, "spec": spec}, "default")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(120), self.changed:
            await self.changed.wait_for(condition)

    async def end(self, names: list[str]) -> float:
        """Seconds until the objects are gone; nothing is left in the runtime when it returns."""
        begun = time.perf_counter()
        await asyncio.gather(*(self.world.client.delete(PODS, name, "default") for name in names))
        await self.until(lambda: not any(name in self.pods for name in names))
        took = time.perf_counter() - begun
        await self.quiet()
        return took

    async def quiet(self) -> None:
        """What the runtime has belongs to pods that are there."""
        await self.world.eventually(lambda: len(self.world.remains()) <= 2 * len(self.pods), "the dead are buried", 60)

    def cpu(self) -> float:
        assert self.world.process is not None
        return cpu_seconds(self.world.process.pid)

    def memory(self) -> float:
        """MB resident."""
        assert self.world.process is not None
        status = Path(f"/proc/{self.world.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    async def share(self, seconds: float) -> float:
        """CPU seconds a second of the kubelet."""
        before, begun = self.cpu(), time.perf_counter()
        await asyncio.sleep(seconds)
        return (self.cpu() - before) / (time.perf_counter() - begun)


def cpu_seconds(pid: int) -> float:
    """Of all threads, to the nanosecond: ticks miss what is shorter than they are."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@asynccontextmanager
async def _bench(world: "World", bare: "Runtime") -> AsyncIterator[Bench]:
    bench = Bench(world, bare, {}, asyncio.Condition())
    page = await world.client.list(PODS, "default")

    async def follow() -> None:
        async for event in world.client.watch(PODS, "default", resource_version=page.resource_version):
            async with bench.changed:
                if event.type == "DELETED":
                    bench.pods.pop(event.object.metadata.name, None)
                else:
                    bench.pods[event.object.metadata.name] = event.object
                bench.changed.notify_all()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow())
        try:
            yield bench
        finally:
            task.cancel()


# --- figures ----------------------------------------------------------------------------------------------------------


def _row(name: str, ours: list[float], floor: list[float], note: str) -> Row:
    middle = statistics.median(ours), statistics.median(floor)
    return {
        "name": name,
        "unit": "ms",
        "ours": round(middle[0] * 1000, 1),
        "floor": round(middle[1] * 1000, 1),
        "ratio": round(middle[0] / middle[1], 3),
        "runs": len(ours),
        "note": f"{note}; least {min(ours) * 1000:.0f} and {min(floor) * 1000:.0f}",
    }


async def _start_one(bench: Bench, name: str) -> list[Row]:
    ours, floor = [], []
    await _bare(bench, 1)
    for number in range(RUNS):
        floor.append(await _bare(bench, 1))
        ours.append(await bench.start([f"pod{number}"]))
        await bench.end([f"pod{number}"])
    return [_row(name, ours, floor, "create -> Running; floor: the same calls by hand")]


async def _start_twenty(bench: Bench, name: str) -> list[Row]:
    ours, floor = [], []
    for burst in range(BURSTS):
        floor.append(await _bare(bench, BURST))
        names = [f"pod{burst}-{number}" for number in range(BURST)]
        ours.append(await bench.start(names))
        await bench.end(names)
    return [_row(name, ours, floor, "20 creates -> all Running; floor: the same calls by hand, all at once")]


async def _bare(bench: Bench, count: int) -> float:
    begun = time.perf_counter()
    pods = await asyncio.gather(*(bench.bare.start(ENDS) for _ in range(count)))
    took = time.perf_counter() - begun
    await asyncio.gather(*(bench.bare.end(pod) for pod in pods))
    return took


async def _exit(bench: Bench, name: str) -> list[Row]:
    names = [f"pod{number}" for number in range(RUNS)]
    await bench.start(names)
    ours, floor = [], []
    for pod in names:
        bare = await bench.bare.start(ENDS)
        floor.append(await _ends(_pid(bench, bare), lambda bare=bare: bench.bare.exited(bare)))  # type: ignore[misc]
        await bench.bare.end(bare)
        pid = bench.world.row(pod, "main").pid
        ours.append(await _ends(pid, lambda pod=pod: bench.until(lambda: _ended(bench.pods[pod]))))  # type: ignore[misc]
    await bench.end(names)
    return [_row(name, ours, floor, "SIGKILL -> terminated in a watch; floor: until the runtime says it has exited")]


async def _ends(pid: int, seen: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    await seen()
    return time.perf_counter() - begun


def _ended(pod: Pod) -> bool:
    return bool(pod.status.container_statuses) and pod.status.container_statuses[0].state.terminated is not None


def _pid(bench: Bench, bare: "Bare") -> int:
    return bare.pid or next(row.pid for row in bench.world.engine.running("") if row.id == bare.container)


async def _delete(bench: Bench, name: str) -> list[Row]:
    names = [f"pod{number}" for number in range(RUNS)]
    await bench.start(names)
    ours, floor = [], []
    for pod in names:
        bare = await bench.bare.start(ENDS)
        begun = time.perf_counter()
        await bench.bare.end(bare)
        floor.append(time.perf_counter() - begun)
        ours.append(await bench.end([pod]))
    return [_row(name, ours, floor, "delete -> object gone; floor: stop and remove by hand")]


async def _idle(bench: Bench, _name: str) -> list[Row]:
    names = [f"pod{number}" for number in range(IDLE_PODS)]
    await bench.start(names)
    await asyncio.sleep(WINDOW / 3)
    share, memory = await bench.share(WINDOW), bench.memory()
    await bench.end(names)
    common = {"floor": None, "ratio": None, "runs": 1}
    return [
        {"name": IDLE[0], "unit": "% core", "ours": round(share * 100, 2), **common, "note": f"over {WINDOW:g} s"},
        {"name": IDLE[1], "unit": "MB", "ours": round(memory, 1), **common, "note": f"VmRSS with {IDLE_PODS} pods"},
    ]


async def _probes(bench: Bench, name: str) -> list[Row]:
    """Probed: 13 by httpGet, 12 of them by exec too, each third second."""
    names = [f"pod{number}" for number in range(13)]
    await bench.start(names, command=SERVES)
    targets = {pod: (bench.pods[pod].status.pod_ip, bench.world.row(pod, "main").id) for pod in names}
    await asyncio.sleep(5)
    unprobed = await bench.share(WINDOW)
    floor = await _bare_probes(bench.bare, list(targets.values()))  # type: ignore[arg-type]
    await bench.end(names)
    http = {"readinessProbe": {"httpGet": {"port": 8080, "path": "/etc/hostname"}, "periodSeconds": PERIOD}}
    both = http | {"livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": PERIOD}}
    await bench.start(names[:1], command=SERVES, **http)
    await bench.start(names[1:], command=SERVES, **both)
    await asyncio.sleep(PERIOD + 1)
    ours = await bench.share(WINDOW) - unprobed
    await bench.end(names)
    row = {"name": name, "unit": "% core", "ours": round(ours * 100, 2), "floor": round(floor * 100, 2)}
    note = f"less the {unprobed * 100:.2f} % of the same pods unprobed; floor: the same calls by hand"
    return [row | {"ratio": round(ours / floor, 3), "runs": int(WINDOW / PERIOD * 25), "note": note}]


async def _bare_probes(bare: "Cri", targets: list[tuple[str, str]]) -> float:
    """CPU seconds a second of this process for the same calls at the same pace."""

    async def http(ip: str) -> None:
        reader, writer = await asyncio.open_connection(ip, 8080)
        writer.write(b"GET /etc/hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await reader.read(10_240)
        writer.close()

    begun, before = time.perf_counter(), cpu_seconds(os.getpid())
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() - begun < WINDOW:
            for number, (ip, container) in enumerate(targets):
                group.create_task(http(ip))
                await asyncio.sleep(PERIOD / 25)
                if number:
                    group.create_task(bare.exec(container, ["true"]))
                    await asyncio.sleep(PERIOD / 25)
    return (cpu_seconds(os.getpid()) - before) / (time.perf_counter() - begun)
