"""What a pod asks for, in the kernel's units: QoS class, CPU shares and quota, memory, OOM score, and the cgroups they
live in.
 Formulas are upstream's (pkg/kubelet/cm/helpers_linux.go, qos/policy.go, pkg/apis/core/v1/helper/qos): shares = milli *
1024 / 1000, quota = milli * period / 1000, the tree is `kubepods/{burstable,besteffort}/pod<uid>` with Guaranteed pods
directly in kubepods.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction

from kube import quantity
from kube.pods import Container, Pod
from kubelet.runtime import LinuxResources
from linux.cgroup.tree import Limits

PERIOD = 100_000  # microseconds
MIN_QUOTA = 1_000
MIN_SHARES, MAX_SHARES = 2, 262_144
GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"
CRITICAL_PRIORITY = 2_000_000_000


def _positive(amounts: Mapping[str, str]) -> dict[str, Fraction]:
    return {
        name: quantity.parse(amounts[name]) for name in ("cpu", "memory") if quantity.parse(amounts.get(name, "0")) > 0
    }


def requests_of(container: Container) -> dict[str, str]:
    """Requests, with limits standing in where there is no request, as API defaulting does."""
    return {**container.resources.limits, **container.resources.requests}


def qos_class(pod: Pod) -> str:
    requests: dict[str, Fraction] = {}
    limits: dict[str, Fraction] = {}
    guaranteed = True
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for name, amount in _positive(requests_of(container)).items():
            requests[name] = requests.get(name, Fraction(0)) + amount
        limited = _positive(container.resources.limits)
        for name, amount in limited.items():
            limits[name] = limits.get(name, Fraction(0)) + amount
        guaranteed = guaranteed and len(limited) == 2
    if not requests and not limits:
        return BEST_EFFORT
    return GUARANTEED if guaranteed and requests == limits else BURSTABLE


def shares(milli: int) -> int:
    return MIN_SHARES if milli <= 0 else max(MIN_SHARES, min(MAX_SHARES, milli * 1024 // 1000))


def quota(milli: int) -> int:
    """Microseconds per period; 0 for no limit."""
    return 0 if milli <= 0 else max(MIN_QUOTA, milli * PERIOD // 1000)


def _milli(amounts: Mapping[str, str]) -> int:
    return quantity.milli(amounts.get("cpu", "0"))


def _bytes(amounts: Mapping[str, str]) -> int:
    return quantity.integer(amounts.get("memory", "0"))


def pod_total(pod: Pod, amounts: Iterable[tuple[Container, int]]) -> int:
    """The sum over app containers, or the largest init container if that is more."""
    apps = {container.name for container in pod.spec.containers}
    pairs = list(amounts)
    summed = sum(amount for container, amount in pairs if container.name in apps)
    return max([summed, *(amount for container, amount in pairs if container.name not in apps)])


def _everyone(pod: Pod) -> tuple[Container, ...]:
    return (*pod.spec.init_containers, *pod.spec.containers)


def pod_requests(pod: Pod) -> dict[str, int]:
    """`cpu` in milli, `memory` in bytes: what the scheduler counted."""
    overhead = pod.spec.overhead
    return {
        "cpu": pod_total(pod, ((c, _milli(requests_of(c))) for c in _everyone(pod))) + _milli(overhead),
        "memory": pod_total(pod, ((c, _bytes(requests_of(c))) for c in _everyone(pod))) + _bytes(overhead),
    }


def pod_limits(pod: Pod) -> Limits:
    """Limits of the pod's cgroup. A limit counts only if every container has one."""
    everyone = _everyone(pod)
    if qos_class(pod) == BEST_EFFORT:
        return Limits(cpu_shares=MIN_SHARES)
    cpu_limited = all(_milli(c.resources.limits) > 0 for c in everyone)
    memory_limited = all(_bytes(c.resources.limits) > 0 for c in everyone)
    cpu = pod_total(pod, ((c, _milli(c.resources.limits)) for c in everyone)) if cpu_limited else 0
    memory = pod_total(pod, ((c, _bytes(c.resources.limits)) for c in everyone)) if memory_limited else 0
    return Limits(
        cpu_shares=shares(pod_requests(pod)["cpu"]),
        cpu_quota_us=quota(cpu) if cpu_limited else None,
        cpu_period_us=PERIOD,
        memory_bytes=memory if memory_limited else None,
    )


def burstable_shares(pods: Iterable[Pod]) -> int:
    """The burstable tier weighs what its pods ask for together."""
    return shares(sum(pod_requests(pod)["cpu"] for pod in pods if qos_class(pod) == BURSTABLE))


def oom_score_adj(pod: Pod, container: Container, node_memory: int) -> int:
    if pod.spec.priority is not None and pod.spec.priority >= CRITICAL_PRIORITY:
        return -997
    match qos_class(pod):
        case "Guaranteed":
            return -997
        case "BestEffort":
            return 1000
        case _:
            score = 1000 - 1000 * _bytes(container.resources.requests) // max(1, node_memory)
            return max(3, min(999, score))


def container_resources(pod: Pod, container: Container, node_memory: int) -> LinuxResources:
    return LinuxResources(
        cpu_shares=shares(_milli(requests_of(container))),
        cpu_period=PERIOD if _milli(container.resources.limits) else 0,
        cpu_quota=quota(_milli(container.resources.limits)),
        memory_limit=_bytes(container.resources.limits),
        oom_score_adj=oom_score_adj(pod, container, node_memory),
    )


def tier(root: str, qos: str) -> str:
    """The parent group of a class of pods."""
    base = f"{root.rstrip('/')}/kubepods"
    return base if qos == GUARANTEED else f"{base}/{qos.lower()}"


def pod_cgroup(root: str, pod: Pod) -> str:
    return f"{tier(root, qos_class(pod))}/pod{pod.metadata.uid}"
