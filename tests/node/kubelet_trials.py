"""Trials of a node: a world that stands for a whole module, and what every trial asserts besides its own subject.

`nobody_notices` is that: while a fault goes on, other pods on the node go through their lives, and the node's Lease never
expires. The Lease of these nodes lasts eight seconds instead of forty, so that a missed one shows.
"""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kube.core import Event
from kube.errors import NotFound
from kube.pods import ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod
from kube.resources import LEASES, PODS
from linux import netns as kernel
from tests.conftest import Netns
from tests.dockerd import a_cgroup_parent
from tests.leave_no_trace import Snapshot, settled
from tests.node import engines
from tests.node.kubelet_world import World, a_world, container, ready

LEASE_SECONDS = 8
SETTINGS: Mapping[str, Any] = {"nodeLeaseDurationSeconds": LEASE_SECONDS, "nodeStatusUpdateFrequency": "1s"}
LIFE_SECONDS = 40.0
"""Half of a pod's life beside a fault, on a machine with other work."""
POLITE = "trap exit TERM; sleep 100000 & wait"
STUBBORN = "trap '' TERM; while :; do sleep 1; done"

Test = Callable[[World], Awaitable[None]]


@dataclass
class Standing:
    """A world in which one test runs after the other; the caller's thread is in its namespace only while one does."""

    world: World
    loop: asyncio.AbstractEventLoop
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, test: Test) -> None:
        with kernel.enter(self.world.node.path):
            try:
                self.loop.run_until_complete(test(self.world))
            except BaseException:
                self.loop.run_until_complete(_cleared(self.world))
                raise


async def _cleared(world: World) -> None:
    """After a test that failed: its pods are not the next one's."""
    names = [pod.metadata.name for pod in (await world.client.list(PODS, "default")).items]
    with contextlib.suppress(AssertionError):
        await deleted(world, *names, grace=0)


@contextmanager
def standing(name: str, folder: Path, **settings: Any) -> Iterator[Standing]:
    """A world on a runtime (`docker` or `containerd`) of its own."""
    with ExitStack() as stack:
        stack.callback(_nothing_left, Snapshot.take())
        node = Netns(f"wt-{name}-{uuid.uuid4().hex[:6]}")
        kernel.create(node.name)
        stack.callback(kernel.delete, node.name)
        node.run("ip", "link", "set", "lo", "up")
        cgroups = stack.enter_context(a_cgroup_parent())
        engine = stack.enter_context(engines.own(name, node))
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        inner = AsyncExitStack()
        with kernel.enter(node.path):
            world = loop.run_until_complete(
                inner.enter_async_context(a_world(node, engine, cgroups, folder, settings={**SETTINGS, **settings}))
            )
            loop.run_until_complete(_first_pods(world))
        try:
            yield Standing(world, loop)
        finally:
            with kernel.enter(node.path):
                loop.run_until_complete(inner.aclose())
                loop.run_until_complete(loop.shutdown_default_executor())


def _nothing_left(before: Snapshot) -> None:
    left = settled(before)
    assert not left, f"left behind: {left}"


async def _first_pods(world: World) -> None:
    """The cgroups of the tiers come with the first pod of each and stay: no test is to be taken for the one that left them."""
    little = {"requests": {"cpu": "1m"}}
    await world.create("best-effort", [container("c", POLITE)])
    await world.create("burstable", [container("c", POLITE, resources=little)])
    for name in ("best-effort", "burstable"):
        await world.until(name, ready, f"{name} runs")
        await world.client.delete(PODS, name, "default")
    for name in ("best-effort", "burstable"):
        await world.until_gone(name)
    await world.eventually(lambda: not world.remains(), "nothing is left of them")


# --- what everybody asks of a pod ----------------------------------------------------------------------------------------


def first(pod: Pod) -> ContainerStatus:
    return pod.status.container_statuses[0] if pod.status.container_statuses else ContainerStatus()


def waiting(pod: Pod) -> ContainerStateWaiting:
    return first(pod).state.waiting or ContainerStateWaiting()


def ended(pod: Pod) -> ContainerStateTerminated:
    """How the container ended, now or last time."""
    status = first(pod)
    return status.state.terminated or status.last_state.terminated or ContainerStateTerminated()


async def told(world: World, pod: str, reason: str, text: str, seconds: float = 20) -> Event:
    """The Event of that reason about the pod which has `text`."""
    found: list[Event] = []
    now = await world.pod(pod)
    assert now is not None

    async def there() -> bool:
        nonlocal found
        about = [e for e in await world.events(reason) if e.involved_object.uid == now.metadata.uid]
        found = [e for e in about if text in e.message]
        return bool(found)

    await world.eventually(there, f"Event {reason} about {pod} with {text!r}", seconds)
    return found[0]


async def deleted(world: World, *names: str, grace: int | None = None, seconds: float = 30) -> None:
    """Gone from the API and from the runtime."""
    for name in names:
        with contextlib.suppress(NotFound):
            await world.client.delete(PODS, name, "default", grace_period_seconds=grace)
    for name in names:
        await world.until_gone(name, seconds)
    await world.eventually(lambda: not [r for r in world.running() if r.pod in names], f"{names} run no more", seconds)


# --- what everybody asserts ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def nobody_notices(world: World, lives: int = 1) -> AsyncIterator[None]:
    """At least `lives` pods are born, get ready and go while the body runs (it waits for them); no Lease is missed."""
    over, enough = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        if lives:
            group.create_task(_others_live(world, lives, enough, over))
        else:
            enough.set()
        group.create_task(_leases(world, over))
        yield
        await enough.wait()
        over.set()


async def _others_live(world: World, lives: int, enough: asyncio.Event, over: asyncio.Event) -> None:
    mark = uuid.uuid4().hex[:5]
    for number in itertools.count(1):
        name = f"other-{mark}-{number}"
        await world.create(name, [container("a", POLITE)])
        await world.until(name, ready, f"{name}, whom nothing concerns, is ready", LIFE_SECONDS)
        await world.client.delete(PODS, name, "default")
        await world.until_gone(name, LIFE_SECONDS)
        if number >= lives:
            enough.set()
        if over.is_set():
            return


async def renewed(world: World) -> None:
    """The Lease is renewed after this call: a kubelet that was ended and started again is there."""
    begun = datetime.now(UTC)

    async def later() -> bool:
        lease = await world.client.get(LEASES, world.node.name, "kube-node-lease")
        return lease.spec.renew_time is not None and lease.spec.renew_time > begun

    await world.eventually(later, "the Lease is renewed")


async def _leases(world: World, over: asyncio.Event) -> None:
    while not over.is_set():
        lease = await world.client.get(LEASES, world.node.name, "kube-node-lease")
        assert lease.spec.renew_time is not None
        age = (datetime.now(UTC) - lease.spec.renew_time).total_seconds()
        assert age < LEASE_SECONDS, f"the Lease was renewed {age:.1f} s ago"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await over.wait()
