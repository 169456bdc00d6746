"""A cluster on paper: objects as plain JSON, the plans' actions carried out on them, and a kubelet that says "ready".

It knows as much of an API server as plans count on: versions and uids are checked, a spec's change raises the generation,
merge patches merge, condition lists merge by type, and what is deleted is gone (pods at once).
"""

import copy
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from controllers.model import Action, Amend, Create, Delete, Tell
from controllers.plan import deployments, replicasets
from controllers.plan.pods import is_active
from kube.apps import Deployment, ReplicaSet
from kube.pods import Pod

START = datetime(2026, 1, 1, tzinfo=UTC)


class Stale(Exception):
    """409."""


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, with strategic merging for lists of conditions."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Paper:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[str] = []
        self.log: list[str] = []
        self.now = START
        self._count = 0

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        obj = merged({}, body)
        meta = obj["metadata"]
        if "generateName" in meta:
            meta["name"] = f"{meta['generateName']}{self._count}"
        if (kind, meta["name"]) in self.objects:
            raise Stale(f"{kind} {meta['name']} exists")
        stamp = {"uid": f"uid-{self._count}", "namespace": "default", "generation": 1}
        meta |= {**stamp, "resourceVersion": str(self._count), "creationTimestamp": self.now.isoformat()}
        self.objects[kind, meta["name"]] = obj
        return obj

    def amend(self, kind: str, name: str, body: dict[str, Any]) -> None:
        obj = self.objects.get((kind, name))
        if obj is None:
            return
        meta, asked = obj["metadata"], body.get("metadata", {})
        for key in ("uid", "resourceVersion"):
            if key in asked and asked[key] != meta[key]:
                raise Stale(f"{kind} {name}: {key}")
        new = merged(obj, body)
        if new == obj:
            return
        self._count += 1
        new["metadata"]["resourceVersion"] = str(self._count)
        if new.get("spec") != obj.get("spec"):
            new["metadata"]["generation"] += 1
        self.objects[kind, name] = new

    def carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.carry(action)

    def carry(self, action: Action) -> None:
        match action:
            case Create(resource, _, body):
                made = self.create(resource.kind, dict(body))
                self.log.append(f"create {resource.kind} {made['metadata']['name']}{_size(body)}")
            case Amend():
                self.amend(action.resource.kind, action.name, dict(action.body))
                if line := _said(action):
                    self.log.append(line)
            case Delete():
                self.objects.pop((action.resource.kind, action.name), None)
                self.log.append(f"delete {action.resource.kind} {action.name}")
            case Tell():
                self.log.append(f"event {action.type} {action.reason}: {action.message}")

    def deployment(self, name: str = "web") -> Deployment:
        return decoded(self.objects["Deployment", name], Deployment)

    def sets(self) -> list[ReplicaSet]:
        return [decoded(o, ReplicaSet) for (kind, _), o in self.objects.items() if kind == "ReplicaSet"]

    def pods(self, owner: ReplicaSet | None = None) -> list[Pod]:
        found = [decoded(o, Pod) for (kind, _), o in self.objects.items() if kind == "Pod"]
        return [p for p in found if owner is None or p.metadata.owner_references[0].uid == owner.metadata.uid]

    def plan(self) -> deployments.Steps:
        deployment, sets = self.deployment(), self.sets()
        rollout = deployments.sort_out(deployment, sets)
        old_pods = any(self.pods(s) for s in rollout.old)
        return deployments.steps(deployments.sort_out(deployment, sets, old_pods=old_pods), self.now)

    def count(self, replica_set: ReplicaSet) -> None:
        """The ReplicaSet controller's pass over pods."""
        active = [p for p in self.pods(replica_set) if is_active(p)]
        missing = replicasets.missing(replica_set, len(active))
        for _ in range(max(0, missing)):
            self.create("Pod", dict(replicasets.new_pod(replica_set)))
        for pod in replicasets.victims(active, max(0, -missing), active, self.now):
            del self.objects["Pod", pod.metadata.name]

    def report(self, replica_set: ReplicaSet) -> None:
        """The ReplicaSet controller's pass over status."""
        status, _ = replicasets.status(replica_set, self.pods(replica_set), None, self.now)
        if patch := replicasets.status_patch(replica_set, status):
            self.amend("ReplicaSet", replica_set.metadata.name, dict(patch.body))

    def ready(self, pod: Pod, status: str = "True") -> None:
        condition = {"type": "Ready", "status": status, "lastTransitionTime": self.now.isoformat()}
        self.amend("Pod", pod.metadata.name, {"status": {"phase": "Running", "conditions": [condition]}})

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def available(self) -> int:
        return sum(any(c.type == "Ready" and c.status == "True" for c in p.status.conditions) for p in self.pods())


def decoded(obj: dict[str, Any], kind: type[Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(obj), type=kind)


def _size(body: Any) -> str:
    replicas = body.get("spec", {}).get("replicas")
    return "" if replicas is None else f" replicas={replicas}"


def _said(action: Amend) -> str:
    name = f"{action.resource.kind} {action.name}"
    body = action.body
    if action.subresource == "status":
        status = body["status"]
        counts = [
            f"{k}={status[k]}"
            for k in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            if k in status
        ]
        lines = [f"status {name}: {' '.join(counts)}"]
        lines += [f"  {c['type']}={c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions") or ()]
        return "\n".join(lines)
    parts = [f"{k.rpartition('/')[2]}={v}" for k, v in sorted(body["metadata"].get("annotations", {}).items())]
    parts += [f"{k}={v}" for k, v in sorted(body.get("spec", {}).items())]
    return f"amend {name}: {' '.join(parts)}"


def deployment(replicas: int = 3, image: str = "web:1", **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    defaults = {"progressDeadlineSeconds": 600, "revisionHistoryLimit": 10}
    return {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template,
            **defaults,
            **spec,
        },
    }
