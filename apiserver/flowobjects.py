"""The flow schemas and priority levels that every cluster has: the two mandatory ones and the suggested ones.

They are objects that people and tools find where upstream has them; how requests take turns here is in `flow`. Facts of
k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

Obj = dict[str, Any]
API: Final = "flowcontrol.apiserver.k8s.io/v1"
_AUTO: Final = {"apf.kubernetes.io/autoupdate-spec": "true"}
_EVERYBODY: Final = ("system:authenticated", "system:unauthenticated")
_ALL: Final = "*"

# name, shares, lendable percent, queues, hand size, queue length limit
_LIMITED: Final = (
    ("global-default", 20, 50, 128, 6, 50),
    ("leader-election", 10, 0, 16, 4, 50),
    ("node-high", 40, 25, 64, 6, 50),
    ("system", 30, 33, 64, 6, 50),
    ("workload-high", 40, 50, 128, 6, 50),
    ("workload-low", 100, 90, 128, 6, 50),
)


def levels() -> Iterator[Obj]:
    exempt = {"nominalConcurrencyShares": 0, "lendablePercent": 0}
    yield _object("PriorityLevelConfiguration", "exempt", {"type": "Exempt", "exempt": exempt})
    rejecting = {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}
    yield _object("PriorityLevelConfiguration", "catch-all", {"type": "Limited", "limited": rejecting})
    for name, shares, lendable, queues, hand, length in _LIMITED:
        queuing = {"queues": queues, "handSize": hand, "queueLengthLimit": length}
        limited = {
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        }
        yield _object("PriorityLevelConfiguration", name, {"type": "Limited", "limited": limited})


def schemas() -> Iterator[Obj]:
    everything = (_resources(), _paths())
    masters, everybody, nodes = _groups("system:masters"), _groups(*_EVERYBODY), _groups("system:nodes")
    leases = _resources(("get", "create", "update"), ("coordination.k8s.io",), ("leases",))
    manager, scheduler = _user("system:kube-controller-manager"), _user("system:kube-scheduler")
    yield _schema("exempt", 1, "exempt", "", masters, *everything)
    yield _schema("probes", 2, "exempt", "", everybody, _paths(("get",), ("/healthz", "/readyz", "/livez")))
    elected = (manager, scheduler, _account(_ALL))
    yield _schema("system-leader-election", 100, "leader-election", "ByUser", elected[:2], leases)
    endpoints = _resources(("get", "create", "update"), ("",), ("endpoints",))
    yield _schema("endpoint-controller", 150, "workload-high", "ByUser", (manager,), endpoints)
    yield _schema("workload-leader-election", 200, "leader-election", "ByUser", elected[2:], leases)
    status = _resources((_ALL,), ("",), ("nodes", "nodes/status"), cluster=True)
    heartbeats = _resources((_ALL,), ("coordination.k8s.io",), ("leases",))
    yield _schema("system-node-high", 400, "node-high", "ByUser", nodes, status, heartbeats)
    yield _schema("system-nodes", 500, "system", "ByUser", nodes, *everything)
    yield _schema("kube-controller-manager", 800, "workload-high", "ByNamespace", (manager,), *everything)
    yield _schema("kube-scheduler", 800, "workload-high", "ByNamespace", (scheduler,), *everything)
    inside = (_account(_ALL),)
    yield _schema("kube-system-service-accounts", 900, "workload-high", "ByNamespace", inside, *everything)
    accounts = _groups("system:serviceaccounts")
    yield _schema("service-accounts", 9000, "workload-low", "ByUser", accounts, *everything)
    yield _schema("global-default", 9900, "global-default", "ByUser", everybody, *everything)
    yield _schema("catch-all", 10000, "catch-all", "ByUser", everybody, *everything)


def _object(kind: str, name: str, spec: Obj) -> Obj:
    return {"kind": kind, "apiVersion": API, "metadata": {"name": name, "annotations": dict(_AUTO)}, "spec": spec}


def _schema(name: str, precedence: int, level: str, by: str, subjects: Sequence[Obj], *rules: Obj) -> Obj:
    found: Obj = {"subjects": list(subjects)}
    for rule in rules:
        for key, value in rule.items():
            found.setdefault(key, []).extend(value)
    spec: Obj = {
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [found],
    }
    return _object("FlowSchema", name, spec | ({"distinguisherMethod": {"type": by}} if by else {}))


def _groups(*names: str) -> tuple[Obj, ...]:
    return tuple({"kind": "Group", "group": {"name": name}} for name in names)


def _user(name: str) -> Obj:
    return {"kind": "User", "user": {"name": name}}


def _account(name: str) -> Obj:
    return {"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}}


def _resources(
    verbs: Sequence[str] = (_ALL,),
    groups: Sequence[str] = (_ALL,),
    resources: Sequence[str] = (_ALL,),
    *,
    cluster: bool = False,
) -> Obj:
    rule: Obj = {"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)}
    if cluster or _ALL in resources:
        rule["clusterScope"] = True
    if not cluster:
        rule["namespaces"] = [_ALL]
    return {"resourceRules": [rule]}


def _paths(verbs: Sequence[str] = (_ALL,), paths: Sequence[str] = (_ALL,)) -> Obj:
    return {"nonResourceRules": [{"verbs": list(verbs), "nonResourceURLs": list(paths)}]}
