"""The eviction loop: a key is one pod; its node's taints, its own changes and its deadline wake it."""

from controllers import apply
from controllers.observe import World
from controllers.plan import evictions as plan
from kube.core import Node
from kube.events import Recorder
from kube.informer import Change
from kube.meta import now
from kube.pods import Pod
from kube.reconcile import Keys, by_key


class Evictions:
    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder
        self.keys: Keys[str] = Keys()
        world.pods.subscribe(self._pod_changed)
        world.nodes.subscribe(self._node_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=4, name="eviction")

    def _pod_changed(self, change: Change[Pod]) -> None:
        pod = change.new
        node = self._world.nodes.get(pod.spec.node_name) if pod and pod.spec.node_name else None
        if node and any(t.effect == "NoExecute" for t in node.spec.taints):
            self.keys.add(change.key)

    def _node_changed(self, change: Change[Node]) -> None:
        if change.new is not None and (change.old is None or change.old.spec.taints != change.new.spec.taints):
            for pod in self._world.pods_by_node.get(change.key):
                self.keys.add(pod.metadata.key)

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        pod = self._world.pods.get(name, namespace)
        if pod is None or pod.metadata.deletion_timestamp is not None:
            return None
        node = self._world.nodes.get(pod.spec.node_name) if pod.spec.node_name else None
        if node is None:
            return None
        moment = now()
        due = plan.deadline(pod, node.spec.taints, moment)
        if due is None:
            return None
        if due > moment:
            return (due - moment).total_seconds()
        await apply.carry_out(plan.evict(pod, moment), self._world.client, self._recorder)
        return None
