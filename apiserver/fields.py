"""Field selectors: which fields of which kind may be selected on, and what an object's are.

The lists are those of each kind's strategy upstream (`SelectableFields`, `AddFieldLabelConversionFunc`); a value is always
text, and what is absent is the empty string, so `spec.nodeName=` finds pods without a node.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from apiserver import errors
from apiserver.errors import StatusError

Read = Callable[[dict[str, Any]], str]


def _at(path: str) -> Read:
    parts = path.split(".")

    def read(obj: dict[str, Any]) -> str:
        value: Any = obj
        for part in parts:
            value = value.get(part) if type(value) is dict else None
            if value is None:
                return ""
        if type(value) is bool:
            return "true" if value else "false"
        return str(value)

    return read


def _flag(path: str) -> Read:
    read = _at(path)
    return lambda obj: read(obj) or "false"


def _count(path: str) -> Read:
    read = _at(path)
    return lambda obj: read(obj) or "0"


def _first(*reads: Read) -> Read:
    return lambda obj: next((found for read in reads if (found := read(obj))), "")


def _same(*paths: str) -> dict[str, Read]:
    return {path: _at(path) for path in paths}


def _reference(label: str, field: str) -> dict[str, Read]:
    """`involvedObject.name` and its siblings; `field` is where this version of Event keeps the reference."""
    names = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    return {f"{label}.{name}": _at(f"{field}.{name}") for name in names}


_META: Final = _same("metadata.name", "metadata.namespace")
_SOURCE: Final = _first(_at("source.component"), _at("reportingComponent"))
_KINDS: Final[dict[tuple[str, str], dict[str, Read]]] = {
    ("", "Pod"): _same(
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase",
        "status.podIP", "status.nominatedNodeName",
    )
    | {"spec.hostNetwork": _flag("spec.hostNetwork"), "status.podIPs": _at("status.podIP")},
    ("", "Node"): {"spec.unschedulable": _flag("spec.unschedulable")},
    ("", "Namespace"): _same("status.phase"),
    ("", "Secret"): _same("type"),
    ("", "Service"): _same("spec.clusterIP", "spec.type"),
    ("", "Event"): _same("reason", "reportingComponent", "type")
    | _reference("involvedObject", "involvedObject")
    | {"source": _SOURCE},
    ("", "ReplicationController"): {"status.replicas": _count("status.replicas")},
    ("batch", "Job"): {"status.successful": _count("status.succeeded")},
    ("certificates.k8s.io", "CertificateSigningRequest"): _same("spec.signerName"),
    ("resource.k8s.io", "ResourceSlice"): _same("spec.driver", "spec.nodeName"),
    ("events.k8s.io", "Event"): _same("reason", "type")
    | _reference("regarding", "regarding")
    | _same("reportingController"),
}  # fmt: skip


def labels(gvk: tuple[str, str, str]) -> frozenset[str]:
    """The fields that objects of this kind may be selected on."""
    return frozenset(_META | _KINDS.get((gvk[0], gvk[2]), {}))


def selectable(gvk: tuple[str, str, str], obj: dict[str, Any]) -> dict[str, str]:
    """Every selectable field of the object with its value as text."""
    return {label: read(obj) for label, read in _reads(gvk[0], gvk[2])}


@cache
def _reads(group: str, kind: str) -> tuple[tuple[str, Read], ...]:
    return tuple((_META | _KINDS.get((group, kind), {})).items())


def unknown(gvk: tuple[str, str, str], label: str) -> StatusError:
    """The refusal of a selector on another field, in the words of the kind's own conversion function."""
    if (gvk[0], gvk[2]) in _KINDS:
        return errors.bad_request(f"field label not supported: {label}")
    return errors.bad_request(f'"{label}" is not a known field selector: only "metadata.name", "metadata.namespace"')
