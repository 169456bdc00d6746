"""Probes and hooks on real containers, over Docker and containerd: what conformance asks of both (container_probe.go,
lifecycle_hook.go), with periods of a second, all pods at once.

The test itself is the server for what busybox cannot serve (redirects, gRPC, hooks): it is in the node's namespace.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kube.pods import ContainerStatus, Pod
from kube.resources import PODS
from kubelet.health.health_pb2 import HealthCheckResponse
from linux import netns as kernel
from tests.conftest import Netns
from tests.node import engines
from tests.node.kubelet_world import ADDRESS, World, container, ready, with_world
from tests.unit.kubelet.test_prober import Health, grpc

Run = Callable[[Callable[[World], Awaitable[None]]], None]

SOON = {"crashLoopBackOff": {"maxContainerRestartPeriod": "1s"}}
WEB = "mkdir -p /www; echo up > /www/index.html; exec httpd -f -p 8080 -h /www"
WAITS = "trap 'exit 0' TERM; while :; do sleep 1; done"


@pytest.fixture(params=engines.NAMES)
def run(
    request: pytest.FixtureRequest, netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path
) -> Iterator[Run]:
    node = netns("kubelet")
    with ExitStack() as stack:
        if request.param == "docker":
            engine: engines.Engine = engines.shared(request.getfixturevalue("dockerd"))
        else:
            engine = stack.enter_context(engines.own(request.param, node))

        def go(test: Callable[[World], Awaitable[None]]) -> None:
            with kernel.enter(node.path):
                asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test, settings=SOON))

        yield go


def every(**more: Any) -> dict[str, Any]:
    return {"periodSeconds": 1, "failureThreshold": 1, **more}


def shell(script: str) -> dict[str, Any]:
    return {"exec": {"command": ["sh", "-c", script]}}


def of(pod: Pod) -> ContainerStatus:
    return pod.status.container_statuses[0]


def restarted(pod: Pod, times: int = 1) -> bool:
    return bool(pod.status.container_statuses) and of(pod).restart_count >= times


@dataclass
class Listener:
    """A server at the node's address."""

    port: int
    heard: list[web.Request] = field(default_factory=list)

    def get(self, path: str, **more: Any) -> dict[str, Any]:
        return {"httpGet": {"host": ADDRESS, "port": self.port, "path": path, **more}}

    def paths(self) -> set[str]:
        return {request.path for request in self.heard}


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    async def answer(request: web.Request) -> web.Response:
        listener.heard.append(request)
        goals = {"/moved": "/sick", "/away": "http://elsewhere.invalid/"}
        if request.path in goals:
            return web.Response(status=302, headers={"Location": goals[request.path]})
        return web.Response(status=500 if request.path == "/sick" else 200, text="said")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, 0).start()
    listener = Listener(runner.addresses[0][1])
    try:
        yield listener
    finally:
        await runner.cleanup()


def forwards(port: int) -> str:
    """To the test's server; busybox takes one connection at a time."""
    return f"while :; do nc -l -p 5000 -e nc {ADDRESS} {port}; done"


async def said(world: World, pod: str, reason: str, text: str) -> None:
    async def there() -> bool:
        return any(text in e.message for e in await world.events(reason) if e.involved_object.name == pod)

    await world.eventually(there, f"{reason} about {pod}: {text}")


def test_probes(run: Run) -> None:
    async def test(world: World) -> None:
        sick = "touch /healthy; (sleep 2; rm /healthy) & "
        states = {"": HealthCheckResponse.SERVING, "sick": HealthCheckResponse.NOT_SERVING}
        async with listening() as server, grpc(Health(states), ADDRESS) as port:
            calls = {"port": 5000}
            probed: dict[str, tuple[str, dict[str, Any]]] = {
                # never restarted
                "delayed": (WAITS, {"readinessProbe": shell("true") | every(initialDelaySeconds=3)}),
                "never": (WAITS, {"readinessProbe": shell("echo no; false") | every()}),
                "fine": (f"touch /healthy; {WAITS}", {"livenessProbe": shell("cat /healthy") | every()}),
                "web": (
                    WEB,
                    {
                        "startupProbe": shell("cat /www/index.html") | every(failureThreshold=30),
                        "livenessProbe": {"tcpSocket": {"port": 8080}} | every(failureThreshold=3),
                        "readinessProbe": {"httpGet": {"port": "web", "path": "/"}} | every(),
                        "ports": [{"name": "web", "containerPort": 8080}],
                    },
                ),
                "grpc": (forwards(port), {"livenessProbe": {"grpc": calls} | every(failureThreshold=5)}),
                "away": (WAITS, {"livenessProbe": server.get("/away") | every()}),
                # restarted
                "often": (sick.replace("2", "1") + WAITS, {"livenessProbe": shell("cat /healthy") | every()}),
                "stubborn": (
                    f"trap '' TERM; {sick} while :; do sleep 1; done",
                    {"livenessProbe": shell("cat /healthy") | every(terminationGracePeriodSeconds=1)},
                ),
                "gone": (WAITS, {"livenessProbe": {"httpGet": {"port": 9}} | every()}),
                "moved": (WAITS, {"livenessProbe": server.get("/moved") | every()}),
                "hangs": (WAITS, {"livenessProbe": shell("sleep 100; true") | every(timeoutSeconds=1)}),
                "refuses": (forwards(port), {"livenessProbe": {"grpc": calls | {"service": "sick"}} | every()}),
                "late": (WAITS, {"startupProbe": shell("false") | every(failureThreshold=2)}),
            }
            for name, (script, more) in probed.items():
                grace = 300 if name == "stubborn" else 1
                await world.create(name, [container("main", script, **more)], terminationGracePeriodSeconds=grace)
            pod = await world.until("delayed", ready, "ready after its delay")
            running, turned = of(pod).state.running, next(c for c in pod.status.conditions if c.type == "Ready")
            assert running is not None
            assert running.started_at is not None
            assert turned.last_transition_time is not None
            assert (turned.last_transition_time - running.started_at).total_seconds() >= 2  # times are whole seconds
            await world.until("web", ready, "ready")
            for name in ("stubborn", "gone", "moved", "hangs", "refuses", "late"):
                await world.until(name, restarted, f"{name} is restarted", 60)
            await world.until("often", lambda pod: restarted(pod, 3), "restarted again and again", 60)
            for name, text in {
                "never": "Readiness probe failed: no",
                "often": "Liveness probe failed: cat: can't open '/healthy'",
                "gone": ":9: connect: connection refused",
                "moved": "Liveness probe failed: HTTP probe failed with statuscode: 500",
                "hangs": 'Liveness probe failed: command timed out: "sh -c sleep 100; true" timed out after 1s',
                "refuses": 'Liveness probe failed: service unhealthy (responded with "NOT_SERVING")',
                "late": "Startup probe failed: command exited with 1",
            }.items():
                await said(world, name, "Unhealthy", text)
            await said(world, "away", "ProbeWarning", "Liveness probe warning: Probe terminated redirects")
            await said(world, "late", "Killing", "Container main failed startup probe, will be restarted")
            for name in ("delayed", "never", "fine", "web", "grpc", "away"):
                found = await world.pod(name)
                assert found is not None
                assert of(found).restart_count == 0, name
            found = await world.pod("never")
            assert found is not None
            assert not ready(found)
            await _deleted(world, *probed)

    run(test)


async def _deleted(world: World, *names: str) -> None:
    await asyncio.gather(*(world.client.delete(PODS, name, "default", grace_period_seconds=1) for name in names))
    for name in names:
        await world.until_gone(name)
    await world.eventually(lambda: not world.remains(), "nothing is left")


def test_hooks(run: Run) -> None:
    async def test(world: World) -> None:
        async with listening() as server:
            marked = "touch /begun; " + WAITS
            secret = [{"name": "Authorization", "value": "secret"}]
            hooked: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
                "exec": (
                    shell("touch /hooked"),
                    shell(f"wget -q -O /dev/null http://{ADDRESS}:{server.port}/exec-bye"),
                ),
                "http": (server.get("/hello"), server.get("/bye?x=1")),
                "https": (
                    server.get("/s-hello", scheme="HTTPS", httpHeaders=secret),
                    server.get("/s-bye", scheme="HTTPS"),
                ),
                "tcp": ({"tcpSocket": {"host": ADDRESS, "port": server.port}}, {"sleep": {"seconds": 0}}),
                "fails": (shell("echo secret; exit 3"), {"sleep": {"seconds": 1}}),
            }
            for name, (start, stop) in hooked.items():
                hooks = {"postStart": start, "preStop": stop}
                more = {"readinessProbe": shell("cat /hooked") | every()} if name == "exec" else {}
                await world.create(name, [container("main", marked, lifecycle=hooks, **more)])
            for name in ("exec", "http", "https", "tcp"):
                await world.until(name, ready, f"{name} is ready")
            await said(world, "fails", "FailedPostStartHook", "PostStartHook failed")
            await world.until("fails", lambda pod: restarted(pod, 1), "the container whose hook failed is killed", 60)
            assert {"/hello", "/s-hello"} <= server.paths()
            assert "Authorization" not in next(r for r in server.heard if r.path == "/s-hello").headers
            at = f"{ADDRESS}:{server.port}"
            words = f"request to HTTPS lifecycle hook {at} got HTTP response, retry with HTTP succeeded"
            await said(world, "https", "LifecycleHTTPFallback", words)
            await _deleted(world, *hooked)
            assert {"/bye", "/s-bye", "/exec-bye"} <= server.paths()

    run(test)
