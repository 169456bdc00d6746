"""`kubectl drain` against a disruption budget, with every kubectl there is: it waits while the budget says so, and goes on."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kube.client import Client
from kube.resources import DEPLOYMENTS, NAMESPACES, NODES, PODDISRUPTIONBUDGETS, PODS
from tests.fakes.centre import Centre, centre, eventually
from tests.fakes.node import fake_nodes
from tests.requirements import kubectls, requires

VIOLATED = "Cannot evict pod as it would violate the pod's disruption budget."


def deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


def budget(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": name}}, **spec}}


async def kubectl(path: str, made: Centre, *words: str) -> tuple[int, str]:
    argv = [path, "--kubeconfig", str(made.kubeconfig), *words]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def on(client: Client, namespace: str, app: str) -> list[str]:
    pods = (await client.list(PODS, namespace, label_selector=f"app={app}")).items
    return [pod.spec.node_name for pod in pods if pod.metadata.deletion_timestamp is None]


async def allowed(client: Client, namespace: str, name: str, number: int) -> bool:
    status = (await client.get(PODDISRUPTIONBUDGETS, name, namespace)).status
    return bool(status.conditions) and status.disruptions_allowed == number and status.current_healthy == 2


async def drained(path: str, made: Centre, client: Client, namespace: str) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": namespace}})
    await client.create(DEPLOYMENTS, deployment("web", 2), namespace)
    await client.create(PODDISRUPTIONBUDGETS, budget("web", minAvailable=2), namespace)
    await eventually("the budget allows none", lambda: allowed(client, namespace, "web", 0), timeout=40)
    node = (await on(client, namespace, "web"))[0]
    words = ("drain", node, "--pod-selector=app=web", "--ignore-daemonsets")
    code, output = await kubectl(path, made, *words, "--timeout=2s")
    assert code, output
    assert VIOLATED in output
    assert len([one for one in await on(client, namespace, "web") if one == node]) >= 1
    await client.patch(PODDISRUPTIONBUDGETS, "web", {"spec": {"minAvailable": 1}}, namespace)
    await eventually("the budget allows one", lambda: allowed(client, namespace, "web", 1), timeout=40)
    code, output = await kubectl(path, made, *words, "--timeout=50s")
    assert (code, f"node/{node} drained" in output) == (0, True), output
    assert node not in await on(client, namespace, "web")
    assert (await client.get(NODES, node)).spec.unschedulable
    code, output = await kubectl(path, made, "uncordon", node)
    assert code == 0, output


@pytest.mark.timeout(400)
async def test_a_drain_waits_for_the_budget(tmp_path: Path) -> None:
    requires("kubectl")
    async with centre(tmp_path) as made, made.client() as client, fake_nodes(client, 3):
        for number, path in enumerate(kubectls()):
            await drained(path, made, client, f"drain{number}")
