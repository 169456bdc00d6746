"""Pods that no kubelet will ever end: those of nodes that are gone, and terminating ones that never had a node.

A key is a node's name ("" for none). A node that is missing is asked for at the server, after a quarantine: it may only be
registering anew (kubernetes/pkg/controller/podgc).
"""

import time

from controllers import apply
from controllers.model import Delete
from controllers.observe import World
from controllers.plan.evictions import disrupted
from controllers.plan.pods import is_over
from kube.core import Node
from kube.errors import NotFound
from kube.events import Recorder
from kube.informer import Change
from kube.meta import now
from kube.pods import Pod
from kube.reconcile import Keys, by_key
from kube.resources import NODES, PODS

QUARANTINE = 40.0
"""Seconds; upstream's quarantineTime."""


class PodGC:
    def __init__(self, world: World, recorder: Recorder, quarantine: float = QUARANTINE) -> None:
        self._world = world
        self._recorder = recorder
        self._quarantine = quarantine
        self._missed: dict[str, float] = {}
        self.keys: Keys[str] = Keys()
        world.nodes.subscribe(self._node_changed)
        world.pods.subscribe(self._pod_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=1, name="podgc")

    def _node_changed(self, change: Change[Node]) -> None:
        if change.new is None:
            self.keys.add(change.key)
        else:
            self._missed.pop(change.key, None)

    def _pod_changed(self, change: Change[Pod]) -> None:
        pod = change.new
        if pod is None:
            return
        unowned = not pod.spec.node_name and pod.metadata.deletion_timestamp is not None
        if unowned or (pod.spec.node_name and self._world.nodes.get(pod.spec.node_name) is None):
            self.keys.add(pod.spec.node_name)

    async def sync(self, name: str) -> float | None:
        pods = self._world.pods_by_node.get(name)
        if not name:
            for pod in pods:
                if pod.metadata.deletion_timestamp is not None:
                    await self._end(pod)
            return None
        if self._world.nodes.get(name) is not None or not pods:
            self._missed.pop(name, None)
            return None
        left = self._missed.setdefault(name, time.monotonic()) + self._quarantine - time.monotonic()
        if left > 0:
            return left
        try:
            await self._world.client.get(NODES, name)
        except NotFound:
            for pod in pods:
                if not is_over(pod):
                    reason = disrupted(pod, "DeletionByPodGC", "PodGC: node no longer exists", now(), phase="Failed")
                    await apply.amend(reason, self._world.client)
                await self._end(pod)
        return None

    async def _end(self, pod: Pod) -> None:
        meta = pod.metadata
        await apply.delete(Delete(PODS, meta.namespace, meta.name, meta.uid, grace=0), self._world.client)
