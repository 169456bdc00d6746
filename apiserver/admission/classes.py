"""DefaultStorageClass and DefaultIngressClass: who names no class gets the default one; of several the newest, of those
the first by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from apiserver.admission.attributes import Attributes, Plugin, Rule
from apiserver.admission.sight import Sight

Obj = dict[str, Any]
_STORAGE: Final = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
_INGRESS: Final = ("ingressclass.kubernetes.io/is-default-class",)


def _default(sight: Sight, kind: str, marks: tuple[str, ...]) -> str | None:
    def marked(one: Obj) -> bool:
        annotations = one["metadata"].get("annotations") or {}
        return any(annotations.get(mark) == "true" for mark in marks)

    found = sorted((one["metadata"] for one in sight.all(kind) if marked(one)), key=lambda one: str(one["name"]))
    newest = max(found, key=lambda one: str(one["creationTimestamp"]), default=None)
    return str(newest["name"]) if newest else None


def _plugin(
    name: str, kind: str, unset: Callable[[Obj], bool], field: str, default: Callable[[], str | None]
) -> Plugin:
    def ask(attributes: Attributes) -> None:
        if "spec" in attributes.new and unset(attributes.new) and (chosen := default()):
            attributes.new["spec"][field] = chosen

    return Plugin(name, mutating=(Rule(ask, frozenset({kind})),))


def default_storage_class(sight: Sight) -> Plugin:
    def unset(claim: Obj) -> bool:
        annotations = claim["metadata"].get("annotations") or {}
        return (
            claim["spec"].get("storageClassName") is None
            and "volume.beta.kubernetes.io/storage-class" not in annotations
        )

    def default() -> str | None:
        return _default(sight, "storageclasses.storage.k8s.io", _STORAGE)

    return _plugin("DefaultStorageClass", "persistentvolumeclaims", unset, "storageClassName", default)


def default_ingress_class(sight: Sight) -> Plugin:
    def unset(ingress: Obj) -> bool:
        annotations = ingress["metadata"].get("annotations") or {}
        return ingress["spec"].get("ingressClassName") is None and "kubernetes.io/ingress.class" not in annotations

    def default() -> str | None:
        return _default(sight, "ingressclasses.networking.k8s.io", _INGRESS)

    return _plugin("DefaultIngressClass", "ingresses.networking.k8s.io", unset, "ingressClassName", default)
