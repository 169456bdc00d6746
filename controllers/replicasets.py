"""The ReplicaSet loop: a key is one ReplicaSet; its pods and its own changes wake it."""

import asyncio
from collections.abc import Sequence

from controllers import apply
from controllers.model import Delete
from controllers.observe import OwnWrites, World
from controllers.plan import replicasets as plan
from controllers.plan.claims import adopt, claims, release
from controllers.plan.pods import controls, is_active
from kube import resources
from kube.apps import ReplicaSet
from kube.errors import ApiError, ApiUnreachable, Forbidden, NotFound, Retry
from kube.events import Recorder, Reference
from kube.informer import Change
from kube.meta import Condition, now
from kube.pods import Pod
from kube.reconcile import Keys, by_key
from kube.resources import PODS, REPLICASETS
from kube.selectors import from_label_selector


class ReplicaSets:
    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._client = world.client
        self._recorder = recorder
        self._pods = OwnWrites(world.client, PODS, world.pods)
        self.keys: Keys[str] = Keys()
        world.replica_sets.subscribe(lambda change: self.keys.add(change.key))
        world.pods.subscribe(self._pod_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=4, name="replicaset")

    def _pod_changed(self, change: Change[Pod]) -> None:
        """A pod wakes its controller, and as an orphan whoever might adopt it."""
        for pod in (change.old, change.new):
            if pod is None:
                continue
            owner = pod.metadata.controller
            if owner is not None:
                if owner.kind == REPLICASETS.kind:
                    self.keys.add(f"{pod.metadata.namespace}/{owner.name}")
                continue
            for candidate in self._world.sets_by_namespace.get(pod.metadata.namespace):
                if from_label_selector(candidate.spec.selector).matches(pod.metadata.labels):
                    self.keys.add(candidate.metadata.key)

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        replica_set = self._world.replica_sets.get(name, namespace)
        if replica_set is None:
            return None
        await self._pods.verify()
        pods = await self._claimed(replica_set)
        failure: Exception | None = None
        condition: Condition | None = None
        if replica_set.metadata.deletion_timestamp is None:
            condition, failure = await self._manage(replica_set, [p for p in pods if is_active(p)])
        wanted, again = plan.status(replica_set, pods, condition, now())
        if patch := plan.status_patch(replica_set, wanted):
            await apply.amend(patch, self._client)
        if failure:
            raise Retry(str(failure)) from failure
        return again

    async def _claimed(self, replica_set: ReplicaSet) -> list[Pod]:
        meta = replica_set.metadata
        shown = self._world.pods_by_namespace.get(meta.namespace)
        pods = self._pods.over(shown, lambda pod: controls(replica_set, pod))
        claimed = claims(replica_set, from_label_selector(replica_set.spec.selector), pods)
        for pod in claimed.released:
            await apply.amend(release(PODS, pod, replica_set), self._client)
        adopted = [pod for pod in claimed.adopted if is_active(pod)]
        if adopted and await self._is_current(replica_set):
            for pod in adopted:
                await apply.amend(adopt(PODS, pod, replica_set, REPLICASETS), self._client)
            return [*claimed.owned, *adopted]
        return list(claimed.owned)

    async def _is_current(self, replica_set: ReplicaSet) -> bool:
        """Asked of the server before adopting: an owner that is being deleted must not take orphans along."""
        try:
            live = await self._client.get(REPLICASETS, replica_set.metadata.name, replica_set.metadata.namespace)
        except NotFound:
            return False
        return live.metadata.uid == replica_set.metadata.uid and live.metadata.deletion_timestamp is None

    async def _manage(
        self, replica_set: ReplicaSet, active: Sequence[Pod]
    ) -> tuple[Condition | None, Exception | None]:
        count = plan.missing(replica_set, len(active))
        if count > 0:
            error = await self._create(replica_set, count)
            return (plan.failed("FailedCreate", _words(error), now()) if error else None), error
        if count < 0:
            error = await self._delete(replica_set, plan.victims(active, -count, self._related(replica_set), now()))
            return (plan.failed("FailedDelete", _words(error), now()) if error else None), error
        return None, None

    def _related(self, replica_set: ReplicaSet) -> list[Pod]:
        """The active pods of all ReplicaSets of the same Deployment."""
        owner = replica_set.metadata.controller
        family = self._world.sets_by_namespace.get(replica_set.metadata.namespace) if owner else [replica_set]
        kin = [s for s in family if owner is None or (s.metadata.controller and s.metadata.controller.uid == owner.uid)]
        return [p for s in kin for p in self._world.pods_by_owner.get(s.metadata.uid) if is_active(p)]

    async def _create(self, replica_set: ReplicaSet, count: int) -> Exception | None:
        body = plan.new_pod(replica_set)
        about = Reference.of(replica_set, kind=REPLICASETS.kind, api_version=REPLICASETS.api_version)
        failures: list[Exception] = []

        async def one() -> None:
            try:
                pod = await self._client.create(resources.PODS, body, replica_set.metadata.namespace)
            except (ApiError, ApiUnreachable) as error:
                failures.append(error)
                return
            self._pods.created(pod)
            self._recorder.event(about, "Normal", "SuccessfulCreate", f"Created pod: {pod.metadata.name}")

        for size in plan.batches(count):
            async with asyncio.TaskGroup() as group:
                for _ in range(size):
                    group.create_task(one())
            if failures:
                break
        if not failures:
            return None
        error = failures[0]
        if isinstance(error, Forbidden) and apply.is_namespace_terminating(error):
            return None
        self._recorder.event(about, "Warning", "FailedCreate", f"Error creating: {_words(error)}")
        return error

    async def _delete(self, replica_set: ReplicaSet, pods: Sequence[Pod]) -> Exception | None:
        about = Reference.of(replica_set, kind=REPLICASETS.kind, api_version=REPLICASETS.api_version)
        for pod in pods:
            try:
                await apply.delete(
                    Delete(PODS, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid), self._client
                )
            except (ApiError, ApiUnreachable) as error:
                self._recorder.event(about, "Warning", "FailedDelete", f"Error deleting: {_words(error)}")
                return error
            self._pods.deleted(pod)
            self._recorder.event(about, "Normal", "SuccessfulDelete", f"Deleted pod: {pod.metadata.name}")
        return None


def _words(error: Exception) -> str:
    """The server's own, without the code behind them."""
    return error.message if isinstance(error, ApiError) else str(error)
