"""The quota loop: a key is a ResourceQuota; a change of its spec, and the end of what it may count, wake it.

Admission charges what is created; this counts what has gone, and everything when a quota is new. The quota is read before
the objects and written only as it was read, so a charge in between is never lost: the write is refused and counted again.
"""

from typing import Any

import msgspec

from controllers import apply
from controllers.kinds import IGNORED
from controllers.model import AnyResource
from controllers.observe import World
from controllers.plan import quota as plan
from controllers.plan.pods import is_over
from kube import quota
from kube.errors import NotFound
from kube.informer import Change
from kube.meta import Typed, now
from kube.pods import Pod
from kube.policy import ResourceQuota
from kube.reconcile import Keys, by_key
from kube.resources import RESOURCEQUOTAS, SERVICES

RESYNC = 300.0
GATHER = 0.1
"""Seconds in which the ends of many objects become one count."""


class Quotas:
    def __init__(self, world: World) -> None:
        self._world = world
        self._client = world.client
        self.keys: Keys[str] = Keys()
        world.quotas.subscribe(self._quota_changed)
        for resource, informer in world.informers.items():
            if (resource.group, resource.plural) not in IGNORED and resource != RESOURCEQUOTAS:
                self._follow(resource, informer)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=2, name="resource quota")

    def _quota_changed(self, change: Change[ResourceQuota]) -> None:
        if change.new is None:
            return
        hard = {name: str(amount) for name, amount in (change.new.spec.get("hard") or {}).items()}
        if change.old is None or hard != change.new.status.get("hard"):
            self.keys.add(change.key)

    def _follow(self, resource: AnyResource, informer: Any) -> None:
        changeable = resource == SERVICES or resource.plural == "persistentvolumeclaims"

        def changed(change: Change[Typed]) -> None:
            ended = change.old is not None and (change.new is None or changeable or _ended(change))
            if ended and change.old is not None:
                self._wake(change.old.metadata.namespace)

        informer.subscribe(changed)

    def _wake(self, namespace: str) -> None:
        for found in self._world.quotas_by_namespace.get(namespace):
            self.keys.add(found.metadata.key, after=GATHER)

    async def sync(self, key: str) -> float | None:
        namespace, _, name = key.partition("/")
        try:
            limited = await self._client.get(RESOURCEQUOTAS, name, namespace)
        except NotFound:
            return None
        objects = {}
        for kind in sorted(quota.kinds(limited.spec.get("hard") or {})):
            plural, _, group = kind.partition(".")
            resource = next((r for r in self._world.informers if (r.group, r.plural) == (group, plural)), None)
            if resource is not None:
                objects[kind] = await self._all(resource, namespace)
        if patch := plan.report(limited, objects, now()):
            await apply.amend(patch, self._client)
        return RESYNC

    async def _all(self, resource: AnyResource, namespace: str) -> list[dict[str, Any]]:
        found = msgspec.json.decode(await self._client.request("GET", resource.path(namespace)))
        items: list[dict[str, Any]] = found["items"]
        return items


def _ended(change: Change[Any]) -> bool:
    """A pod that is over, or on its way, is no longer charged for what it used."""
    old, new = change.old, change.new
    if not isinstance(old, Pod) or not isinstance(new, Pod):
        return False
    return (is_over(new) and not is_over(old)) or (
        new.metadata.deletion_timestamp is not None and old.metadata.deletion_timestamp is None
    )
