"""A node without a kernel: to the API server it is a kubelet that starts whatever it is told to, at once.

It registers its Node, renews its Lease, reports its pods running and ready with an address each, and confirms the end of
those that are terminating, as a kubelet does (grace 0, uid). `silent` makes it fall silent without a word: pods stay as they
are and nothing is renewed, which is all that the centre sees of a machine that has lost its power.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kube.client import Client, Patch
from kube.errors import AlreadyExists, ApiError, ApiUnreachable, Conflict, NotFound
from kube.informer import Informer
from kube.meta import micro_timestamp, now, timestamp
from kube.pods import Pod
from kube.reconcile import Backoff, Keys, by_key
from kube.resources import LEASES, NODES, PODS

LEASE_NAMESPACE = "kube-node-lease"
_FINE = {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}


class FakeNode:
    """`ready` decides whether a pod passes its readiness probe."""

    def __init__(self, client: Client, name: str, number: int, *, cpu: str = "4", pods: str = "110") -> None:
        self.name = name
        self.ready: Callable[[Pod], bool] = lambda pod: True
        self.silent = False
        self._client = client
        self._number = number
        self._capacity = {"cpu": cpu, "memory": "8Gi", "pods": pods, "ephemeral-storage": "100Gi"}
        self._addresses: dict[str, str] = {}
        self._pods = Informer(client, PODS, field_selector=f"spec.nodeName={name}")
        self._keys: Keys[str] = Keys()
        self._pods.subscribe(lambda change: self._keys.add(change.key))

    def look_again(self) -> None:
        """`ready` or `silent` has changed."""
        for pod in self._pods.items():
            self._keys.add(pod.metadata.key)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeat())
            group.create_task(self._pods.run())
            group.create_task(by_key(self._sync, self._keys, workers=4, backoff=Backoff(first=0.05, most=0.5)))

    async def _heartbeat(self, period: float = 0.5) -> None:
        while True:
            if not self.silent:
                try:
                    await self._report()
                    await self._renew()
                except (ApiError, ApiUnreachable):
                    pass  # the next beat tries again
            await asyncio.sleep(period)

    async def _report(self) -> None:
        try:
            node = await self._client.get(NODES, self.name)
        except NotFound:
            labels = {"kubernetes.io/hostname": self.name, "topology.kubernetes.io/zone": f"zone-{self._number % 2}"}
            node = await self._client.create(NODES, {"metadata": {"name": self.name, "labels": labels}})
        if any(c.type == "Ready" and c.status == "True" for c in node.status.conditions):
            return
        conditions = [
            {"type": kind, "status": status, "reason": "Fake", "lastTransitionTime": timestamp(now())}
            for kind, status in (
                ("Ready", "True"),
                ("MemoryPressure", "False"),
                ("DiskPressure", "False"),
                ("PIDPressure", "False"),
            )
        ]
        status = {"capacity": self._capacity, "allocatable": self._capacity, "conditions": conditions}
        await self._client.patch(NODES, self.name, {"status": status}, kind=Patch.STRATEGIC, subresource="status")

    async def _renew(self) -> None:
        stamp = micro_timestamp(datetime.now(UTC))
        try:
            await self._client.patch(LEASES, self.name, {"spec": {"renewTime": stamp}}, LEASE_NAMESPACE)
        except NotFound:
            spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": stamp}
            try:
                await self._client.create(LEASES, {"metadata": {"name": self.name}, "spec": spec}, LEASE_NAMESPACE)
            except AlreadyExists:
                return

    async def _sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        pod = self._pods.get(name, namespace)
        if pod is None or self.silent:
            return None
        try:
            if pod.metadata.deletion_timestamp is not None:
                await self._client.delete(PODS, name, namespace, grace_period_seconds=0, uid=pod.metadata.uid)
            elif pod.status.phase not in ("Succeeded", "Failed"):
                await self._start(pod)
        except (NotFound, Conflict):
            return None
        return None

    async def _start(self, pod: Pod) -> None:
        uid = pod.metadata.uid
        ready = "True" if self.ready(pod) else "False"
        if pod.status.phase == "Running" and any(
            c.type == "Ready" and c.status == ready for c in pod.status.conditions
        ):
            return
        address = self._addresses.setdefault(uid, f"10.244.{self._number}.{len(self._addresses) + 2}")
        conditions = [
            {"type": kind, "status": ready, "lastTransitionTime": timestamp(now())}
            for kind in ("Ready", "ContainersReady")
        ]
        status: dict[str, Any] = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": timestamp(now()),
            "conditions": conditions,
        }
        body = {"metadata": {"uid": uid}, "status": status}
        await self._client.patch(
            PODS, pod.metadata.name, body, pod.metadata.namespace, kind=Patch.STRATEGIC, subresource="status"
        )


@asynccontextmanager
async def fake_nodes(client: Client, count: int, **options: str) -> AsyncIterator[Sequence[FakeNode]]:
    """`node1` to `nodeN`, alive while the context is open."""
    nodes = [FakeNode(client, f"node{i}", i, **options) for i in range(1, count + 1)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.run()) for node in nodes]
        try:
            yield nodes
        finally:
            for task in tasks:
                task.cancel()
