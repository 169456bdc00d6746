"""The namespace loops: deletion of what is terminating, and what every live namespace is given.

A key is a namespace's name. Content is read from the server, not from informers: a namespace may only be finalized when it
is known to be empty. Objects that end while a namespace terminates wake it; kinds that nobody watches are polled.
"""

from typing import Any

from controllers import apply, kinds
from controllers.model import Delete
from controllers.observe import World
from controllers.plan import namespaces as plan
from kube.client import Client
from kube.core import ConfigMap, Namespace
from kube.errors import AlreadyExists, ApiError, Conflict, Forbidden, NotFound, Retry
from kube.informer import Change, Informer
from kube.meta import Typed, now
from kube.reconcile import Keys, by_key
from kube.resources import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS, Resource

POLL = 5.0
"""Seconds between two looks at a namespace whose content takes its time and tells nobody."""

_NO_METHOD = 405


class Namespaces:
    """Deletion."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client: Client = world.client
        self.keys: Keys[str] = Keys()
        world.namespaces.subscribe(lambda change: self.keys.add(change.key))
        for resource, informer in world.informers.items():
            if resource.namespaced:
                informer.subscribe(self._content_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=4, name="namespace")

    def _content_changed(self, change: Change[Any]) -> None:
        if change.new is not None or change.old is None:
            return
        namespace = self._world.namespaces.get(change.old.metadata.namespace)
        if namespace is not None and plan.is_terminating(namespace):
            self.keys.add(namespace.metadata.name)

    async def sync(self, name: str) -> float | None:
        namespace = self._world.namespaces.get(name)
        if namespace is None or not plan.is_terminating(namespace):
            return None
        resources = [r for r in await kinds.discover(self._client) if r.namespaced]
        content = await self._content(resources, name)
        deleting = plan.to_delete(content)
        failures: list[str] = []
        for resource, obj in deleting:
            meta = obj.metadata
            try:
                await apply.delete(Delete(resource, name, meta.name, meta.uid, propagation="Background"), self._client)
            except Conflict:
                continue  # another object by now; the next look sees it
            except ApiError as error:
                failures.append(f"{resource.plural} {meta.name}: {error.message}")
        if deleting:
            content = await self._content(resources, name)
        if patch := plan.report(namespace, plan.conditions(content, failures, now())):
            await apply.amend(patch, self._client)
        if failures:
            raise Retry(f"namespace {name}: {failures[0]}")
        if any(content.values()):
            return 0.0 if plan.to_delete(content) else POLL
        await self._finalize(namespace)
        return None

    async def _content(
        self, resources: list[Resource[Typed]], namespace: str
    ) -> dict[Resource[Typed], tuple[Typed, ...]]:
        content = {}
        for resource in resources:
            try:
                content[resource] = (await self._client.list(resource, namespace)).items
            except NotFound:
                continue  # a kind that has just gone
            except ApiError as error:
                if error.status != _NO_METHOD:
                    raise
        return content

    async def _finalize(self, namespace: Namespace) -> None:
        meta = namespace.metadata
        try:
            live = await self._client.get(NAMESPACES, meta.name)
            body = {
                "metadata": {"name": meta.name, "uid": meta.uid, "resourceVersion": live.metadata.resource_version},
                "spec": {"finalizers": [f for f in live.spec.finalizers if f != plan.FINALIZER]},
            }
            await self._client.update(NAMESPACES, body, subresource="finalize")
        except NotFound:
            return


class Furnishings:
    """What every live namespace is given: the ServiceAccount `default`, and the cluster's CA as kube-root-ca.crt."""

    ACCOUNT = "default"
    ROOT_CA = "kube-root-ca.crt"
    _DESCRIPTION = (
        "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
        "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
    )

    def __init__(self, world: World, certificates: Informer[ConfigMap], root_ca: str) -> None:
        """`certificates` is the informer of ConfigMaps named kube-root-ca.crt, `root_ca` a PEM bundle; "" publishes none."""
        self._world = world
        self._client: Client = world.client
        self._certificates = certificates
        self._root_ca = root_ca
        self.keys: Keys[str] = Keys()
        world.namespaces.subscribe(lambda change: self.keys.add(change.key))
        world.service_accounts.subscribe(self._furnishing_changed)
        certificates.subscribe(self._furnishing_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=2, name="furnishings")

    def _furnishing_changed(self, change: Change[Any]) -> None:
        namespace, _, name = change.key.partition("/")
        if name in (self.ACCOUNT, self.ROOT_CA):
            self.keys.add(namespace)

    async def sync(self, name: str) -> None:
        namespace = self._world.namespaces.get(name)
        if namespace is None or namespace.metadata.deletion_timestamp is not None:
            return
        try:
            if self._world.service_accounts.get(self.ACCOUNT, name) is None:
                await self._client.create(SERVICEACCOUNTS, {"metadata": {"name": self.ACCOUNT}}, name)
            await self._publish(name)
        except (AlreadyExists, NotFound):
            return  # made by somebody else, or the namespace is gone: the informers will say
        except Forbidden as error:
            if not apply.is_namespace_terminating(error):
                raise

    async def _publish(self, namespace: str) -> None:
        if not self._root_ca:
            return
        have = self._certificates.get(self.ROOT_CA, namespace)
        data = {"ca.crt": self._root_ca}
        if have is None:
            metadata = {"name": self.ROOT_CA, "annotations": {"kubernetes.io/description": self._DESCRIPTION}}
            await self._client.create(CONFIGMAPS, {"metadata": metadata, "data": data}, namespace)
        elif have.data != data:
            body = {"data": {**dict.fromkeys(have.data), **data}}
            await self._client.patch(CONFIGMAPS, self.ROOT_CA, body, namespace)
