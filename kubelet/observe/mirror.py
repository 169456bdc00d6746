"""Mirror pods: what the API shows of static pods.

    static pods by namespace/name      the API's mirrors by namespace/name      -> one step for that name
        there                              missing                                 create it
        there                              another hash, or to be deleted          delete it, and create it when it is gone
        gone                               there                                   delete it

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
from kubelet.observe.static import CONFIG_MIRROR, StaticPod

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Create:
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    uid: str


def step(static: StaticPod | None, mirror: Pod | None) -> Create | Delete | None:
    """What is to be done about one name. Pure."""
    if mirror is None:
        return Create(static.body) if static is not None else None
    meta = mirror.metadata
    wrong = (
        static is None or meta.annotations.get(CONFIG_MIRROR) != static.body["metadata"]["annotations"][CONFIG_MIRROR]
    )
    return Delete(meta.uid) if wrong or meta.deletion_timestamp is not None else None


class Mirrors:
    """`registered` is waited for: a mirror's owner is the Node."""

    def __init__(
        self, client: Client, source: PodSource, node: str, registered: Callable[[], Awaitable[object]]
    ) -> None:
        self._client = client
        self._source = source
        self._node = node
        self._registered = registered
        self._owner = ""
        self._keys: Keys[str] = Keys()
        source.subscribe_mirrors(self._keys.add)

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
        match step(self._source.static(name), self._source.mirror(name)):
            case Create(body):
                await self._create(name, body)
            case Delete(uid):
                await self._delete(name, uid)
            case None:
                pass

    async def _create(self, name: str, body: Mapping[str, Any]) -> None:
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": self._node,
            "uid": await self._node_uid(),
            "controller": True,
        }
        metadata = {**body["metadata"], "ownerReferences": [owner]}
        try:
            await self._client.create(PODS, {**body, "metadata": metadata})
        except AlreadyExists as error:
            known = self._source.mirror(name)
            if known is None:  # the watch has not told yet of one that we made, or it is somebody else's pod
                raise Retry(f"the API has a pod of this name that is not its mirror (yet): {error}") from error
        except NotFound as error:
            self._owner = ""  # the namespace is missing, or the Node is another one by now
            raise Retry(f"it cannot be created: {error}") from error
        else:
            log.info("mirror pod %s is created", name)

    async def _delete(self, name: str, uid: str) -> None:
        namespace, _, short = name.partition("/")
        try:
            await self._client.delete(PODS, short, namespace, grace_period_seconds=0, uid=uid)
            log.info("mirror pod %s (%s) is deleted", name, uid)
        except (NotFound, Conflict):
            return  # gone, or another one: the watch tells

    async def _node_uid(self) -> str:
        if not self._owner:
            self._owner = (await self._client.get(NODES, self._node)).metadata.uid
        return self._owner
