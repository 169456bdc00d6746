"""Volumes and claims in use outlive their deletion: the loop that takes the finalizers off when nobody uses them any more.

A key is a claim (`namespace/name`) or a volume (`name`) that is being deleted. A claim is in use while a pod that has a node
and is not over names it; a volume while it is bound. Upstream: kubernetes/pkg/controller/volume/{pvc,pv}protection.
"""

from typing import Any

import msgspec

from controllers import apply
from controllers.model import Amend, AnyResource
from controllers.observe import World
from kube.errors import NotFound
from kube.informer import Change
from kube.meta import Typed
from kube.pods import Pod
from kube.reconcile import Keys, by_key
from kube.resources import PODS

FINALIZERS = {
    "persistentvolumes": "kubernetes.io/pv-protection",
    "persistentvolumeclaims": "kubernetes.io/pvc-protection",
}
POLL = 5.0


class Protection:
    def __init__(self, world: World) -> None:
        self._client = world.client
        self._resources: dict[bool, AnyResource] = {}
        self._waiting: set[str] = set()
        self.keys: Keys[str] = Keys()
        for resource, informer in world.informers.items():
            if resource.group == "" and resource.plural in FINALIZERS:
                self._resources[resource.namespaced] = resource
                informer.subscribe(self._changed)
        world.pods.subscribe(self._pod_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=2, name="volume protection")

    def _changed(self, change: Change[Typed]) -> None:
        if change.new is not None and change.new.metadata.deletion_timestamp is not None:
            self.keys.add(change.key)

    def _pod_changed(self, change: Change[Pod]) -> None:
        for key in self._waiting:
            if change.old is not None and key.startswith(f"{change.old.metadata.namespace}/"):
                self.keys.add(key)

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.rpartition("/")
        resource = self._resources[bool(namespace)]
        finalizer = FINALIZERS[resource.plural]
        self._waiting.discard(key)
        try:
            obj = msgspec.json.decode(await self._client.request("GET", resource.path(namespace or None, name)))
        except NotFound:
            return None
        metadata = obj["metadata"]
        finalizers = metadata.get("finalizers") or []
        if "deletionTimestamp" not in metadata or finalizer not in finalizers:
            return None
        if await self._claimed(namespace, name) if namespace else (obj.get("status") or {}).get("phase") == "Bound":
            self._waiting.add(key)
            return POLL
        body = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "finalizers": [one for one in finalizers if one != finalizer] or None,
            }
        }
        await apply.amend(Amend(resource, namespace, name, body), self._client)
        return None

    async def _claimed(self, namespace: str, claim: str) -> bool:
        pods = msgspec.json.decode(await self._client.request("GET", PODS.path(namespace)))["items"]
        return any(uses(pod, claim) for pod in pods)


def uses(pod: dict[str, Any], claim: str) -> bool:
    spec, name = pod["spec"], pod["metadata"]["name"]
    if not spec.get("nodeName") or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    for volume in spec.get("volumes") or ():
        if (volume.get("persistentVolumeClaim") or {}).get("claimName") == claim:
            return True
        if "ephemeral" in volume and f"{name}-{volume['name']}" == claim:
            return True
    return False
