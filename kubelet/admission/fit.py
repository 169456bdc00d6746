"""Whether this node takes a pod that was bound to it: pure.

Binding is a wish. The scheduler may have been mistaken, or somebody wrote spec.nodeName by hand; so the node asks once more,
before anything of the pod is started, and in upstream's order:

    pressure              Evicted: all but critical pods for disk and PIDs, BestEffort ones for memory
    sysctls               SysctlForbidden
    operating system      PodOSSelectorNodeLabelDoesNotMatch, PodOSNotSupported
    resources             OutOfpods, OutOfcpu, OutOfmemory, OutOf...: requests against allocatable less those who are in
    node selector         NodeAffinity
    host ports            NodePorts
    taints                TaintToleration: NoExecute, not for static pods
    AppArmor, groups      AppArmor, SupplementalGroupsPolicyNotSupported

A pod that is let in stays in: whoever runs, or has been told to have started, is not asked again by a kubelet that was
restarted. For want of resources a critical pod may send others away: see `kubelet.admission.preemption`.

(pkg/kubelet/lifecycle/{predicate,handlers}.go, scheduler.AdmissionCheck, eviction_manager.go, security/apparmor)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from kube import labels, quantity
from kube.core import Taint
from kube.pods import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod
from kube.selectors import Requirement
from kube.taints import tolerated
from kubelet import resources
from kubelet.admission.sysctls import Allowlist
from kubelet.plan import is_sidecar, is_static

MEMORY_PRESSURE_TAINT = Taint(key="node.kubernetes.io/memory-pressure", effect="NoSchedule")
NATIVE = ("cpu", "memory", "ephemeral-storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The node, as far as it decides. `pressure` names conditions: MemoryPressure, DiskPressure, PIDPressure."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Taint] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)
    pressure: Sequence[str] = ()
    sysctls: Allowlist = field(default_factory=Allowlist)
    apparmor: bool = True


@dataclass(frozen=True, slots=True)
class Shortage:
    """Of one resource; `cpu` in milli."""

    resource: str
    requested: int
    used: int
    capacity: int

    @property
    def words(self) -> str:
        return (
            f"Node didn't have enough resource: {self.resource}, requested: {self.requested}, used: {self.used}, "
            f"capacity: {self.capacity}"
        )

    @property
    def missing(self) -> int:
        return self.requested - (self.capacity - self.used)


@dataclass(frozen=True, slots=True)
class Rejection:
    """`shortages` is all that stands in the way: room may be made."""

    reason: str
    message: str
    shortages: tuple[Shortage, ...] = ()


def was_let_in(pod: Pod) -> bool:
    """Whether an earlier kubelet took it: from then on its status tells when it started."""
    return pod.status.start_time is not None


def objection(pod: Pod, others: Iterable[Pod], ground: Ground) -> Rejection | None:
    """Why the pod is not taken beside `others`, who are in and not over; None when it is."""
    return _at_the_door(pod, ground) or _fit(pod, tuple(others), ground) or _confinement(pod, ground)


def _at_the_door(pod: Pod, ground: Ground) -> Rejection | None:
    if ground.pressure and not resources.is_critical(pod):
        only_memory = tuple(ground.pressure) == ("MemoryPressure",)
        spared = resources.qos_class(pod) != resources.BEST_EFFORT or tolerated(
            MEMORY_PRESSURE_TAINT, pod.spec.tolerations
        )
        if not (only_memory and spared):
            return Rejection("Evicted", f"The node had condition: [{' '.join(ground.pressure)}]. ")
    if why := ground.sysctls.objection(pod):
        return Rejection("SysctlForbidden", why)
    wanted = pod.spec.node_selector.get(labels.OS)
    if wanted is not None and wanted != ground.labels.get(labels.OS, "linux"):
        return Rejection(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    if pod.spec.os is not None and pod.spec.os.name not in ("", "linux"):
        return Rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
    return None


def _fit(pod: Pod, others: tuple[Pod, ...], ground: Ground) -> Rejection | None:
    """The predicates. The first that fails is told, and room helps only if nothing but room is missing."""
    lacking = tuple(shortages(pod, others, ground))
    failed = tuple(_failed_predicates(pod, others, ground))
    if lacking:
        first = lacking[0]
        return Rejection(f"OutOf{first.resource}", first.words, () if failed else lacking)
    return failed[0] if failed else None


def _failed_predicates(pod: Pod, others: tuple[Pod, ...], ground: Ground) -> Iterator[Rejection]:
    def failed(name: str, why: str) -> Rejection:
        return Rejection(name, f"Predicate {name} failed: {why}")

    if not _selected(pod, ground):
        yield failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
    if pod.spec.node_name and pod.spec.node_name != ground.name:
        yield failed("NodeName", "node(s) didn't match the requested node name")
    taken = {port for other in others for port in host_ports(other)}
    if any(_clash(mine, theirs) for mine in host_ports(pod) for theirs in taken):
        yield failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
    if not is_static(pod) and any(
        taint.effect == "NoExecute" and not tolerated(taint, pod.spec.tolerations) for taint in ground.taints
    ):
        yield failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")


def _confinement(pod: Pod, ground: Ground) -> Rejection | None:
    contexts = [
        pod.spec.security_context,
        *(c.security_context for c in (*pod.spec.init_containers, *pod.spec.containers)),
    ]
    profiles = [context.app_armor_profile for context in contexts if context is not None]
    if not ground.apparmor and any(profile is not None and profile.type != "Unconfined" for profile in profiles):
        return Rejection("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")
    whole = pod.spec.security_context
    if whole is not None and whole.supplemental_groups_policy == "Strict":
        return Rejection(
            "SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"
        )
    return None


# --- resources --------------------------------------------------------------------------------------------------------


def counted(pod: Pod) -> dict[str, int]:
    """What a pod takes, in the units of messages: cpu in milli, the rest in whole units, `pods` 1."""
    return {name: _units(name, amount) for name, amount in resources.requests(pod).items()} | {"pods": 1}


def _units(name: str, amount: Fraction) -> int:
    top, bottom = amount.numerator, amount.denominator
    return -(-(top * 1000 if name == "cpu" else top) // bottom)


def room_of(ground: Ground) -> dict[str, int]:
    return {name: _units(name, quantity.parse(amount)) for name, amount in ground.allocatable.items()}


def shortages(pod: Pod, others: Sequence[Pod], ground: Ground) -> Iterator[Shortage]:
    """What there is too little of, in upstream's order. Extended resources that the node does not offer are the device
    plugins' matter."""
    room, wanted = room_of(ground), counted(pod)
    ordered = ["pods", *NATIVE, *sorted(wanted.keys() - {"pods", *NATIVE})]
    takers = [counted(other) for other in others]
    for name in ordered:
        asked = wanted.get(name, 0)
        extended = name not in ("pods", *NATIVE) and not name.startswith("hugepages-")
        if asked <= 0 or (name not in room and (extended or name == "pods")):
            continue
        used, capacity = sum(taker.get(name, 0) for taker in takers), room.get(name, 0)
        if asked > capacity - used:
            yield Shortage(name, asked, used, capacity)


# --- labels and ports -------------------------------------------------------------------------------------------------


def _selected(pod: Pod, ground: Ground) -> bool:
    if any(ground.labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    required = affinity.required_during_scheduling_ignored_during_execution if affinity else None
    return required is None or _selects(required, ground)


def _selects(selector: NodeSelector, ground: Ground) -> bool:
    """The terms are alternatives; a term without expressions and fields selects nothing."""
    return any(_term(term, ground) for term in selector.node_selector_terms)


def _term(term: NodeSelectorTerm, ground: Ground) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": ground.name}
    expressions = all(_holds(requirement, ground.labels) for requirement in term.match_expressions)
    return expressions and all(_holds(requirement, fields) for requirement in term.match_fields)


def _holds(requirement: NodeSelectorRequirement, values: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" as operator:
            return Requirement(requirement.key, operator, frozenset(requirement.values)).matches(values)
        case _:
            return False  # an operator of a later version


Port = tuple[str, str, int]  # protocol, address, port


def host_ports(pod: Pod) -> tuple[Port, ...]:
    """With the host's network a container's ports are the node's."""
    lasting = (*pod.spec.containers, *(c for c in pod.spec.init_containers if is_sidecar(c)))
    found = (
        (
            port.protocol or "TCP",
            port.host_ip or "0.0.0.0",
            port.host_port or pod.spec.host_network * port.container_port,
        )
        for container in lasting
        for port in container.ports
    )
    return tuple(port for port in found if port[2])


def _clash(one: Port, other: Port) -> bool:
    everywhere = ("0.0.0.0", "::")
    same = one[1] == other[1] or one[1] in everywhere or other[1] in everywhere
    return one[0] == other[0] and one[2] == other[2] and same
