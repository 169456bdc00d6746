"""The controllers when things go away: themselves, the API server, nodes, a second copy; and a burst."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kube.meta import now, timestamp
from kube.resources import DEPLOYMENTS, NODES, PODS
from tests.fakes.centre import Daemon, eventually
from tests.node.test_controllers import NS, cluster, complete, deployment, gone, pods
from tests.ports import free_port


async def test_a_deadline_survives_the_controllers(tmp_path: Path) -> None:
    async with cluster(tmp_path, nodes=2) as (made, client, _nodes):
        toleration = {"key": "drill", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 8}
        container = {"name": "c", "image": "x"}
        spec = {"containers": [container], "nodeName": "node1"}
        await client.create(PODS, {"metadata": {"name": "short"}, "spec": {**spec, "tolerations": [toleration]}}, NS)
        await client.create(PODS, {"metadata": {"name": "none"}, "spec": spec}, NS)

        async def running() -> bool:
            return all(p.status.phase == "Running" for p in (await client.list(PODS, NS)).items)

        await eventually("both run", running)
        added = now()
        taint = {"key": "drill", "effect": "NoExecute", "timeAdded": timestamp(added)}
        await client.patch(NODES, "node1", {"spec": {"taints": [taint]}})
        await gone(client, PODS, "none")
        made.controllers.kill()
        await asyncio.sleep(4.0)  # half of the toleration passes while nobody counts
        made.controllers.start()

        async def back() -> bool:
            return await asyncio.to_thread(made.controllers.ready)

        await eventually("the controllers are back", back)
        restarted = datetime.now(UTC)
        await gone(client, PODS, "short")
        ended = datetime.now(UTC)
        assert (ended - added).total_seconds() >= 8
        assert (ended - restarted).total_seconds() < 8, "counted from the taint, not from the restart"


async def test_pods_of_a_deleted_node_go(tmp_path: Path) -> None:
    async with cluster(tmp_path, nodes=2) as (_, client, nodes):
        await client.create(DEPLOYMENTS, deployment(replicas=2), NS)
        await complete(client)
        nodes[1].silent = True
        (lost,) = [p for p in await pods(client) if p.spec.node_name == "node2"]
        await client.delete(PODS, lost.metadata.name, NS)
        await client.delete(NODES, "node2")

        async def moved() -> bool:
            present = await pods(client)
            return lost.metadata.uid not in {p.metadata.uid for p in present} and len(present) == 2

        await eventually("the lost pod is removed after its quarantine", moved, timeout=60.0)


async def test_the_api_server_may_go_away(tmp_path: Path) -> None:
    """Longer than a node's grace and than the leaders' renew deadline: nobody is declared lost for it, nobody ends, and the
    work goes on."""
    async with cluster(tmp_path, grace="4s") as (made, client, _nodes):
        await client.create(DEPLOYMENTS, deployment(), NS)
        await complete(client)
        before = {p.metadata.uid for p in await pods(client)}
        made.apiserver.kill()
        await asyncio.sleep(12.0)  # the outage itself is what is tested
        made.apiserver.start()

        async def answers() -> bool:
            await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 5}}, NS)
            return True

        await eventually("the API answers", answers, timeout=60.0)
        await complete(client, timeout=60.0)
        assert before <= {p.metadata.uid for p in await pods(client)}
        assert not any(n.spec.taints for n in (await client.list(NODES)).items)
        assert made.controllers.alive
        assert made.scheduler.alive


async def test_of_two_copies_one_works_and_the_other_takes_over(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (made, client, _nodes):
        port = free_port()
        flags = ["--kubeconfig", str(made.kubeconfig), "--bind-address", "127.0.0.1", "--secure-port", str(port)]
        second = Daemon(tmp_path, "controllers", port, flags)
        second.log = tmp_path / "second.log"
        second.start()
        try:
            await client.create(DEPLOYMENTS, deployment(replicas=4), NS)
            await complete(client)
            assert "leading" not in second.log.read_text()
            made.controllers.kill()
            await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 6}}, NS)
            await complete(client)
            assert "leading" in second.log.read_text()
            assert len(await pods(client)) == 6
        finally:
            second.end()


@pytest.mark.alone
async def test_a_burst_is_scheduled_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (made, client, _nodes):
        await client.create(DEPLOYMENTS, deployment(replicas=1), NS)
        await complete(client)
        used = made.scheduler.cpu()
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 100}}, NS)

        async def bound() -> bool:
            present = await pods(client)
            return len(present) == 100 and all(p.spec.node_name for p in present)

        await eventually("a hundred pods are bound", bound, timeout=30.0)
        spread = Counter(p.spec.node_name for p in await pods(client))
        assert sorted(spread.values()) == [33, 33, 34]
        assert made.scheduler.cpu() - used < 3.0
