"""Metadata of every object: names, labels, annotations, owners, finalizers; label selectors.

After k8s.io/apimachinery/pkg/api/validation/objectmeta.go and .../apis/meta/v1/validation.
"""

from collections.abc import Mapping
from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, one_of, written

ANNOTATIONS_LIMIT: Final = 256 * 1024
_STANDARD_FINALIZERS: Final = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
_EVENT_OWNER: Final = "is disallowed from being an owner"


def object_meta(metadata: Json, namespaced: bool, rule: names.Rule, found: Found) -> None:
    path: Path = (TOP, "metadata")
    generate = metadata.get("generateName", "")
    if generate:
        for text in rule(generate[:-1] + "a" if len(generate) > 1 and generate.endswith("-") else generate):
            found.invalid((path, "generateName"), generate, text)
    name = metadata.get("name", "")
    if not name:
        found.required((path, "name"), "name or generateName is required")
    else:
        for text in rule(name):
            found.invalid((path, "name"), name, text)
    namespace = metadata.get("namespace", "")
    if namespaced and not namespace:
        found.required((path, "namespace"))
    elif namespaced:
        for text in names.dns_label(namespace):
            found.invalid((path, "namespace"), namespace, text)
    elif namespace:
        found.forbidden((path, "namespace"), "not allowed on this type")
    if metadata.get("generation", 0) < 0:
        found.invalid((path, "generation"), metadata["generation"], names.NEGATIVE)
    changeable(metadata, path, found)


def changeable(metadata: Json, path: Path, found: Found) -> None:
    """What an update may bring: labels, annotations, owners, finalizers."""
    labels_and_annotations(metadata, path, found)
    if owners := metadata.get("ownerReferences"):
        _owners(owners, (path, "ownerReferences"), found)
    if finalizers := metadata.get("finalizers"):
        _finalizers(finalizers, (path, "finalizers"), found)


def labels_and_annotations(metadata: Json, path: Path, found: Found) -> None:
    if pairs := metadata.get("labels"):
        labels(pairs, (path, "labels"), found)
    if pairs := metadata.get("annotations"):
        annotations(pairs, (path, "annotations"), found)


def labels(pairs: Mapping[str, str], path: Path, found: Found) -> None:
    for key, value in pairs.items():
        for text in names.qualified_name(key):
            found.invalid(path, key, text)
        for text in names.label_value(value):
            found.invalid(path, value, text)


def annotations(pairs: Mapping[str, str], path: Path, found: Found) -> None:
    size = 0
    for key, value in pairs.items():
        size += len(key.encode()) + len(value.encode())
        for text in names.qualified_name(key.lower()):
            found.invalid(path, key, text)
    if size > ANNOTATIONS_LIMIT:
        found.too_long(path, ANNOTATIONS_LIMIT)


def _owners(owners: Any, path: Path, found: Found) -> None:
    controllers: list[str] = []
    for index, owner in enumerate(owners):
        here = (path, index)
        version = owner.get("apiVersion", "")
        if not version.rpartition("/")[2]:
            found.invalid((here, "apiVersion"), version, "version must not be empty")
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                found.invalid((here, field), owner.get(field, ""), "must not be empty")
        if owner.get("kind") == "Event" and version in ("v1", "events.k8s.io/v1"):
            found.invalid(here, owner, f"{version}, Kind=Event {_EVENT_OWNER}")
        if owner.get("controller"):
            controllers.append(owner.get("name", ""))
    if len(controllers) > 1:
        detail = (
            'Only one reference can have Controller set to true. Found "true" in references for '
            f"{controllers[0]} and {controllers[1]}"
        )
        found.invalid(path, owners, detail)


def _finalizers(finalizers: Any, path: Path, found: Found) -> None:
    for index, name in enumerate(finalizers):
        for text in names.qualified_name(name):
            found.invalid(path, name, text)
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            found.invalid((path, index), name, detail)
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        found.invalid(path, finalizers, detail)


def object_meta_update(new: Json, old: Json, found: Found) -> None:
    path: Path = (TOP, "metadata")
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        before, after = old.get(field), new.get(field)
        if before != after:
            found.invalid((path, field), after or "", names.IMMUTABLE)
    if old.get("deletionTimestamp"):
        added = [one for one in new.get("finalizers", ()) if one not in old.get("finalizers", ())]
        if added:
            listed = ", ".join(f'"{one}"' for one in added)
            detail = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            found.forbidden((path, "finalizers"), detail)


def label_selector(selector: Json, path: Path, found: Found) -> None:
    if pairs := selector.get("matchLabels"):
        labels(pairs, (path, "matchLabels"), found)
    for index, one in enumerate(selector.get("matchExpressions", ())):
        here = ((path, "matchExpressions"), index)
        values = one.get("values", [])
        match one.get("operator", ""):
            case "In" | "NotIn":
                if not values:
                    found.required((here, "values"), "must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist":
                if values:
                    detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    found.forbidden((here, "values"), detail)
            case other:
                found.invalid((here, "operator"), other, "not a valid selector operator")
        for text in names.qualified_name(one.get("key", "")):
            found.invalid((here, "key"), one.get("key", ""), text)
        for at, value in enumerate(values):
            for text in names.label_value(value):
                found.invalid(((here, "values"), at), value, text)


RULES: Final[Rules] = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector": Rule(checks=(label_selector,), final=True),
    "io.k8s.apimachinery.pkg.apis.meta.v1.Condition": Rule(
        {"type": written(names.qualified_name), "status": one_of("False", "True", "Unknown")}
    ),
}
