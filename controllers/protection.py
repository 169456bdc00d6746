"""Volumes and claims in use outlive their deletion: the loop that takes the finalizers off when nobody uses them any more.

A key is a claim (`namespace/name`) or a volume (`name`) that is being deleted. A claim is in use while a pod that has a node
and is not over names it; a volume while it is bound. The informer is asked first: while it shows a user, the claim waits for the
event of a user's end; when it shows none, the pods of the namespace are read once more before the finalizer goes.
Upstream: kubernetes/pkg/controller/volume/{pvc,pv}protection.
"""

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
        self._pods = world.pods_by_namespace
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
        """A pod that has used a claim and does no longer; all others end no wait."""
        if change.old is None or not self._waiting:
            return
        still = claims(change.new) if change.new is not None else set()
        for name in claims(change.old) - still:
            key = f"{change.old.metadata.namespace}/{name}"
            if key in self._waiting:
                self.keys.add(key)

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.rpartition("/")
        resource = self._resources[bool(namespace)]
        finalizer = FINALIZERS[resource.plural]
        if namespace and self._shown(namespace, name):
            self._waiting.add(key)
            return None
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

    def _shown(self, namespace: str, claim: str) -> bool:
        return any(claim in claims(pod) for pod in self._pods.get(namespace))

    async def _claimed(self, namespace: str, claim: str) -> bool:
        """What the informer does not show may be too new for it, and gone again before it sees it: hence POLL."""
        pods = (await self._client.list(PODS, namespace)).items
        return any(claim in claims(pod) for pod in pods)


def claims(pod: Pod) -> set[str]:
    """The claims that a pod uses: none before it has a node, none when it is over."""
    if not pod.spec.node_name or pod.status.phase in ("Succeeded", "Failed"):
        return set()
    found = set()
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            found.add(volume.persistent_volume_claim.claim_name)
        elif volume.ephemeral is not None:
            found.add(f"{pod.metadata.name}-{volume.name}")
    return found
