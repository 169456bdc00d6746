"""Objects from a few words, decoded as the client decodes them."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from kube.core import Endpoints, Node, Service
from kube.discovery import EndpointSlice
from kube.pods import Pod
from tests.unit.controllers.paper import START

NOW = START + timedelta(hours=1)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def decode(kind: type[Any], body: dict[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(body), type=kind)


def node(name: str = "n1", ready: str | None = "True", taints: tuple[dict[str, str], ...] = (), **more: Any) -> Node:
    conditions = [{"type": kind, "status": status} for kind, status in more.pop("conditions", {}).items()]
    if ready is not None:
        conditions.append({"type": "Ready", "status": ready, "lastHeartbeatTime": ago(60)})
    meta = {"name": name, "uid": f"uid-{name}", "resourceVersion": "7", "creationTimestamp": ago(90)}
    return decode(
        Node,
        {
            "metadata": meta | more.pop("metadata", {}),
            "spec": {"taints": list(taints), **more},
            "status": {"conditions": conditions},
        },
    )


def pod(name: str = "p", ip: str = "10.0.0.1", ready: bool = True, node: str = "n1", **more: Any) -> Pod:
    meta = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "labels": {"app": "web"},
        "creationTimestamp": ago(600),
    }
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": ago(30)}
    container = {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}] if ip else [], "conditions": [condition]}
    return decode(
        Pod,
        {
            "metadata": meta | more.pop("metadata", {}),
            "spec": {"nodeName": node, "containers": [container], **more.pop("spec", {})},
            "status": status | more.pop("status", {}),
        },
    )


def service(name: str = "web", **spec: Any) -> Service:
    port = {"name": "web", "port": 80, "targetPort": "http"}
    meta = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "labels": {"own": "label"},
        "creationTimestamp": ago(99),
    }
    return decode(
        Service,
        {"metadata": meta, "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": [port], **spec}},
    )


class Written:
    """Objects of one kind, written by Create, Amend (merge) and Delete actions."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.bodies: dict[str, dict[str, Any]] = {}
        self._count = 0

    def carry_out(self, actions: Any) -> None:
        from controllers.model import Amend, Create, Delete
        from tests.unit.controllers.paper import merged

        for action in actions:
            self._count += 1
            match action:
                case Create(_, namespace, body):
                    name = body["metadata"]["name"]
                    assert name not in self.bodies, f"{name} exists"
                    self.bodies[name] = merged({}, dict(body))
                    self.bodies[name]["metadata"] |= {"namespace": namespace, "uid": f"uid-{self._count}"}
                case Amend():
                    asked = action.body["metadata"].get("resourceVersion")
                    assert asked in (None, self.bodies[action.name]["metadata"]["resourceVersion"])
                    name = action.name
                    self.bodies[name] = merged(self.bodies[name], dict(action.body))
                case Delete():
                    del self.bodies[action.name]
                    continue
            self.bodies[name]["metadata"]["resourceVersion"] = str(self._count)

    @property
    def objects(self) -> list[Any]:
        return [decode(self.kind, body) for body in self.bodies.values()]


def slices() -> Written:
    return Written(EndpointSlice)


def endpoints() -> Written:
    return Written(Endpoints)
