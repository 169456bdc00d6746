"""Admission: what the server adds to, or holds against, an object before it is stored. Functions of values.

In upstream's order, the plugins that every cluster has: NamespaceLifecycle, TaintNodesByCondition, Priority,
DefaultTolerationSeconds, ServiceAccount (which must exist; its token volume comes with identity). Each can be switched off
by its upstream name (`--disable-admission-plugins`), as upstream's own tests do where no controllers run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from apiserver import errors
from apiserver.accounts import DEFAULT
from apiserver.errors import StatusError
from apiserver.registry import Resource
from kube.labels import TAINT_NOT_READY, TAINT_UNREACHABLE

Obj = dict[str, Any]
PLUGINS: Final = frozenset(
    {"NamespaceLifecycle", "TaintNodesByCondition", "Priority", "DefaultTolerationSeconds", "ServiceAccount"}
)
MIRROR_POD: Final = "kubernetes.io/config.mirror"
PRIORITY_CLASSES: Final = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


@dataclass(frozen=True, slots=True)
class Admission:
    """`namespace_phase` answers the phase of a namespace, None when there is none of that name; `service_account` the
    ServiceAccount of a namespace and name, after a wait where one is worth it."""

    namespace_phase: Callable[[str], str | None]
    service_account: Callable[[str, str], Awaitable[Obj | None]]
    plugins: frozenset[str] = PLUGINS
    not_ready_seconds: int = 300
    unreachable_seconds: int = 300

    async def create(self, resource: Resource, namespace: str, obj: Obj) -> None:
        """Changes `obj` in place; raises the StatusError that refuses it."""
        if namespace and "NamespaceLifecycle" in self.plugins:
            refusal = namespace_lifecycle(resource, namespace, obj, self.namespace_phase(namespace))
            if refusal:
                raise refusal
        match resource.plural:
            case "nodes" if "TaintNodesByCondition" in self.plugins:
                taint_new_node(obj)
            case "pods":
                await self._pod(namespace, obj)
            case _:
                pass

    async def _pod(self, namespace: str, pod: Obj) -> None:
        if "Priority" in self.plugins:
            priority(pod)
        if "DefaultTolerationSeconds" in self.plugins:
            default_tolerations(pod, self.not_ready_seconds, self.unreachable_seconds)
        if "ServiceAccount" not in self.plugins:
            return
        if MIRROR_POD in (pod["metadata"].get("annotations") or {}):
            mirror_pod(pod)
            return
        name = account_name(pod)
        account = await self.service_account(namespace, name)
        if account is None:
            why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
            raise errors.forbidden("", "pods", pod["metadata"].get("name", ""), why)
        use_account(pod, name, account)


def namespace_lifecycle(resource: Resource, namespace: str, obj: Obj, phase: str | None) -> StatusError | None:
    if phase is None:
        return errors.not_found("", "namespaces", namespace)
    if phase == "Active":
        return None
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    return errors.forbidden(resource.info.group, resource.plural, obj["metadata"].get("name", ""), why, [cause])


def taint_new_node(node: Obj) -> None:
    """No pod may land on a node before its kubelet has said that it is ready."""
    taints = node.setdefault("spec", {}).setdefault("taints", [])
    wanted = {"key": TAINT_NOT_READY, "effect": "NoSchedule"}
    if not any(taint.get("key") == TAINT_NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
        taints.append(wanted)


def priority(pod: Obj) -> None:
    spec = pod["spec"]
    name = spec.get("priorityClassName")
    if name and name not in PRIORITY_CLASSES:
        why = f"no PriorityClass with name {name} was found"
        raise errors.forbidden("", "pods", pod["metadata"].get("name", ""), why)
    value = PRIORITY_CLASSES.get(name, 0)
    if spec.get("priority", value) != value:
        why = (
            f"the integer value of priority ({spec['priority']}) must not be provided in pod spec;"
            f" priority admission controller computed {value} from the given PriorityClass name"
        )
        raise errors.forbidden("", "pods", pod["metadata"].get("name", ""), why)
    spec["priority"] = value
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")


def default_tolerations(pod: Obj, not_ready: int, unreachable: int) -> None:
    """A pod leaves a dead node after a while unless it says otherwise."""
    tolerations = list(pod["spec"].get("tolerations") or ())
    for key, seconds in ((TAINT_NOT_READY, not_ready), (TAINT_UNREACHABLE, unreachable)):
        if not any(_covers(toleration, key) for toleration in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
    pod["spec"]["tolerations"] = tolerations


def _covers(toleration: Obj, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


def mirror_pod(pod: Obj) -> None:
    """A mirror pod shows what a kubelet runs from a file; what it may not have, the file may not name."""
    if pod["spec"].get("serviceAccountName"):
        why = "a mirror pod may not reference service accounts"
        raise errors.forbidden("", "pods", pod["metadata"].get("name", ""), why)


def account_name(pod: Obj) -> str:
    spec = pod["spec"]
    return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT)


def use_account(pod: Obj, name: str, account: Obj) -> None:
    spec = pod["spec"]
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
