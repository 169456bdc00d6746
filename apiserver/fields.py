"""Field selectors: which fields of which kind may be selected on, and what an object's are.

The lists are those of each kind's strategy upstream (`SelectableFields`, `AddFieldLabelConversionFunc`); a value is always
text, and what is absent is the empty string, so `spec.nodeName=` finds pods without a node.

Every object in the cache carries its fields, so they are small: the labels are shared by a kind, values that repeat over
thousands of objects are one string.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from sys import intern
from typing import Any, Final

from apiserver import errors
from apiserver.errors import StatusError

Obj = dict[str, Any]
_PARTS: Final = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_META: Final = ("metadata.name", "metadata.namespace")
_KINDS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("", "Pod"): (
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
    ),
    ("", "Node"): ("spec.unschedulable",),
    ("", "Namespace"): ("status.phase",),
    ("", "Secret"): ("type",),
    ("", "Service"): ("spec.clusterIP", "spec.type"),
    ("", "ReplicationController"): ("status.replicas",),
    ("", "Event"): ("reason", "reportingComponent", "type", "source", *(f"involvedObject.{part}" for part in _PARTS)),
    ("events.k8s.io", "Event"): ("reason", "type", "reportingController", *(f"regarding.{part}" for part in _PARTS)),
    ("batch", "Job"): ("status.successful",),
    ("certificates.k8s.io", "CertificateSigningRequest"): ("spec.signerName",),
    ("resource.k8s.io", "ResourceSlice"): ("spec.driver", "spec.nodeName"),
}  # fmt: skip
_ELSEWHERE: Final = {"status.podIPs": "status.podIP", "status.successful": "status.succeeded"}
_FIRST_OF: Final = {"source": ("source.component", "reportingComponent")}
_ABSENT: Final = {
    "spec.hostNetwork": "false",
    "spec.unschedulable": "false",
    "status.replicas": "0",
    "status.successful": "0",
}
# Of these every object has another value, so there is nothing to share.
_OWN: Final = frozenset({"name", "uid", "resourceVersion", "podIP", "clusterIP"})


class Fields(Mapping[str, str]):
    """Label -> value. `index` is the kind's, and says where each label's value stands."""

    __slots__ = ("_index", "_values")

    def __init__(self, index: Mapping[str, int], values: tuple[str, ...]) -> None:
        self._index = index
        self._values = values

    def __getitem__(self, label: str) -> str:
        return self._values[self._index[label]]

    def get(self, label: str, default: Any = None) -> Any:
        position = self._index.get(label)
        return default if position is None else self._values[position]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return repr(dict(self))


@cache
def labels(gvk: tuple[str, str, str]) -> frozenset[str]:
    """The fields that objects of this kind may be selected on."""
    return frozenset(_META + _KINDS.get((gvk[0], gvk[2]), ()))


def selectable(gvk: tuple[str, str, str], obj: Obj) -> Fields:
    """Every selectable field of the object with its value as text."""
    return reader(gvk[0], gvk[2])(obj)


@cache
def reader(group: str, kind: str) -> Callable[[Obj], Fields]:
    """`selectable` of one kind."""
    return _reader(_META + _KINDS.get((group, kind), ()), _ELSEWHERE)


@cache
def stored_event() -> Callable[[Obj], Fields]:
    """The fields of an Event under the labels of both its groups, read from the core one that is stored."""
    core, other = _KINDS["", "Event"], _KINDS["events.k8s.io", "Event"]
    moved = {label: label.replace("regarding.", "involvedObject.") for label in other if label.startswith("regarding.")}
    both = tuple(dict.fromkeys((*_META, *core, *other)))
    return _reader(both, moved | {"reportingController": "reportingComponent"})


def _reader(labels: tuple[str, ...], elsewhere: Mapping[str, str]) -> Callable[[Obj], Fields]:
    """Each branch of the object is looked up once."""
    branches: dict[str, list[tuple[str, str, bool]]] = {}
    order: list[str] = []
    specials: list[str] = []
    for label in sorted(labels, key=lambda label: elsewhere.get(label, label).partition(".")[0]):
        branch, _, key = elsewhere.get(label, label).partition(".")
        if key:
            branches.setdefault(branch, []).append((key, _ABSENT.get(label, ""), key not in _OWN))
            order.append(label)
        else:
            specials.append(label)
    plan = tuple((branch, tuple(keys)) for branch, keys in branches.items())
    index = {label: position for position, label in enumerate(order + specials)}
    rest = tuple(_FIRST_OF.get(label, (elsewhere.get(label, label),)) for label in specials)

    def read(obj: Obj) -> Fields:
        values: list[str] = []
        for branch, keys in plan:
            inside = obj.get(branch) or _NOTHING
            for key, absent, shared in keys:
                value = inside.get(key)
                if type(value) is not str:
                    value = absent if value is None else _text(value)
                values.append(intern(value) if shared else value)
        if rest:
            values.extend([intern(next((found for path in paths if (found := _at(obj, path))), "")) for paths in rest])
        return Fields(index, tuple(values))

    return read


_NOTHING: Final[Obj] = {}


def _at(obj: Obj, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if type(value) is dict else None
    return "" if value is None else _text(value)


def _text(value: Any) -> str:
    return ("true" if value else "false") if type(value) is bool else str(value)


def unknown(gvk: tuple[str, str, str], label: str) -> StatusError:
    """The refusal of a selector on another field, in the words of the kind's own conversion function."""
    if (gvk[0], gvk[2]) in _KINDS:
        return errors.bad_request(f"field label not supported: {label}")
    return errors.bad_request(f'"{label}" is not a known field selector: only "metadata.name", "metadata.namespace"')
