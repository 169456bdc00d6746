"""Images from a registry that wants a password: pulled with the pod's secret, refused in words without it."""

import asyncio
import base64
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from kube.pods import ContainerStatus, Pod
from kube.resources import PODS, SECRETS
from linux import netns as kernel
from tests.conftest import Netns
from tests.dockerd import busybox_tar
from tests.fakes import registry as registries
from tests.fakes.registry import Registry
from tests.node import engines
from tests.node.kubelet_world import World, container, ready, with_world
from tests.requirements import requires

requires("root", "docker", "nsenter")

TIME = r"[\d.]+m?s"
Run = Callable[[Callable[[World, Registry], Awaitable[None]]], None]


@pytest.fixture(params=engines.NAMES)
def run(
    netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Run]:
    """On runtimes that live in the node's namespace: the registry is on its 127.0.0.1."""
    node = netns("images")

    with engines.own(request.param, node) as engine:

        async def with_registry(test: Callable[[World, Registry], Awaitable[None]]) -> None:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                async with registries.serving(listener, "test/app", busybox_tar()) as registry:
                    await with_world(node, engine, cgroup_parent, tmp_path, lambda world: test(world, registry))

        def go(test: Callable[[World, Registry], Awaitable[None]]) -> None:
            with kernel.enter(node.path):
                asyncio.run(with_registry(test))

        yield go


def status(pod: Pod) -> ContainerStatus | None:
    return next(iter(pod.status.container_statuses), None)


def waits_with(reason: str) -> Callable[[Pod], bool]:
    def waiting(pod: Pod) -> bool:
        found = status(pod)
        return found is not None and found.state.waiting is not None and found.state.waiting.reason == reason

    return waiting


def app(registry: Registry, **more: str) -> dict[str, object]:
    return {**container("a", "sleep 1000"), "image": registry.image, **more}


def test_a_password_is_needed(run: Run) -> None:
    async def test(world: World, registry: Registry) -> None:
        await world.create("stranger", [app(registry)], imagePullSecrets=[{"name": "absent"}])
        pod = await world.until("stranger", waits_with("ErrImagePull"), "refused")
        refused = status(pod)
        assert refused is not None
        assert refused.state.waiting is not None
        assert registry.host in refused.state.waiting.message
        pod = await world.until("stranger", waits_with("ImagePullBackOff"), "backed off")
        assert pod.status.phase == "Pending"
        (warning,) = await world.events("FailedToRetrieveImagePullSecret")
        assert "(absent)" in warning.message
        (failed,) = [
            event for event in await world.events("Failed") if event.message.startswith("Failed to pull image")
        ]
        assert registry.host in failed.message
        assert registry.asked == []

        auths = {"auths": {registry.host: {"username": registry.user, "password": registry.password}}}
        data = {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()}
        secret = {"metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson", "data": data}
        await world.client.create(SECRETS, secret, "default")
        await world.create("friend", [app(registry)], imagePullSecrets=[{"name": "pull"}])
        pod = await world.until("friend", ready, "runs")
        running = status(pod)
        assert running is not None
        assert running.image_id.endswith(registries.digest_of(registry.manifest)), running.image_id
        pulled = rf'Successfully pulled image "{re.escape(registry.image)}" in {TIME} \({TIME} including waiting\)'

        async def told() -> bool:
            found = [event.message for event in await world.events("Pulled")]
            return any(re.fullmatch(rf"{pulled}\. Image size: [1-9]\d+ bytes\.", message) for message in found)

        await world.eventually(told, "an Event says how long it took and how large it is")
        # It is there now: nobody asks the registry again.
        registry.away = True
        await world.create("another", [app(registry, imagePullPolicy="IfNotPresent")])
        await world.until("another", ready, "runs")
        await world.create("anew", [app(registry, imagePullPolicy="Always")], imagePullSecrets=[{"name": "pull"}])
        await world.until("anew", waits_with("ErrImagePull"), "the registry is away")
        for name in ("stranger", "friend", "another", "anew"):
            await world.client.delete(PODS, name, "default")
        for name in ("stranger", "friend", "another", "anew"):
            await world.until_gone(name)

    run(test)
