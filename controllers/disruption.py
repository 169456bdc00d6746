"""The disruption loop: a key is a PodDisruptionBudget; its own changes and those of the pods it selects wake it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from controllers import apply
from controllers.observe import World
from controllers.plan import disruption as plan
from controllers.plan.disruption import Scales
from controllers.plan.pods import is_ready
from kube.errors import NotFound
from kube.events import Recorder
from kube.informer import Change
from kube.meta import OwnerReference, now
from kube.pods import Pod
from kube.policy import PodDisruptionBudget
from kube.reconcile import Keys, by_key
from kube.selectors import from_label_selector


class Disruptions:
    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._client = world.client
        self._recorder = recorder
        self.keys: Keys[str] = Keys()
        world.budgets.subscribe(lambda change: self.keys.add(change.key))
        world.pods.subscribe(self._pod_changed)
        for resource, informer in world.informers.items():
            if resource.kind in ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController"):
                informer.subscribe(self._controller_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=2, name="disruption")

    def _pod_changed(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if old and new and _counted(old) == _counted(new):
            return
        for pod in (old, new):
            if pod is not None:
                self._wake(pod)

    def _wake(self, pod: Pod) -> None:
        for budget in self._world.budgets_by_namespace.get(pod.metadata.namespace):
            if selects(budget, pod):
                self.keys.add(budget.metadata.key)

    def _controller_changed(self, change: Change[Any]) -> None:
        old, new = change.old, change.new
        if old is not None and new is not None and old.metadata.generation == new.metadata.generation:
            return
        namespace, _, _ = change.key.partition("/")
        for budget in self._world.budgets_by_namespace.get(namespace):
            self.keys.add(budget.metadata.key)

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        budget = self._world.budgets.get(name, namespace)
        if budget is None or budget.metadata.deletion_timestamp is not None:
            return None
        pods = [pod for pod in self._world.pods_by_namespace.get(namespace) if selects(budget, pod)]
        scales = await self._scales(pods) if plan.needs_scales(budget) else Scales()
        moment = now()
        if scales.failure:
            await apply.carry_out(plan.failed(budget, scales.failure, moment), self._client, self._recorder)
            return None
        found = plan.count(budget, pods, scales, moment)
        if patch := plan.report(budget, found, moment):
            await apply.amend(patch, self._client)
        return plan.again_in(found, moment)

    async def _scales(self, pods: Sequence[Pod]) -> Scales:
        wanted: dict[str, int] = {}
        unmanaged: list[str] = []
        for pod in pods:
            owner = pod.metadata.controller
            if owner is None:
                unmanaged.append(pod.metadata.name)
                continue
            found = await self._scale(owner, pod.metadata.namespace)
            if found is None:
                return Scales(failure=f'found no controllers for pod "{pod.metadata.name}"')
            uid, replicas = found
            wanted[uid] = replicas
        return Scales(sum(wanted.values()), tuple(unmanaged))

    async def _scale(self, owner: OwnerReference, namespace: str) -> tuple[str, int] | None:
        """The controller's uid and how many pods it wants; a Deployment speaks for its ReplicaSets."""
        group, _, _ = owner.api_version.rpartition("/")
        if (group, owner.kind) == ("apps", "ReplicaSet"):
            found = self._world.replica_sets.get(owner.name, namespace)
            if found is None or found.metadata.uid != owner.uid:
                return None
            above = found.metadata.controller
            if above is None or above.kind != "Deployment":
                return owner.uid, _replicas(found.spec.replicas)
            deployment = self._world.deployments.get(above.name, namespace)
            return (above.uid, _replicas(deployment.spec.replicas)) if deployment else None
        resource = self._world.kind(group, owner.kind)
        if resource is None:
            return None
        try:
            scale = await self._client.request("GET", resource.path(namespace, owner.name, "scale"))
        except NotFound:
            return None
        body: dict[str, Any] = msgspec.json.decode(scale)
        return owner.uid, int((body.get("spec") or {}).get("replicas", 0))


def _replicas(given: int | None) -> int:
    return 1 if given is None else given


def selects(budget: PodDisruptionBudget, pod: Pod) -> bool:
    """An empty selector selects every pod of the namespace (policy/v1)."""
    return from_label_selector(budget.spec.selector).matches(pod.metadata.labels)


def _counted(pod: Pod) -> tuple[object, ...]:
    return pod.metadata.labels, pod.metadata.deletion_timestamp is None, is_ready(pod), pod.metadata.controller
