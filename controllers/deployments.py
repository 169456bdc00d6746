"""The Deployment loop: a key is one Deployment; its ReplicaSets, its pods' ends (Recreate) and its own changes wake it."""

from controllers import apply
from controllers.observe import OwnWrites, World
from controllers.plan import deployments as plan
from controllers.plan.claims import adopt, claims, release
from controllers.plan.pods import controls, is_over
from controllers.plan.templates import canonical, template_hash
from kube.apps import Deployment, ReplicaSet
from kube.errors import AlreadyExists, Invalid, NotFound
from kube.events import Recorder
from kube.informer import Change
from kube.meta import now
from kube.pods import Pod
from kube.reconcile import Keys, by_key
from kube.resources import DEPLOYMENTS, REPLICASETS
from kube.selectors import from_label_selector


class Deployments:
    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._client = world.client
        self._recorder = recorder
        self._sets = OwnWrites(world.client, REPLICASETS, world.replica_sets)
        self.keys: Keys[str] = Keys()
        world.deployments.subscribe(lambda change: self.keys.add(change.key))
        world.replica_sets.subscribe(self._set_changed)
        world.pods.subscribe(self._pod_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=4, name="deployment")

    def _set_changed(self, change: Change[ReplicaSet]) -> None:
        for replica_set in (change.old, change.new):
            if replica_set is None:
                continue
            meta = replica_set.metadata
            if meta.controller is not None:
                if meta.controller.kind == DEPLOYMENTS.kind:
                    self.keys.add(f"{meta.namespace}/{meta.controller.name}")
                continue
            for candidate in self._world.deployments_by_namespace.get(meta.namespace):
                if from_label_selector(candidate.spec.selector).matches(meta.labels):
                    self.keys.add(candidate.metadata.key)

    def _pod_changed(self, change: Change[Pod]) -> None:
        """Only Recreate waits for pods: for their end."""
        pod = change.old
        if pod is None or (change.new is not None and not is_over(change.new)):
            return
        owner = pod.metadata.controller
        found = self._world.replica_sets.get(owner.name, pod.metadata.namespace) if owner else None
        if found and found.metadata.controller:
            self.keys.add(f"{pod.metadata.namespace}/{found.metadata.controller.name}")

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        deployment = self._world.deployments.get(name, namespace)
        if deployment is None:
            return None
        await self._sets.verify()
        sets = await self._claimed(deployment)
        try:
            rollout = plan.sort_out(deployment, sets)
        except ValueError as error:
            raise Invalid(f"deployment {key}: spec.strategy.rollingUpdate: {error}") from error
        if deployment.spec.strategy.type == "Recreate":
            rollout = plan.sort_out(deployment, sets, old_pods=self._has_old_pods(rollout))
        steps = plan.steps(rollout, now())
        try:
            created = await apply.carry_out(steps.actions, self._client, self._recorder)
        except AlreadyExists:
            await self._collided(deployment)
            raise
        for obj in created:
            if isinstance(obj, ReplicaSet):
                self._sets.created(obj)
        return steps.again

    async def _claimed(self, deployment: Deployment) -> list[ReplicaSet]:
        meta = deployment.metadata
        shown = self._world.sets_by_namespace.get(meta.namespace)
        sets = self._sets.over(shown, lambda s: controls(deployment, s))
        selector = from_label_selector(deployment.spec.selector)
        if selector.empty:
            return []
        claimed = claims(deployment, selector, sets)
        for replica_set in claimed.released:
            await apply.amend(release(REPLICASETS, replica_set, deployment), self._client)
        if claimed.adopted and await self._is_current(deployment):
            for replica_set in claimed.adopted:
                await apply.amend(adopt(REPLICASETS, replica_set, deployment, DEPLOYMENTS), self._client)
            return [*claimed.owned, *claimed.adopted]
        return list(claimed.owned)

    async def _is_current(self, deployment: Deployment) -> bool:
        try:
            live = await self._client.get(DEPLOYMENTS, deployment.metadata.name, deployment.metadata.namespace)
        except NotFound:
            return False
        return live.metadata.uid == deployment.metadata.uid and live.metadata.deletion_timestamp is None

    def _has_old_pods(self, rollout: plan.Rollout) -> bool:
        """Whether pods of other sets run on, terminating ones included: with Recreate two versions never meet."""
        pods = [p for s in rollout.old for p in self._world.pods_by_owner.get(s.metadata.uid)]
        return any(s.status.replicas for s in rollout.old) or any(not is_over(p) for p in pods)

    async def _collided(self, deployment: Deployment) -> None:
        """The name was taken: by our own set that the informer does not show yet, or by another template's."""
        meta = deployment.metadata
        digest = template_hash(deployment.spec.template, deployment.status.collision_count or 0)
        try:
            other = await self._client.get(REPLICASETS, f"{meta.name}-{digest}", meta.namespace)
        except NotFound:
            return
        same = canonical(other.spec.template) == canonical(deployment.spec.template)
        if not (same and controls(deployment, other)):
            await apply.amend(plan.collided(deployment), self._client)
