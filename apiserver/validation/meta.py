"""Metadata of every object: names, labels, annotations, owners, finalizers; label selectors.

After k8s.io/apimachinery/pkg/api/validation/objectmeta.go and .../apis/meta/v1/validation.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from apiserver.errors import DUPLICATE, FORBIDDEN, INVALID, Cause, cause, required, too_long
from apiserver.validation import names

Json = dict[str, Any]

ANNOTATIONS_LIMIT: Final = 256 * 1024
_STANDARD_FINALIZERS: Final = frozenset({"kubernetes", "orphan", "foregroundDeletion"})


def object_meta(metadata: Json, namespaced: bool, rule: names.Rule, path: str = "metadata") -> Iterator[Cause]:
    generate = metadata.get("generateName", "")
    if generate:
        for text in rule(generate.rstrip("-") or "a"):
            yield cause(f"{path}.generateName", INVALID, generate, text)
    name = metadata.get("name", "")
    if not name:
        yield required(f"{path}.name", "name or generateName is required")
    else:
        for text in rule(name):
            yield cause(f"{path}.name", INVALID, name, text)
    namespace = metadata.get("namespace", "")
    if namespaced and not namespace:
        yield required(f"{path}.namespace")
    elif namespaced:
        for text in names.dns_label(namespace):
            yield cause(f"{path}.namespace", INVALID, namespace, text)
    elif namespace:
        yield cause(f"{path}.namespace", FORBIDDEN, detail="not allowed on this type")
    yield from labels_and_annotations(metadata, path)
    yield from _owners(metadata.get("ownerReferences", ()), f"{path}.ownerReferences")
    yield from _finalizers(metadata.get("finalizers", ()), f"{path}.finalizers")


def labels_and_annotations(metadata: Json, path: str) -> Iterator[Cause]:
    yield from labels(metadata.get("labels", {}), f"{path}.labels")
    yield from annotations(metadata.get("annotations", {}), f"{path}.annotations")


def labels(pairs: Mapping[str, str], path: str) -> Iterator[Cause]:
    for key, value in pairs.items():
        for text in names.qualified_name(key):
            yield cause(path, INVALID, key, text)
        for text in names.label_value(value):
            yield cause(path, INVALID, value, text)


def annotations(pairs: Mapping[str, str], path: str) -> Iterator[Cause]:
    size = 0
    for key, value in pairs.items():
        size += len(key.encode()) + len(value.encode())
        for text in names.qualified_name(key.lower()):
            yield cause(path, INVALID, key, text)
    if size > ANNOTATIONS_LIMIT:
        yield too_long(path, ANNOTATIONS_LIMIT)


def _owners(owners: Any, path: str) -> Iterator[Cause]:
    controllers: list[str] = []
    for index, owner in enumerate(owners):
        here = f"{path}[{index}]"
        if not owner.get("apiVersion", "").rpartition("/")[2]:
            yield cause(f"{here}.apiVersion", INVALID, owner.get("apiVersion", ""), "version must not be empty")
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                yield required(f"{here}.{field}", "must not be empty")
        if owner.get("controller"):
            controllers.append(owner.get("name", ""))
    if len(controllers) > 1:
        detail = (
            'Only one reference can have Controller set to true. Found "true" in references for '
            f"{controllers[0]} and {controllers[1]}"
        )
        yield cause(path, INVALID, owners, detail)


def _finalizers(finalizers: Any, path: str) -> Iterator[Cause]:
    for index, name in enumerate(finalizers):
        for text in names.qualified_name(name):
            yield cause(path, INVALID, name, text)
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            yield cause(f"{path}[{index}]", INVALID, name, detail)


def object_meta_update(new: Json, old: Json, path: str = "metadata") -> Iterator[Cause]:
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        before, after = old.get(field), new.get(field)
        if before != after:
            yield cause(f"{path}.{field}", INVALID, after or "", names.IMMUTABLE)
    if old.get("deletionTimestamp"):
        added = [one for one in new.get("finalizers", ()) if one not in old.get("finalizers", ())]
        if added:
            listed = ", ".join(f'"{one}"' for one in added)
            detail = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            yield cause(f"{path}.finalizers", FORBIDDEN, detail=detail)


def label_selector(selector: Json, path: str) -> Iterator[Cause]:
    yield from labels(selector.get("matchLabels", {}), f"{path}.matchLabels")
    for index, one in enumerate(selector.get("matchExpressions", ())):
        here = f"{path}.matchExpressions[{index}]"
        values = one.get("values", [])
        match one.get("operator", ""):
            case "In" | "NotIn":
                if not values:
                    yield required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist":
                if values:
                    detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    yield cause(f"{here}.values", FORBIDDEN, detail=detail)
            case other:
                yield cause(f"{here}.operator", INVALID, other, "not a valid selector operator")
        for text in names.qualified_name(one.get("key", "")):
            yield cause(f"{here}.key", INVALID, one.get("key", ""), text)
        for at, value in enumerate(values):
            for text in names.label_value(value):
                yield cause(f"{here}.values[{at}]", INVALID, value, text)


def unique(values: Any, path: str, field: str) -> Iterator[Cause]:
    """Each element's `field` occurs once; absent ones do not count."""
    seen: set[Any] = set()
    for index, one in enumerate(values):
        value = one.get(field)
        if value and value in seen:
            yield cause(f"{path}[{index}].{field}", DUPLICATE, value)
        seen.add(value)
