"""What the scheduler sees: pods, nodes and Services as the informers show them, and its own bindings that they do not show
yet.

Between the answer to a binding and its watch event lie milliseconds in which the pod still looks pending and its node
still looks free. `assumed` bridges them: a bound pod counts on its node from the answer on, until the informer shows the
pod with a node, shows another pod under its name, or shows it gone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kube import quantity
from kube.client import Client
from kube.core import Node, Service
from kube.informer import Change, Informer
from kube.pods import Container, Pod
from kube.reconcile import Wake
from kube.resources import NODES, PODS, SERVICES
from scheduler.model import CPU, MEMORY, Amounts, HostPort, NodeView, PodView, plus

SCHEDULER_NAME = "default-scheduler"

# kubernetes/pkg/scheduler/util/pod_resources.go: what a container that asks for nothing is scored as.
_ASSUMED: Amounts = {CPU: 100, MEMORY: 200 * 2**20}


def amounts(quantities: Mapping[str, str]) -> Amounts:
    return {name: quantity.milli(q) if name == CPU else quantity.integer(q) for name, q in quantities.items()}


def requests(pod: Pod, assumed: Amounts) -> Amounts:
    """What the pod takes of a node: its containers and sidecars together, or, where that is more, what an init container
    takes beside the sidecars started before it; plus overhead. `assumed` is taken for what a container does not ask."""

    def of(container: Container) -> Amounts:
        return {**assumed, **amounts(container.resources.requests)}

    total: Amounts = {}
    sidecars: Amounts = {}
    peak: dict[str, int] = {}
    for container in pod.spec.containers:
        total = plus(total, of(container))
    for container in pod.spec.init_containers:
        wanted = of(container)
        if container.restart_policy == "Always":
            total = plus(total, wanted)
            sidecars = plus(sidecars, wanted)
            wanted = sidecars
        else:
            wanted = plus(sidecars, wanted)
        peak = {name: max(peak.get(name, 0), wanted.get(name, 0)) for name in {*peak, *wanted}}
    most = {name: max(total.get(name, 0), peak.get(name, 0)) for name in {*total, *peak}}
    return plus(most, amounts(pod.spec.overhead))


def group_of(pod: Pod, services: Iterable[Service]) -> str:
    """The pods to be spread with this one: its controller's, else those of the Services that select it."""
    if owner := pod.metadata.controller:
        return owner.uid
    labels = pod.metadata.labels.items()
    selecting = [
        s.metadata.key
        for s in services
        if s.metadata.namespace == pod.metadata.namespace and s.spec.selector and s.spec.selector.items() <= labels
    ]
    return ",".join(sorted(selecting))


def pod_view(pod: Pod, services: Iterable[Service] = ()) -> PodView:
    spec = pod.spec
    node_affinity = spec.affinity.node_affinity if spec.affinity else None
    containers = (*spec.containers, *(c for c in spec.init_containers if c.restart_policy == "Always"))
    return PodView(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        requests=requests(pod, {}),
        scored=requests(pod, _ASSUMED),
        group=group_of(pod, services),
        node_name=spec.node_name,
        node_selector=spec.node_selector,
        affinity=node_affinity.required_during_scheduling_ignored_during_execution if node_affinity else None,
        tolerations=spec.tolerations,
        host_ports=tuple(
            HostPort(p.protocol, p.host_ip or "0.0.0.0", p.host_port)
            for c in containers
            for p in c.ports
            if p.host_port
        ),
        priority=spec.priority or 0,
    )


def node_view(node: Node) -> NodeView:
    return NodeView(
        name=node.metadata.name,
        labels=node.metadata.labels,
        allocatable=amounts(node.status.allocatable),
        taints=node.spec.taints,
        unschedulable=node.spec.unschedulable,
    )


def is_over(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_pending(pod: Pod) -> bool:
    """Whether the pod waits for this scheduler."""
    return (
        not pod.spec.node_name
        and pod.spec.scheduler_name == SCHEDULER_NAME
        and pod.metadata.deletion_timestamp is None
        and not is_over(pod)
    )


class Observed:
    """The informers, and `wake`, raised when something that may change a decision has changed."""

    def __init__(self, client: Client, wake: Wake) -> None:
        self.pods = Informer(client, PODS)
        self.nodes = Informer(client, NODES)
        self.services = Informer(client, SERVICES)
        self._wake = wake
        self._assumed: dict[str, tuple[str, PodView]] = {}
        self._views: dict[str, tuple[str, PodView]] = {}
        self.pods.subscribe(self._pod_changed)
        self.nodes.subscribe(self._node_changed)
        self.services.subscribe(self._service_changed)

    @property
    def informers(self) -> tuple[Informer[Pod], Informer[Node], Informer[Service]]:
        return self.pods, self.nodes, self.services

    @property
    def synced(self) -> bool:
        return all(i.synced.is_set() for i in self.informers)

    def assume(self, pod: PodView, node: str) -> None:
        """The server has accepted this binding. The watch may have told of it before the answer was here, or of the pod's
        end: then there is nothing to bridge, and what is assumed now would be counted beside it for ever."""
        shown = self.pods.get(pod.name, pod.namespace)
        if shown is not None and shown.metadata.uid == pod.uid and not shown.spec.node_name:
            self._assumed[shown.metadata.key] = (node, pod)

    def read(self) -> tuple[list[Pod], list[PodView], list[NodeView]]:
        """The pending pods, oldest first, the same as views, and the nodes with everything that is on them."""
        pending = [p for p in self.pods.items() if is_pending(p) and p.metadata.key not in self._assumed]
        if not pending:
            return [], [], []
        pending.sort(
            key=lambda p: (p.metadata.creation_timestamp is None, p.metadata.creation_timestamp, p.metadata.key)
        )
        return pending, [self._view(p) for p in pending], self._node_views()

    def _node_views(self) -> list[NodeView]:
        placed: defaultdict[str, list[tuple[PodView, bool]]] = defaultdict(list)
        for pod in self.pods.items():
            if pod.spec.node_name and not is_over(pod):
                placed[pod.spec.node_name].append((self._view(pod), pod.metadata.deletion_timestamp is None))
        for node_name, view in self._assumed.values():
            placed[node_name].append((view, True))
        nodes = []
        for node in self.nodes.items():
            if node.metadata.deletion_timestamp is not None:
                continue
            seen = node_view(node)
            for view, staying in placed[node.metadata.name]:
                seen = seen.with_pod(view, staying=staying)
            nodes.append(seen)
        return nodes

    def _view(self, pod: Pod) -> PodView:
        """A pod's view is made anew when its version is another one, or the Services are."""
        known = self._views.get(pod.metadata.key)
        if known is None or known[0] != pod.metadata.resource_version:
            known = (pod.metadata.resource_version, pod_view(pod, self.services.items()))
            self._views[pod.metadata.key] = known
        return known[1]

    def _pod_changed(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if new is None:
            self._views.pop(change.key, None)
        assumed = self._assumed.get(change.key)
        if assumed and (new is None or new.spec.node_name or new.metadata.uid != assumed[1].uid):
            del self._assumed[change.key]
        waits = new is not None and is_pending(new) and (old is None or not _same_wish(old, new))
        takes_less = old is not None and bool(old.spec.node_name) and not is_over(old)
        if waits or (takes_less and (new is None or is_over(new) or not _same_wish(old, new))):
            self._wake.set()

    def _node_changed(self, change: Change[Node]) -> None:
        old, new = change.old, change.new
        if old is None or new is None or _offer(old) != _offer(new):
            self._wake.set()

    def _service_changed(self, change: Change[Service]) -> None:
        if not (change.old and change.new and change.old.spec.selector == change.new.spec.selector):
            self._views.clear()


def _same_wish(old: Pod | None, new: Pod | None) -> bool:
    return old is not None and new is not None and old.metadata.uid == new.metadata.uid and old.spec == new.spec


def _offer(node: Node) -> tuple[object, ...]:
    return node.spec, node.metadata.labels, node.status.allocatable
