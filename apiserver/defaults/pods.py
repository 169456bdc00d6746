"""Defaults of pods and pod templates.

After k8s.io/kubernetes/pkg/apis/core/v1/defaults.go. What only a Pod gets and a template does not: requests from limits,
service links, host ports. The quality-of-service class is part of a new pod's status, and never changes.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import ceil
from typing import Any, Final

from kube import quantity

Json = dict[str, Any]

_VOLUME_MODES: Final = ("secret", "configMap", "downwardAPI", "projected")
_HANDLERS: Final = ("postStart", "preStop")
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")


def pod(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for container in containers(spec):
        resources = container["resources"]
        limits = resources.get("limits")
        if limits:
            resources["requests"] = limits | resources.get("requests", {})
        if spec.get("hostNetwork"):
            for port in container.get("ports", ()):
                port.setdefault("hostPort", port.get("containerPort", 0))


def pod_spec(spec: Json) -> None:
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    mirror_service_account(spec)
    for one in spec.get("volumes", ()):
        volume(one)
    for one in containers(spec):
        container(one)
    for one in spec.get("ephemeralContainers", ()):
        container(one)


def mirror_service_account(spec: Json) -> None:
    """`serviceAccount` is the old name of `serviceAccountName`; both are served, the new one wins."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name


def containers(spec: Json) -> Iterator[Json]:
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


def container(obj: Json) -> None:
    if "imagePullPolicy" not in obj:
        obj["imagePullPolicy"] = "Always" if floating(obj.get("image", "")) else "IfNotPresent"
    obj.setdefault("terminationMessagePath", "/dev/termination-log")
    obj.setdefault("terminationMessagePolicy", "File")
    obj.setdefault("resources", {})
    for port in obj.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for variable in obj.get("env", ()):
        _field_reference(variable.get("valueFrom", {}))
    for name in _PROBES:
        if name in obj:
            _probe(obj[name])
    for name in _HANDLERS:
        if name in obj.get("lifecycle", {}):
            _handler(obj["lifecycle"][name])


def floating(image: str) -> bool:
    """True when the image's tag is `latest`, by name or for want of any: it may have changed since the last pull."""
    name, _, digest = image.partition("@")
    tag = name.rsplit("/", 1)[-1].partition(":")[2]
    return tag == "latest" or (not tag and not digest)


def _field_reference(source: Json) -> None:
    if "fieldRef" in source:
        source["fieldRef"].setdefault("apiVersion", "v1")


def _probe(probe: Json) -> None:
    _handler(probe)
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(name, value)


def _handler(handler: Json) -> None:
    if "httpGet" in handler:
        handler["httpGet"].setdefault("path", "/")
        handler["httpGet"].setdefault("scheme", "HTTP")
    if "grpc" in handler:
        handler["grpc"].setdefault("service", "")


def volume(obj: Json) -> None:
    if obj.keys() <= {"name"}:
        obj["emptyDir"] = {}
    for name in _VOLUME_MODES:
        if name in obj:
            obj[name].setdefault("defaultMode", 0o644)
    if "hostPath" in obj:
        obj["hostPath"].setdefault("type", "")
    for item in obj.get("downwardAPI", {}).get("items", ()):
        _field_reference(item)
    for source in obj.get("projected", {}).get("sources", ()):
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
        for item in source.get("downwardAPI", {}).get("items", ()):
            _field_reference(item)
    if "iscsi" in obj:
        obj["iscsi"].setdefault("iscsiInterface", "default")
    if "rbd" in obj:
        for name, value in (("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")):
            obj["rbd"].setdefault(name, value)
    claim = obj.get("ephemeral", {}).get("volumeClaimTemplate", {}).get("spec")
    if claim is not None:
        claim.setdefault("volumeMode", "Filesystem")


def quality_of_service(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory (pkg/apis/core/helper/qos)."""
    whole = spec.get("resources")
    holders = [whole] if whole else [one.get("resources", {}) for one in containers(spec)]
    requests = _positive(one.get("requests", {}) for one in holders)
    limits = _positive(one.get("limits", {}) for one in holders)
    if not requests and not limits:
        return "BestEffort"
    every_limit = all(len(_positive([one.get("limits", {})])) == 2 for one in holders)
    return "Guaranteed" if every_limit and requests == limits else "Burstable"


def _positive(maps: Iterable[Json]) -> dict[str, int]:
    """Sums of cpu and memory over the maps in billionths, upstream's finest grain, without zeros."""
    total: dict[str, int] = {}
    for amounts in maps:
        for name in ("cpu", "memory"):
            if name in amounts and (value := _billionths(str(amounts[name]))) > 0:
                total[name] = total.get(name, 0) + value
    return total


@lru_cache(maxsize=1024)
def _billionths(text: str) -> int:
    return ceil(quantity.parse(text) * 10**9)
