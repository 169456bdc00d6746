"""The ConfigMaps and Secrets that this node's pods refer to: each watched by name, for as long as a pod needs it.

Watching single objects is what a node may do (upstream's Watch strategy, and all that the Node authorizer allows), and
it makes updates arrive at once. What was last known stays known while the API is away.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kube.client import Client
from kube.core import ConfigMap, Secret
from kube.errors import Retry
from kube.informer import Informer
from kube.reconcile import Wake
from kube.resources import CONFIGMAPS, SECRETS
from kubelet.volumes import References

PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Ref:
    secret: bool
    namespace: str
    name: str


@dataclass(slots=True)
class _Entry:
    informer: Informer[ConfigMap] | Informer[Secret]
    users: set[str]
    task: asyncio.Task[None] | None = None


class Objects:
    """`changed(uid)` is called for each pod that uses an object that changed."""

    def __init__(
        self, client: Client, changed: Callable[[str], None], answering: Callable[[], bool] = lambda: True
    ) -> None:
        """`answering`: whether the API has answered at all yet; before that nothing is waited for."""
        self._client = client
        self._answering = answering
        self._changed = changed
        self._entries: dict[Ref, _Entry] = {}
        self._by_pod: dict[str, frozenset[Ref]] = {}
        self._wake = Wake()

    def need(self, uid: str, namespace: str, wanted: References) -> None:
        """From now on pod `uid` uses exactly these."""
        refs = frozenset(
            [Ref(False, namespace, name) for name in wanted.config_maps]
            + [Ref(True, namespace, name) for name in wanted.secrets]
        )
        for ref in self._by_pod.get(uid, frozenset()) - refs:
            self._entries[ref].users.discard(uid)
        for ref in refs:
            entry = self._entries.get(ref)
            if entry is None:
                entry = self._entries[ref] = self._watched(ref)
            entry.users.add(uid)
        if self._by_pod.get(uid) != refs:
            self._wake.set()
        self._by_pod[uid] = refs

    def forget(self, uid: str) -> None:
        for ref in self._by_pod.pop(uid, frozenset()):
            self._entries[ref].users.discard(uid)
        self._wake.set()

    def _watched(self, ref: Ref) -> _Entry:
        field = f"metadata.name={ref.name}"
        informer: Informer[ConfigMap] | Informer[Secret]
        if ref.secret:
            informer = Informer(self._client, SECRETS, namespace=ref.namespace, field_selector=field)
        else:
            informer = Informer(self._client, CONFIGMAPS, namespace=ref.namespace, field_selector=field)
        entry = _Entry(informer, set())

        def tell(_: object) -> None:
            for uid in list(entry.users):
                self._changed(uid)

        informer.subscribe(tell)
        return entry

    async def of(
        self, uid: str, only: References | None = None
    ) -> tuple[Mapping[str, ConfigMap], Mapping[str, Secret]]:
        """What exists of what the pod needs, or of `only` that, by name. Raises Retry while something has never been
        read."""
        timeout = PATIENCE if self._answering() else 0.0
        config_maps: dict[str, ConfigMap] = {}
        secrets: dict[str, Secret] = {}
        for ref in self._by_pod.get(uid, frozenset()):
            if only is not None and ref.name not in (only.secrets if ref.secret else only.config_maps):
                continue
            entry = self._entries[ref]
            try:
                async with asyncio.timeout(timeout):
                    await entry.informer.synced.wait()
            except TimeoutError:
                kind = "secret" if ref.secret else "configmap"
                raise Retry(
                    f'failed to sync {kind} cache: timed out waiting for "{ref.namespace}/{ref.name}"'
                ) from None
            found = entry.informer.get(ref.name, ref.namespace)
            if isinstance(found, ConfigMap):
                config_maps[ref.name] = found
            elif isinstance(found, Secret):
                secrets[ref.name] = found
        return config_maps, secrets

    async def run(self) -> None:
        """Keep one watch for each object in use, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for ref, entry in list(self._entries.items()):
                    if not entry.users:
                        del self._entries[ref]
                        if entry.task is not None:
                            entry.task.cancel()
                            await asyncio.wait([entry.task])
                    elif entry.task is None:
                        entry.task = group.create_task(entry.informer.run())
                await self._wake.wait()
