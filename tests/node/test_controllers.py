"""The scheduler and the controllers against our own API server, with nodes that are fakes and everything else real."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kube import labels
from kube.apps import Deployment
from kube.client import Client, Patch
from kube.discovery import Endpoint
from kube.errors import NotFound
from kube.pods import Pod
from kube.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)
from tests.fakes.centre import Centre, centre, eventually
from tests.fakes.node import FakeNode, fake_nodes

NS = "default"


@asynccontextmanager
async def cluster(folder: Path, nodes: int = 3, **options: Any) -> AsyncIterator[tuple[Centre, Client, list[FakeNode]]]:
    async with centre(folder, **options) as made, made.client() as client, fake_nodes(client, nodes) as fakes:
        yield made, client, list(fakes)


def deployment(name: str = "web", replicas: int = 3, image: str = "web:1", **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
    }
    return {
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }


def image(name: str) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": name}]}}}}


async def pods(client: Client, app: str = "web") -> list[Pod]:
    return list((await client.list(PODS, NS, label_selector=f"app={app}")).items)


async def complete(client: Client, name: str = "web", timeout: float = 30.0) -> Deployment:
    """The Deployment once its rollout is complete, as `kubectl rollout status` sees it."""

    async def check() -> Deployment | None:
        found = await client.get(DEPLOYMENTS, name, NS)
        status, wanted = found.status, found.spec.replicas
        seen = status.observed_generation >= found.metadata.generation
        done = status.updated_replicas == status.replicas == status.available_replicas == wanted
        return found if seen and done else None

    return await eventually(f"deployment {name} complete", check, timeout=timeout)


async def gone(
    client: Client, resource: Resource[Any], name: str, namespace: str | None = NS, timeout: float = 30.0
) -> None:
    async def check() -> bool:
        try:
            await client.get(resource, name, namespace)
        except NotFound:
            return True
        return False

    await eventually(f"{resource.kind} {name} gone", check, timeout=timeout)


async def test_a_rollout_goes_forward_and_back(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, client, _nodes):
        await client.create(DEPLOYMENTS, deployment(), NS)
        first = await complete(client)
        spread = Counter(p.spec.node_name for p in await pods(client))
        assert spread == {"node1": 1, "node2": 1, "node3": 1}
        assert {(c.type, c.status, c.reason) for c in first.status.conditions} == {
            ("Available", "True", "MinimumReplicasAvailable"),
            ("Progressing", "True", "NewReplicaSetAvailable"),
        }
        await client.patch(DEPLOYMENTS, "web", image("web:2"), NS, kind=Patch.STRATEGIC)
        second = await complete(client)
        assert second.metadata.annotations[labels.DEPLOYMENT_REVISION] == "2"

        async def two_sets() -> bool:
            sets = (await client.list(REPLICASETS, NS)).items
            return sorted((s.spec.replicas, s.status.replicas) for s in sets) == [(0, 0), (3, 3)]

        await eventually("the old set is empty", two_sets)
        await client.patch(DEPLOYMENTS, "web", image("web:1"), NS, kind=Patch.STRATEGIC)
        third = await complete(client)
        assert third.metadata.annotations[labels.DEPLOYMENT_REVISION] == "3"
        assert len((await client.list(REPLICASETS, NS)).items) == 2
        messages = [e.message for e in (await client.list(EVENTS, NS)).items if e.reason == "ScalingReplicaSet"]
        assert any("from 0 to 3" in m for m in messages), messages


async def test_scaling_and_deleting_pods_converge(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, client, _nodes):
        await client.create(DEPLOYMENTS, deployment(replicas=2), NS)
        await complete(client)
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 6}}, NS)
        await complete(client)
        victims = (await pods(client))[:3]
        for pod in victims:
            await client.delete(PODS, pod.metadata.name, NS)

        async def replaced() -> bool:
            present = await pods(client)
            return len(present) == 6 and not {p.metadata.uid for p in present} & {p.metadata.uid for p in victims}

        await eventually("the deleted pods are replaced", replaced)
        await complete(client)
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 0}}, NS)

        async def none() -> bool:
            return not await pods(client)

        await eventually("no pods are left", none)


async def test_a_pod_that_fits_nowhere_says_why_and_goes_when_there_is_room(tmp_path: Path) -> None:
    async with cluster(tmp_path, nodes=1) as (_, client, _nodes):
        container = {"name": "c", "image": "x", "resources": {"requests": {"cpu": "100"}}}
        await client.create(PODS, {"metadata": {"name": "big"}, "spec": {"containers": [container]}}, NS)

        async def refused() -> bool:
            pod = await client.get(PODS, "big", NS)
            words = [(c.reason, c.message) for c in pod.status.conditions if c.type == "PodScheduled"]
            return words == [("Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")]

        await eventually("big is refused", refused)
        room = {"status": {"allocatable": {"cpu": "200", "memory": "8Gi", "pods": "110"}}}
        await client.patch(NODES, "node1", room, subresource="status")

        async def running() -> bool:
            return (await client.get(PODS, "big", NS)).status.phase == "Running"

        await eventually("big runs", running)
        reasons = {e.reason for e in (await client.list(EVENTS, NS)).items if e.involved_object.name == "big"}
        assert {"FailedScheduling", "Scheduled"} <= reasons


async def test_a_silent_node_is_tainted_and_its_pods_run_elsewhere(tmp_path: Path) -> None:
    async with cluster(tmp_path, grace="4s") as (_, client, nodes):
        await client.create(DEPLOYMENTS, deployment(), NS)
        await complete(client)
        nodes[2].silent = True

        async def elsewhere() -> bool:
            alive = [p for p in await pods(client) if p.metadata.deletion_timestamp is None]
            ready = [p for p in alive if any(c.type == "Ready" and c.status == "True" for c in p.status.conditions)]
            return len(ready) == 3 and {p.spec.node_name for p in ready} <= {"node1", "node2"}

        await eventually("three pods are ready on the other nodes", elsewhere)
        lost = await client.get(NODES, "node3")
        ready = next(c for c in lost.status.conditions if c.type == "Ready")
        assert (ready.status, ready.reason) == ("Unknown", "NodeStatusUnknown")
        assert {(t.key, t.effect) for t in lost.spec.taints} == {
            (labels.TAINT_UNREACHABLE, "NoSchedule"),
            (labels.TAINT_UNREACHABLE, "NoExecute"),
        }
        left = [p for p in await pods(client) if p.spec.node_name == "node3"]
        assert [p.metadata.deletion_timestamp is not None for p in left] == [True]
        assert any(c.type == "Ready" and c.status == "False" for c in left[0].status.conditions)

        nodes[2].silent = False
        nodes[2].look_again()

        async def back() -> bool:
            node = await client.get(NODES, "node3")
            return not node.spec.taints and not [p for p in await pods(client) if p.spec.node_name == "node3"]

        await eventually("node3 is back and rid of what was evicted", back)


async def test_endpoints_follow_readiness(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, client, nodes):
        port = {"name": "web", "port": 80, "targetPort": "http"}
        service = {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [port]}}
        await client.create(SERVICES, service, NS)
        await client.create(DEPLOYMENTS, deployment(), NS)
        await complete(client)

        async def found() -> tuple[Endpoint, ...]:
            pages = await client.list(ENDPOINTSLICES, NS, label_selector=f"{labels.SERVICE_NAME}=web")
            return tuple(e for s in pages.items for e in s.endpoints or ())

        async def ready(count: int) -> bool:
            slices, old = await found(), await client.get(ENDPOINTS, "web", NS)
            addresses = [a for s in old.subsets for a in s.addresses]
            return sum(e.ready for e in slices) == count == len(addresses)

        await eventually("three endpoints", lambda: ready(3))
        (endpoint_slice,) = (await client.list(ENDPOINTSLICES, NS, label_selector=f"{labels.SERVICE_NAME}=web")).items
        assert [(p.name, p.port, p.protocol) for p in endpoint_slice.ports or ()] == [("web", 8080, "TCP")]
        assert {e.zone for e in endpoint_slice.endpoints or ()} == {"zone-0", "zone-1"}
        nodes[0].ready = lambda pod: False
        nodes[0].look_again()
        await eventually("two endpoints", lambda: ready(2))
        assert len(await found()) == 3
        nodes[0].ready = lambda pod: True
        nodes[0].look_again()
        await eventually("three again", lambda: ready(3))
        assert [
            s.metadata.uid
            for s in (await client.list(ENDPOINTSLICES, NS, label_selector=f"{labels.SERVICE_NAME}=web")).items
        ] == [endpoint_slice.metadata.uid]
        await client.delete(SERVICES, "web", NS)
        await gone(client, ENDPOINTS, "web")
        await gone(client, ENDPOINTSLICES, endpoint_slice.metadata.name)


async def test_owners_and_what_they_own_end_together_or_apart(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, client, _nodes):
        for name in ("back", "fore", "orphan"):
            await client.create(DEPLOYMENTS, deployment(name, replicas=2), NS)
        for name in ("back", "fore", "orphan"):
            await complete(client, name)

        async def none(app: str) -> bool:
            sets = (await client.list(REPLICASETS, NS, label_selector=f"app={app}")).items
            return not sets and not await pods(client, app)

        await client.delete(DEPLOYMENTS, "back", NS, propagation="Background")
        await gone(client, DEPLOYMENTS, "back")
        await eventually("its pods follow", lambda: none("back"))

        await client.delete(DEPLOYMENTS, "fore", NS, propagation="Foreground")
        await gone(client, DEPLOYMENTS, "fore")
        assert await none("fore")

        await client.delete(DEPLOYMENTS, "orphan", NS, propagation="Orphan")
        await gone(client, DEPLOYMENTS, "orphan")
        (left,) = (await client.list(REPLICASETS, NS, label_selector="app=orphan")).items
        assert left.metadata.owner_references == ()
        assert len(await pods(client, "orphan")) == 2

        await client.create(DEPLOYMENTS, deployment("orphan", replicas=2), NS)
        await complete(client, "orphan")
        (adopted,) = (await client.list(REPLICASETS, NS, label_selector="app=orphan")).items
        assert adopted.metadata.uid == left.metadata.uid
        assert adopted.metadata.controller is not None


async def test_a_namespace_goes_when_its_content_has_gone(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, client, _nodes):
        await client.create(NAMESPACES, {"metadata": {"name": "team"}})

        async def furnished() -> bool:
            await client.get(SERVICEACCOUNTS, "default", "team")
            return "BEGIN CERTIFICATE" in (await client.get(CONFIGMAPS, "kube-root-ca.crt", "team")).data["ca.crt"]

        async def furnished_or_not() -> bool:
            try:
                return await furnished()
            except NotFound:
                return False

        await eventually("the namespace is furnished", furnished_or_not)
        held = {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}, "data": {}}
        await client.create(CONFIGMAPS, held, "team")
        await client.create(DEPLOYMENTS, deployment(), "team")
        await client.delete(NAMESPACES, "team")

        async def waiting() -> bool:
            namespace = await client.get(NAMESPACES, "team")
            words = {c.type: c.message for c in namespace.status.conditions if c.status == "True"}
            return words == {
                "NamespaceContentRemaining": "Some resources are remaining: configmaps. has 1 resource instances",
                "NamespaceFinalizersRemaining": "Some content in the namespace has finalizers remaining: "
                "example.com/hold in 1 resource instances",
            }

        await eventually("the namespace says what it waits for", waiting)
        await client.patch(CONFIGMAPS, "held", {"metadata": {"finalizers": None}}, "team")
        await gone(client, NAMESPACES, "team", None)
        for resource in (PODS, DEPLOYMENTS, REPLICASETS, CONFIGMAPS, SERVICEACCOUNTS):
            assert not (await client.list(resource, "team")).items


async def test_ranges_never_overlap_though_the_controllers_are_killed(tmp_path: Path) -> None:
    async with centre(tmp_path, scheduler=False) as made, made.client() as client:

        async def make(first: int, count: int) -> None:
            for i in range(first, first + count):
                await client.create(NODES, {"metadata": {"name": f"n{i}"}})

        async def all_have(count: int) -> bool:
            nodes = (await client.list(NODES)).items
            return len(nodes) == count and all(n.spec.pod_cidr for n in nodes)

        await make(0, 10)
        made.controllers.kill()
        await make(10, 10)
        made.controllers.start()
        await make(20, 10)
        await eventually("thirty ranges", lambda: all_have(30))
        await client.delete(NODES, "n3")
        made.controllers.kill()
        made.controllers.start()
        await make(30, 1)
        await eventually("thirty ranges", lambda: all_have(30))
        ranges = [n.spec.pod_cidr for n in (await client.list(NODES)).items]
        assert len(set(ranges)) == 30
        assert all(r.startswith("10.244.") and r.endswith(".0/24") for r in ranges)


async def test_a_rollout_survives_kills_in_its_midst(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (made, client, _nodes):
        await client.create(DEPLOYMENTS, deployment(replicas=8), NS)
        await complete(client)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                alive = [p for p in await pods(client) if p.metadata.deletion_timestamp is None]
                most = max(most, len(alive))
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            await client.patch(DEPLOYMENTS, "web", image("web:2"), NS, kind=Patch.STRATEGIC)
            for daemon in (made.controllers, made.scheduler, made.controllers):
                await eventually("it is at work", lambda: _moved(client))
                daemon.kill()
                daemon.start()
            found = await complete(client, timeout=60.0)
            watching.cancel()
        assert found.status.replicas == 8
        assert most <= 10, "8 replicas and 25% surge"
        assert {p.spec.containers[0].image for p in await pods(client) if p.metadata.deletion_timestamp is None} == {
            "web:2"
        }


async def _moved(client: Client) -> bool:
    status = (await client.get(DEPLOYMENTS, "web", NS)).status
    return status.updated_replicas > 0


async def test_both_daemons_end_cleanly_and_hand_over(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (made, client, _nodes):
        await client.create(DEPLOYMENTS, deployment(), NS)
        await complete(client)
        assert "workqueue_depth" in made.controllers.get("/metrics")
        assert (
            'scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 3.0'
            in made.scheduler.get("/metrics")
        )
        assert made.controllers.end() == 0
        assert made.scheduler.end() == 0
        made.scheduler.start()
        made.controllers.start()
        await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 5}}, NS)
        await complete(client, timeout=12.0)  # less than a lease: it was handed over, not waited for
