"""StorageObjectInUseProtection: volumes and claims that are in use outlive their deletion (the controllers take the
finalizers off). PersistentVolumeClaimResize: claims grow only where their class allows it.
"""

from __future__ import annotations

from typing import Any, Final

from apiserver.admission.attributes import Attributes, Operation, Plugin, Rule
from apiserver.admission.sight import Sight
from kube.quantity import parse

Obj = dict[str, Any]
CLAIMS: Final = frozenset({"persistentvolumeclaims"})
FINALIZERS: Final = {
    "persistentvolumes": "kubernetes.io/pv-protection",
    "persistentvolumeclaims": "kubernetes.io/pvc-protection",
}
_UPDATE: Final[frozenset[Operation]] = frozenset({"UPDATE"})


def in_use_protection() -> Plugin:
    def ask(attributes: Attributes) -> None:
        metadata, finalizer = attributes.new["metadata"], FINALIZERS[attributes.kind]
        present = metadata.get("finalizers") or []
        if finalizer not in present:
            metadata["finalizers"] = [*present, finalizer]

    return Plugin("StorageObjectInUseProtection", mutating=(Rule(ask, frozenset(FINALIZERS)),))


def claim_resize(sight: Sight) -> Plugin:
    def ask(attributes: Attributes) -> None:
        old = attributes.old or {}
        if _size(attributes.new) <= _size(old):
            return
        if (old.get("status") or {}).get("phase") != "Bound":
            raise attributes.refused("Only bound persistent volume claims can be expanded")
        name = attributes.new["spec"].get("storageClassName") or ""
        found = sight.get("storageclasses.storage.k8s.io", "", name)
        if not (found and found.get("allowVolumeExpansion")):
            raise attributes.refused(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc"
                " must support resize"
            )

    return Plugin("PersistentVolumeClaimResize", validating=(Rule(ask, CLAIMS, _UPDATE),))


def _size(claim: Obj) -> Any:
    resources = (claim.get("spec") or {}).get("resources") or {}
    return parse(str((resources.get("requests") or {}).get("storage", "0")))
