"""Whatever JSON arrives, the pure half answers with an object or a refusal, never with a crash.

Good objects are broken at a random place with a random value, and taken down the whole path of a write.
"""

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver import codec, defaults, fields, patch, printers, validation
from apiserver.errors import StatusError
from apiserver.schema import GVK
from tests.unit.apiserver import test_printers

META = {"name": "x", "namespace": "default", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"}
CONTAINER = {
    "name": "c",
    "image": "i",
    "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "ports": [{"containerPort": 80, "name": "p"}],
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "readinessProbe": {"httpGet": {"port": "p"}},
    "resources": {"limits": {"cpu": "1"}},
}
SPEC = {
    "containers": [CONTAINER],
    "initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always"}],
    "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}],
    "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k"}]}},
}
STATUS = {
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [{"name": "c", "ready": True, "restartCount": 1, "state": {"running": {}}}],
    "podIPs": [{"ip": "10.0.0.1"}],
}
EXAMPLES: list[tuple[GVK, dict[str, Any]]] = [
    (GVK("", "v1", "Pod"), {"metadata": META, "spec": SPEC, "status": STATUS}),
    (
        GVK("apps", "v1", "Deployment"),
        {
            "metadata": META,
            "spec": {
                "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": SPEC},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "1%", "maxUnavailable": 1}},
            },
        },
    ),
    (
        GVK("", "v1", "Service"),
        {
            "metadata": META,
            "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30000}], "clusterIP": "10.0.0.1"},
        },
    ),
    (
        GVK("discovery.k8s.io", "v1", "EndpointSlice"),
        {"metadata": META, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 1}]},
    ),
    (
        GVK("", "v1", "Endpoints"),
        {"metadata": META, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]},
    ),
    (
        GVK("", "v1", "Node"),
        {
            "metadata": META,
            "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}], "podCIDRs": ["10.0.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "capacity": {"cpu": "1"}},
        },
    ),
    (GVK("", "v1", "Secret"), {"metadata": META, "data": {"a": "eA=="}, "stringData": {"b": "x"}, "type": "t"}),
    (GVK("", "v1", "ConfigMap"), {"metadata": META, "data": {"a": "b"}, "binaryData": {"c": "eA=="}}),
    (GVK("", "v1", "Namespace"), {"metadata": META, "spec": {"finalizers": ["kubernetes"]}}),
    (
        GVK("", "v1", "Event"),
        {"metadata": META, "involvedObject": {"kind": "Pod", "namespace": "default"}, "series": {"count": 1}},
    ),
    (
        GVK("coordination.k8s.io", "v1", "Lease"),
        {"metadata": META, "spec": {"leaseDurationSeconds": 1, "renewTime": "2026-01-01T00:00:00.000000Z"}},
    ),
]
_SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 70000, 2**31, 2**63, 1.5, -0.0])
    | st.sampled_from(["", "x", "-", "a/b/c", "/", "1Gi", "50%", "None", "10.0.0.1", "Exists", "../..", "é", "x" * 300])
)
_ANYTHING = (
    _SCALARS
    | st.lists(_SCALARS, max_size=2)
    | st.dictionaries(st.sampled_from(["name", "", "x"]), _SCALARS, max_size=2)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [place for key, one in value.items() for place in places(one, (*path, key))]
    if isinstance(value, list):
        return found + [place for index, one in enumerate(value) for place in places(one, (*path, index))]
    return found


@st.composite
def broken(draw: st.DrawFn) -> tuple[GVK, dict[str, Any], dict[str, Any]]:
    """A kind, a good object and the same with up to three places broken."""
    gvk, good = draw(st.sampled_from(EXAMPLES))
    bad = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(places(bad)))
        holder = bad
        for key in parents:
            holder = holder[key]
        match draw(st.sampled_from(["set", "delete", "duplicate"])):
            case "set":
                holder[last] = draw(_ANYTHING)
            case "delete":
                del holder[last]
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case _:
                holder["x"] = copy.deepcopy(holder[last])
        if not places(bad):
            break
    return gvk, good, bad


def stored(gvk: GVK, document: dict[str, Any]) -> dict[str, Any]:
    """Everything a create does to a body before it is committed, validation left to the caller."""
    obj = codec.decode_body(json.dumps(document).encode(), None, gvk, "Warn").obj
    return defaults.prepare_create(gvk, defaults.apply(obj, gvk))


@settings(max_examples=120, deadline=None)
@given(broken())
def test_a_broken_body_is_refused_or_stored_and_shown(case: tuple[GVK, dict[str, Any], dict[str, Any]]) -> None:
    gvk, good, bad = case
    old = stored(gvk, good)
    try:
        new = stored(gvk, bad)
    except StatusError:
        return
    validation.validate_create(gvk, copy.deepcopy(new))
    fields.selectable(gvk, new)
    printers.table(gvk, [new | {"status": good.get("status", {})}], test_printers.NOW)
    updated = defaults.prepare_update(gvk, copy.deepcopy(new), old)
    validation.validate_update(gvk, updated, old)


@settings(max_examples=80, deadline=None)
@given(broken(), st.sampled_from(patch.SUPPORTED))
def test_a_broken_object_as_a_patch(case: tuple[GVK, dict[str, Any], dict[str, Any]], kind: str) -> None:
    gvk, good, bad = case
    current = stored(gvk, good)
    body: Any = bad if kind != patch.JSON_PATCH else [{"op": "add", "path": "/spec", "value": bad.get("spec")}]
    try:
        new = patch.patched(kind, json.dumps(body).encode(), copy.deepcopy(current), gvk, "Warn").obj
    except StatusError:
        new = None
    if new is not None:
        new = defaults.prepare_update(gvk, defaults.apply(new, gvk), current)
        validation.validate_update(gvk, new, current)
        printers.table(gvk, [new], test_printers.NOW)
