"""What an object counts for against a ResourceQuota: shared by admission, which charges, and the controller, which recounts.

Objects are plain JSON; amounts are exact (`Fraction`). The names are upstream's: `pods`, `requests.cpu`, `limits.memory`,
`services.nodeports`, `CLASS.storageclass.storage.k8s.io/requests.storage`, `count/PLURAL.GROUP`; `cpu` and `memory` are the
requests under their old names. Upstream: pkg/quota/v1/evaluator/core, k8s.io/component-helpers/resource.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from kube.quantity import binary, decimal, parse

Obj = Mapping[str, Any]
Amounts = dict[str, Fraction]

ONE: Final = Fraction(1)
NATIVE_PREFIX: Final = "kubernetes.io/"
_COMPUTE: Final = ("cpu", "memory", "ephemeral-storage")
_REQUIRED: Final = frozenset({"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"})
_OF_PODS: Final = frozenset(
    {"count/pods", "pods", *_COMPUTE, *(f"requests.{one}" for one in _COMPUTE), *(f"limits.{one}" for one in _COMPUTE)}
)
_OF_SERVICES: Final = frozenset({"count/services", "services", "services.nodeports", "services.loadbalancers"})
_OF_CLAIMS: Final = frozenset({"count/persistentvolumeclaims", "persistentvolumeclaims", "requests.storage"})
_CLASS: Final = ".storageclass.storage.k8s.io/"
_COUNTED: Final = frozenset({"configmaps", "resourcequotas", "replicationcontrollers", "secrets"})
_BINARY: Final = ("memory", "storage", "hugepages-")


def amounts(resources: Obj | None) -> Amounts:
    return {name: parse(str(amount)) for name, amount in (resources or {}).items()}


def render(name: str, amount: Fraction) -> str:
    """As people write it: bytes in binary units where they fit, all else in decimal ones."""
    if amount.denominator == 1 and amount and amount % 1024 == 0 and any(one in name for one in _BINARY):
        return binary(int(amount))
    return decimal(amount)


def written(found: Mapping[str, Fraction]) -> dict[str, str]:
    return {name: render(name, amount) for name, amount in sorted(found.items())}


def shown(found: Mapping[str, Fraction]) -> str:
    """`pods=1,requests.cpu=500m`"""
    return ",".join(f"{name}={render(name, amount)}" for name, amount in sorted(found.items()))


def added(left: Mapping[str, Fraction], right: Mapping[str, Fraction]) -> Amounts:
    return {name: left.get(name, Fraction(0)) + right.get(name, Fraction(0)) for name in {**left, **right}}


def _highest(left: Mapping[str, Fraction], right: Mapping[str, Fraction]) -> Amounts:
    return {name: max(left.get(name, Fraction(0)), right.get(name, Fraction(0))) for name in {**left, **right}}


def is_extended(name: str) -> bool:
    """`example.com/gpu`: a resource that is none of Kubernetes' own."""
    return "/" in name and NATIVE_PREFIX not in name and not name.startswith("requests.")


def pod_requests(spec: Obj, *, overhead: bool = True) -> Amounts:
    return _pod(spec, "requests", overhead=overhead)


def pod_limits(spec: Obj, *, overhead: bool = True) -> Amounts:
    return _pod(spec, "limits", overhead=overhead)


def _pod(spec: Obj, field: str, *, overhead: bool) -> Amounts:
    """All containers and sidecars together, or the greediest moment of the start, whichever is more."""
    total: Amounts = {}
    for container in spec.get("containers") or ():
        total = added(total, amounts((container.get("resources") or {}).get(field)))
    sidecars: Amounts = {}
    starting: Amounts = {}
    for container in spec.get("initContainers") or ():
        own = amounts((container.get("resources") or {}).get(field))
        if container.get("restartPolicy") == "Always":
            total, sidecars = added(total, own), added(sidecars, own)
            starting = _highest(starting, sidecars)
        else:
            starting = _highest(starting, added(sidecars, own))
    total = _highest(total, starting)
    for name, amount in amounts((spec.get("resources") or {}).get(field)).items():
        total[name] = amount
    if overhead and spec.get("overhead"):
        extra = amounts(spec["overhead"])
        total = added(total, extra if field == "requests" else {k: v for k, v in extra.items() if total.get(k)})
    return total


def charged(pod: Obj, now: datetime) -> bool:
    """Ended pods, and pods that should have ended long ago, are not charged for what they used to use."""
    metadata = pod["metadata"]
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return False
    deleted, grace = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds")
    if deleted and grace is not None:
        return now <= datetime.fromisoformat(deleted).astimezone(UTC) + timedelta(seconds=grace)
    return True


def _container_usage(requests: Amounts, limits: Amounts) -> Amounts:
    found = {"pods": ONE}
    for name in _COMPUTE:
        if name in requests:
            found[name] = found[f"requests.{name}"] = requests[name]
        if name in limits:
            found[f"limits.{name}"] = limits[name]
    for name, amount in requests.items():
        if name.startswith("hugepages-"):
            found[name] = found[f"requests.{name}"] = amount
        elif is_extended(name):
            found[f"requests.{name}"] = amount
    return found


def usage(kind: str, obj: Obj, now: datetime) -> Amounts:
    """What one object of `kind` (`pods`, `deployments.apps`) counts for."""
    found: Amounts = {f"count/{kind}": ONE}
    match kind:
        case "pods":
            if charged(obj, now):
                spec = obj["spec"]
                found |= _container_usage(pod_requests(spec), pod_limits(spec))
        case "services":
            found |= _service(obj["spec"])
        case "persistentvolumeclaims":
            found |= _claim(obj)
        case _ if kind in _COUNTED:
            found[kind] = ONE
        case _:
            pass
    return found


def _service(spec: Obj) -> Amounts:
    ports, balancers = 0, 0
    match spec.get("type"):
        case "NodePort":
            ports = len(spec.get("ports") or ())
        case "LoadBalancer":
            allocated = spec.get("allocateLoadBalancerNodePorts", True)
            ports = sum(1 for port in spec.get("ports") or () if allocated or port.get("nodePort"))
            balancers = 1
        case _:
            pass
    return {"services": ONE, "services.nodeports": Fraction(ports), "services.loadbalancers": Fraction(balancers)}


def _claim(claim: Obj) -> Amounts:
    spec = claim["spec"]
    annotations = claim["metadata"].get("annotations") or {}
    name = annotations.get("volume.beta.kubernetes.io/storage-class") or spec.get("storageClassName")
    found = {"persistentvolumeclaims": ONE}
    if name:
        found[f"{name}{_CLASS}persistentvolumeclaims"] = ONE
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if asked is not None:
        allocated = ((claim.get("status") or {}).get("allocatedResources") or {}).get("storage", "0")
        size = max(parse(str(asked)), parse(str(allocated)))
        found["requests.storage"] = size
        if name:
            found[f"{name}{_CLASS}requests.storage"] = size
    return found


def matching(kind: str, hard: Iterable[str]) -> frozenset[str]:
    """Those of a quota's resources that objects of `kind` can count for."""
    match kind:
        case "pods":
            return frozenset(name for name in hard if name in _OF_PODS or _of_pods_by_prefix(name))
        case "services":
            return _OF_SERVICES & frozenset(hard)
        case "persistentvolumeclaims":
            return frozenset(name for name in hard if name in _OF_CLAIMS or _CLASS in name)
        case _:
            return frozenset(name for name in hard if name == f"count/{kind}" or (kind in _COUNTED and name == kind))


def _of_pods_by_prefix(name: str) -> bool:
    if name.startswith(("hugepages-", "requests.hugepages-")):
        return True
    return name.startswith("requests.") and "/" in name and _CLASS not in name and NATIVE_PREFIX not in name


def kinds(hard: Iterable[str]) -> frozenset[str]:
    """The kinds that a quota has to look at."""
    found: set[str] = set()
    for name in hard:
        if name.startswith("count/"):
            found.add(name.removeprefix("count/"))
        elif name in _COUNTED:
            found.add(name)
        for kind in ("pods", "services", "persistentvolumeclaims"):
            if matching(kind, (name,)):
                found.add(kind)
    return frozenset(found)


def unspecified(required: Iterable[str], pod: Obj) -> str:
    """Where cpu or memory are limited, every container says how much it wants: `must specify cpu for: a,b`, or "" ."""
    wanted = _REQUIRED & frozenset(required)
    missing: dict[str, set[str]] = {}
    spec = pod["spec"]
    if not wanted:
        return ""
    whole = _container_usage(
        amounts((spec.get("resources") or {}).get("requests")), amounts((spec.get("resources") or {}).get("limits"))
    )
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        given = _container_usage(amounts(resources.get("requests")), amounts(resources.get("limits")))
        for name in wanted - given.keys() - whole.keys():
            missing.setdefault(name, set()).add(container["name"])
    if not missing:
        return ""
    return "must specify " + "; ".join(f"{name} for: {','.join(sorted(missing[name]))}" for name in sorted(missing))


def in_scope(spec: Obj, kind: str, obj: Obj) -> bool:
    """Whether a quota is about this object, going by its scopes; only pods have any."""
    terms: list[tuple[str, str, tuple[str, ...]]] = [(scope, "Exists", ()) for scope in spec.get("scopes") or ()]
    terms += [
        (term["scopeName"], term["operator"], tuple(term.get("values") or ()))
        for term in (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    ]
    return not terms or (kind == "pods" and all(_matches(obj, *term) for term in terms))


def _matches(pod: Obj, scope: str, operator: str, values: tuple[str, ...]) -> bool:
    spec = pod["spec"]
    match scope:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return best_effort(spec)
        case "NotBestEffort":
            return not best_effort(spec)
        case "PriorityClass":
            name = spec.get("priorityClassName") or ""
            match operator:
                case "Exists":
                    return bool(name)
                case "DoesNotExist":
                    return not name
                case "In":
                    return name in values
                case _:
                    return name not in values
        case "CrossNamespacePodAffinity":
            return any(term.get("namespaces") or "namespaceSelector" in term for term in _affinities(spec))
        case _:
            return False


def best_effort(spec: Obj) -> bool:
    """No container asks for, or is limited in, cpu or memory."""
    for holder in (spec, *(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = holder.get("resources") or {}
        for field in ("requests", "limits"):
            given = resources.get(field) or {}
            if any(parse(str(given[name])) > 0 for name in ("cpu", "memory") if name in given):
                return False
    return True


def _affinities(spec: Obj) -> Iterator[Obj]:
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        yield from terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        for weighted in terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            yield weighted.get("podAffinityTerm") or {}
