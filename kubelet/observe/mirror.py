"""Mirror pods: what the API shows of static pods.

    static pods by namespace/name      the API's mirrors by namespace/name      -> one step for that name
        there                              missing                                 create it
        there                              to be deleted                           delete it, and create it when it is gone
        there, or gone                     of another hash                         delete it, once the pod it shows has ended

So a pod whose manifest went or changed is shown for as long as it takes to stop, and its room on the node stays taken.

A mirror is made from the manifest's own text under the static pod's hash (`kubernetes.io/config.mirror`) and is owned by the
Node, so it goes with the node. Deleting one costs the static pod nothing: it comes back. The static pod's status is
written to its mirror by `kubelet.publish`, as to any pod. (pkg/kubelet/pod/mirror_client.go)
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kube.client import Client
from kube.errors import AlreadyExists, Conflict, NotFound, Retry
from kube.pods import Pod
from kube.reconcile import Backoff, Keys, by_key
from kube.resources import NODES, PODS
from kubelet.observe.pods import PodSource
from kubelet.observe.static import StaticPod
from kubelet.plan.situation import CONFIG_MIRROR

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Create:
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    uid: str


def step(static: StaticPod | None, mirror: Pod | None, lives: Callable[[str], bool]) -> Create | Delete | None:
    """What is to be done about one name. `lives`: whether there is anything left of a static pod, by uid."""
    if mirror is None:
        return Create(static.body) if static is not None else None
    meta = mirror.metadata
    shown = meta.annotations[CONFIG_MIRROR]
    if static is not None and shown == static.pod.metadata.uid:
        return Delete(meta.uid) if meta.deletion_timestamp is not None else None
    return None if lives(shown) else Delete(meta.uid)


class Mirrors:
    """`registered` is waited for: a mirror's owner is the Node. `left` is to be called when a pod that `lives` has gone."""

    def __init__(
        self,
        client: Client,
        source: PodSource,
        node: str,
        registered: Callable[[], Awaitable[object]],
        lives: Callable[[str], bool],
    ) -> None:
        self._client = client
        self._source = source
        self._node = node
        self._registered = registered
        self._lives = lives
        self._keys: Keys[str] = Keys()
        source.subscribe_mirrors(self._keys.add)

    def left(self, uid: str) -> None:
        for name in self._source.mirrors_of(uid):
            self._keys.add(name)

    async def run(self) -> None:
        await self._source.answered()
        await self._registered()
        for name in self._source.mirrored():
            self._keys.add(name)
        await by_key(self._sync, self._keys, workers=2, backoff=Backoff(first=0.2, most=10.0), name="mirror pod")

    async def _sync(self, name: str) -> None:
        if not self._source.synced:
            self._keys.add(name, after=1.0)
            return
        match step(self._source.static(name), self._source.mirror(name), self._lives):
            case Create(body):
                await self._create(name, body)
            case Delete(uid):
                await self._delete(name, uid)
            case None:
                pass

    async def _create(self, name: str, body: Mapping[str, Any]) -> None:
        try:
            # Asked each time: a Node that was deleted and has registered again is another owner.
            uid = (await self._client.get(NODES, self._node)).metadata.uid
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid, "controller": True}
            metadata = {**body["metadata"], "ownerReferences": [owner]}
            await self._client.create(PODS, {**body, "metadata": metadata})
        except AlreadyExists as error:
            known = self._source.mirror(name)
            if known is None:  # the watch has not told yet of one that we made, or it is somebody else's pod
                raise Retry(f"the API has a pod of this name that is not its mirror (yet): {error}") from error
        except NotFound as error:
            raise Retry(f"it cannot be created: {error}") from error  # its namespace is missing, or the Node
        else:
            log.info("mirror pod %s is created", name)

    async def _delete(self, name: str, uid: str) -> None:
        namespace, _, short = name.partition("/")
        try:
            await self._client.delete(PODS, short, namespace, grace_period_seconds=0, uid=uid)
            log.info("mirror pod %s (%s) is deleted", name, uid)
        except (NotFound, Conflict):
            return  # gone, or another one: the watch tells
