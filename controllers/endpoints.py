"""The loop behind Services: a key is one Service; its pods, its slices and its Endpoints wake it."""

from controllers import apply
from controllers.observe import World
from controllers.plan import endpoints, endpointslices
from kube import labels
from kube.core import Endpoints as EndpointsObject
from kube.core import Node
from kube.discovery import EndpointSlice
from kube.events import Recorder
from kube.informer import Change
from kube.pods import Pod
from kube.reconcile import Keys, by_key
from kube.selectors import from_map


class Endpoints:
    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder
        self.keys: Keys[str] = Keys()
        world.services.subscribe(lambda change: self.keys.add(change.key))
        world.pods.subscribe(self._pod_changed)
        world.slices.subscribe(self._slice_changed)
        world.endpoints.subscribe(self._endpoints_changed)
        world.nodes.subscribe(self._node_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=4, name="endpoints")

    def _pod_changed(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if old and new and _shown(old) == _shown(new):
            return
        for pod in (old, new):
            if pod is not None:
                self._add_services_of(pod)

    def _add_services_of(self, pod: Pod) -> None:
        for service in self._world.services_by_namespace.get(pod.metadata.namespace):
            if service.spec.selector and service.spec.selector.items() <= pod.metadata.labels.items():
                self.keys.add(service.metadata.key)

    def _slice_changed(self, change: Change[EndpointSlice]) -> None:
        for found in (change.old, change.new):
            if found and (name := found.metadata.labels.get(labels.SERVICE_NAME)):
                self.keys.add(f"{found.metadata.namespace}/{name}")

    def _endpoints_changed(self, change: Change[EndpointsObject]) -> None:
        self.keys.add(change.key)

    def _node_changed(self, change: Change[Node]) -> None:
        """A node's zone is in its pods' endpoints."""
        zones = [n.metadata.labels.get(labels.ZONE) if n else None for n in (change.old, change.new)]
        if zones[0] != zones[1]:
            for pod in self._world.pods_by_node.get(change.key):
                self._add_services_of(pod)

    async def sync(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        world = self._world
        service = world.services.get(name, namespace)
        have = world.endpoints.get(name, namespace)
        if service is None or service.metadata.deletion_timestamp is not None:
            actions = endpoints.orphaned(have) if have and service is None else ()
            await apply.carry_out(actions, world.client, self._recorder)
            return
        if not service.spec.selector or service.spec.type == "ExternalName":
            return  # its endpoints are somebody else's
        selector = from_map(service.spec.selector)
        pods = [p for p in world.pods_by_namespace.get(namespace) if selector.matches(p.metadata.labels)]
        zones = {
            n.metadata.name: n.metadata.labels[labels.ZONE]
            for n in world.nodes.items()
            if labels.ZONE in n.metadata.labels
        }
        slices = [s for s in world.slices_by_namespace.get(namespace) if endpointslices.is_ours(s, name)]
        actions = endpointslices.actions(service, pods, zones, slices) + endpoints.actions(service, pods, have)
        await apply.carry_out(actions, world.client, self._recorder)


def _shown(pod: Pod) -> tuple[object, ...]:
    """What of a pod shows in endpoints."""
    ready = [(c.status, c.last_transition_time) for c in pod.status.conditions if c.type == "Ready"]
    meta, status = pod.metadata, pod.status
    return (
        meta.uid,
        meta.labels,
        meta.deletion_timestamp is None,
        status.phase in ("Succeeded", "Failed"),
        status.pod_ip,
        status.pod_ips,
        ready,
        pod.spec.node_name,
    )
