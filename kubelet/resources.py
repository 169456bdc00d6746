"""What a pod asks for, in the kernel's units: QoS class, CPU shares and quota, memory, OOM score, and the cgroups they
live in.

Formulas are upstream's (pkg/kubelet/cm/helpers_linux.go, qos/policy.go, pkg/apis/core/v1/helper/qos,
k8s.io/component-helpers/resource): shares = milli * 1024 / 1000, quota = milli * period / 1000, the tree is
`kubepods/{burstable,besteffort}/pod<uid>` with Guaranteed pods directly in kubepods.

A pod takes the sum of its app containers and sidecars, or what the greediest moment of its start takes, whichever is more;
where the pod itself says (`spec.resources`), that goes before its containers' sum; `spec.overhead` comes on top.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from kube import quantity
from kube.pods import Container, Pod
from kubelet.plan import is_sidecar, is_static
from kubelet.plan.situation import CONFIG_MIRROR
from kubelet.runtime import LinuxResources
from linux.cgroup.tree import Limits

PERIOD = 100_000  # microseconds
MIN_QUOTA = 1_000
MIN_SHARES, MAX_SHARES = 2, 262_144
GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"
CRITICAL_PRIORITY = 2_000_000_000
NODE_CRITICAL = "system-node-critical"
LAST_TO_DIE = -997

Amounts = dict[str, Fraction]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the node holds all pods to: cpuCFSQuota, cpuCFSQuotaPeriod (microseconds), podPidsLimit (0: no limit),
    seccompDefault, and the directory of seccomp profiles of type Localhost."""

    quota: bool = True
    period: int = PERIOD
    pids: int = 0
    seccomp: bool = False
    profiles: str = "/var/lib/kubelet/seccomp"


UPSTREAMS = Policy()


# --- what is asked for ------------------------------------------------------------------------------------------------


def requests_of(container: Container) -> dict[str, str]:
    """Requests, with limits standing in where there is no request, as API defaulting does."""
    return {**container.resources.limits, **container.resources.requests}


def canonical(amounts: Mapping[str, str]) -> dict[str, str]:
    """As the API server spells them: what a file of a static pod says must not differ from what comes back."""
    return {name: _canonical(amount) for name, amount in amounts.items()}


def _canonical(text: str) -> str:
    try:
        return quantity.canonical(text)
    except ValueError:
        return text


def limits_of(container: Container) -> dict[str, str]:
    return container.resources.limits


def amounts_of(amounts: Mapping[str, str]) -> Amounts:
    """What is no quantity counts as nothing: `kubelet.admission.refusals` names it, and its pod is not started."""
    return {name: _amount(amount) for name, amount in amounts.items()}


def _amount(text: str) -> Fraction:
    try:
        return quantity.parse(text)
    except ValueError:
        return Fraction(0)


def _added(one: Amounts, other: Amounts) -> Amounts:
    return {name: one.get(name, Fraction(0)) + other.get(name, Fraction(0)) for name in one.keys() | other.keys()}


def _highest(one: Amounts, other: Amounts) -> Amounts:
    return {name: max(one.get(name, Fraction(0)), other.get(name, Fraction(0))) for name in one.keys() | other.keys()}


def _total(pod: Pod, of: Callable[[Container], Mapping[str, str]]) -> Amounts:
    running: Amounts = {}
    for container in pod.spec.containers:
        for name, amount in of(container).items():
            parsed = _amount(amount)
            running[name] = running[name] + parsed if name in running else parsed
    if not pod.spec.init_containers:
        return running
    starting: Amounts = {}
    sidecars: Amounts = {}
    for container in pod.spec.init_containers:
        own = amounts_of(of(container))
        if is_sidecar(container):
            running, sidecars = _added(running, own), _added(sidecars, own)
            starting = _highest(starting, sidecars)
        else:
            starting = _highest(starting, _added(own, sidecars))
    return _highest(running, starting)


def _own(pod: Pod) -> tuple[dict[str, str], dict[str, str]]:
    """The requests and limits of the pod itself."""
    own = pod.spec.resources
    return ({**own.limits, **own.requests}, own.limits) if own else ({}, {})


def requests(pod: Pod) -> Amounts:
    """What the scheduler counted: cores, bytes, pieces."""
    total = _total(pod, requests_of)
    if pod.spec.resources:
        total |= amounts_of(_own(pod)[0])
    return _added(total, amounts_of(pod.spec.overhead)) if pod.spec.overhead else total


def pod_requests(pod: Pod) -> dict[str, int]:
    """`cpu` in milli, `memory` in bytes."""
    asked = requests(pod)
    return {"cpu": _milli(asked), "memory": _bytes(asked)}


def _milli(amounts: Amounts) -> int:
    return -int(-amounts.get("cpu", Fraction(0)) * 1000 // 1)


def _bytes(amounts: Amounts) -> int:
    return -int(-amounts.get("memory", Fraction(0)) // 1)


# --- classes ----------------------------------------------------------------------------------------------------------


def _computed(amounts: Mapping[str, str]) -> Amounts:
    """Those that make a QoS class, where there is anything of them."""
    return {name: amount for name, amount in amounts_of(amounts).items() if name in ("cpu", "memory") and amount > 0}


def qos_class(pod: Pod) -> str:
    """What the API says, which computes it when a pod is made; it never changes."""
    return pod.status.qos_class or _computed_class(pod)


def _computed_class(pod: Pod) -> str:
    if any(_own(pod)):
        asked, held = (_computed(amounts) for amounts in _own(pod))
        guaranteed = len(held) == 2
    else:
        asked, held, guaranteed = {}, {}, True
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            asked = _added(asked, _computed(requests_of(container)))
            limited = _computed(container.resources.limits)
            held = _added(held, limited)
            guaranteed = guaranteed and len(limited) == 2
    if not asked and not held:
        return BEST_EFFORT
    return GUARANTEED if guaranteed and asked == held else BURSTABLE


def is_critical(pod: Pod) -> bool:
    """Let in at others' cost: static pods, mirrors, and what has a system priority (kubetypes.IsCriticalPod)."""
    mirror = CONFIG_MIRROR in pod.metadata.annotations
    return is_static(pod) or mirror or (pod.spec.priority or 0) >= CRITICAL_PRIORITY


# --- the kernel's units -----------------------------------------------------------------------------------------------


def shares(milli: int) -> int:
    return MIN_SHARES if milli <= 0 else max(MIN_SHARES, min(MAX_SHARES, milli * 1024 // 1000))


def quota(milli: int, period: int = PERIOD) -> int:
    """Microseconds per period; 0 for no limit."""
    return 0 if milli <= 0 else max(MIN_QUOTA, milli * period // 1000)


def pod_limits(pod: Pod, policy: Policy = UPSTREAMS) -> Limits:
    """Limits of the pod's cgroup. A limit counts only if every container has one, or the pod itself."""
    pids = policy.pids or None
    if qos_class(pod) == BEST_EFFORT:
        return Limits(cpu_shares=MIN_SHARES, pids=pids)
    own = _computed(_own(pod)[1])
    declared = [_computed(c.resources.limits) for c in (*pod.spec.init_containers, *pod.spec.containers)]
    total = {**_total(pod, limits_of), **own}
    total = {name: amount + amounts_of(pod.spec.overhead).get(name, 0) for name, amount in total.items() if amount > 0}
    held = {name for name in ("cpu", "memory") if name in own or all(name in limits for limits in declared)}
    return Limits(
        cpu_shares=shares(pod_requests(pod)["cpu"]),
        cpu_quota_us=quota(_milli(total), policy.period) if policy.quota and "cpu" in held else None,
        cpu_period_us=policy.period,
        memory_bytes=_bytes(total) if "memory" in held else None,
        pids=pids,
    )


def burstable_shares(pods: Iterable[Pod]) -> int:
    """The burstable tier weighs what its pods ask for together."""
    return shares(sum(pod_requests(pod)["cpu"] for pod in pods if qos_class(pod) == BURSTABLE))


def oom_score_adj(pod: Pod, container: Container, node_memory: int) -> int:
    """A sidecar is not killed before the containers it serves; what the pod asks for beyond its containers is shared
    among them."""
    if is_critical(pod) and pod.spec.priority_class_name == NODE_CRITICAL:
        return LAST_TO_DIE
    match qos_class(pod):
        case "Guaranteed":
            return LAST_TO_DIE
        case "BestEffort":
            return 1000
        case _:
            asked = _bytes(amounts_of(requests_of(container)))
            if is_sidecar(container) and any(container.name == c.name for c in pod.spec.init_containers):
                asked = max(asked, min((_bytes(amounts_of(requests_of(c))) for c in pod.spec.containers), default=0))
            score = 1000 - 1000 * (asked + _spare(pod)) // max(1, node_memory)
            return max(1000 + LAST_TO_DIE, min(999, score))


def _spare(pod: Pod) -> int:
    """Each container's share of memory that the pod asks for and its containers do not."""
    own = amounts_of(_own(pod)[0])
    if not own:
        return 0
    lasting = [c for c in pod.spec.init_containers if is_sidecar(c)]
    left = _bytes(own) - _bytes(_total(pod, requests_of))
    return max(0, left) // max(1, len(pod.spec.containers) + len(lasting))


def container_resources(pod: Pod, container: Container, node_memory: int, policy: Policy = UPSTREAMS) -> LinuxResources:
    limits = amounts_of(container.resources.limits)
    held = quota(_milli(limits), policy.period) if policy.quota else 0
    return LinuxResources(
        cpu_shares=shares(_milli(amounts_of(requests_of(container)))),
        cpu_period=policy.period if held else 0,
        cpu_quota=held,
        memory_limit=_bytes(limits),
        oom_score_adj=oom_score_adj(pod, container, node_memory),
        hugepage_limits=tuple(
            (f"{size.removeprefix('hugepages-').removesuffix('i')}B", int(amount))
            for size, amount in sorted(limits.items())
            if size.startswith("hugepages-")
        ),
    )


def sandbox_resources(pod: Pod, policy: Policy = UPSTREAMS) -> tuple[LinuxResources, LinuxResources | None]:
    """Of all containers together, and of the overhead. (calculateSandboxResources, convertOverheadToLinuxResources)"""
    asked, held = (amounts_of(amounts) for amounts in _own(pod))
    whole = _sized({**_total(pod, requests_of), **asked}, {**_total(pod, limits_of), **held}, policy)
    over = amounts_of(pod.spec.overhead)
    return whole, _sized(over, over, policy) if over else None


def _sized(asked: Amounts, limits: Amounts, policy: Policy) -> LinuxResources:
    held = quota(_milli(limits), policy.period) if policy.quota else 0
    return LinuxResources(
        cpu_shares=shares(_milli(asked)),
        cpu_period=policy.period if held else 0,
        cpu_quota=held,
        memory_limit=_bytes(limits),
    )


# --- where it lives ---------------------------------------------------------------------------------------------------


def tier(root: str, qos: str) -> str:
    """The parent group of a class of pods."""
    base = f"{root.rstrip('/')}/kubepods"
    return base if qos == GUARANTEED else f"{base}/{qos.lower()}"


def pod_cgroup(root: str, pod: Pod) -> str:
    return f"{tier(root, qos_class(pod))}/pod{pod.metadata.uid}"
