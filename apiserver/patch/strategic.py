"""Strategic merge patch: a merge patch that knows which lists are sets with a key.

What plain merge patch cannot say, the schema and a few directives say:

    lists             merge by key where the schema has a patch merge key (containers by name, ports by number), as sets
                      where it has only the strategy (finalizers); all other lists are replaced
    null              deletes a field
    $patch            in an object: `delete` empties it, `replace` takes the patch as it is, `merge` is the default;
                      in a list element: `delete` removes the element with that key, `replace` discards the old list
    $retainKeys       fields of the object not named here are removed (changing one member of a union for another)
    $deleteFromPrimitiveList/F   values to take out of the set F
    $setElementOrder/F           the order the client wants: elements it knows keep that order, elements only the server
                      knows stay where they stood relative to them

The order of the result is observable ("patched (no change)"), so it follows k8s.io/apimachinery
pkg/util/strategicpatch/patch.go step by step, down to a new element going in front when no order is given.
"""

import copy
from collections.abc import Callable
from typing import Any, Final

from apiserver import schema
from apiserver.schema import Field, Shape

Lookup = Callable[[str], Field | None]

_DIRECTIVE: Final = "$patch"
_RETAIN: Final = "$retainKeys"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"
_ORDER: Final = "$setElementOrder/"


class Malformed(ValueError):
    """A directive used in a way the format does not allow."""


def apply(document: dict[str, Any], patch: dict[str, Any], type_name: str) -> dict[str, Any]:
    """The document after the patch; `document` is changed and must be the caller's own, `patch` is left alone."""
    return _merge_map(document, copy.deepcopy(patch), _of_type(type_name))


def _of_type(name: str) -> Lookup:
    return schema.named(name).fields.get if name in schema.load().types else _nothing


def _nothing(_: str) -> Field | None:
    return None


def _below(field: Field | None) -> Lookup:
    """The lookup for what a field holds: the members of its type, or for a map the values under any key."""
    if field is None:
        return _nothing
    if field.shape is Shape.MAP:
        value = Field(field.type)
        return lambda _: value
    return _of_type(field.type)


def _strategy(field: Field | None) -> str:
    """The field's merge strategy apart from retainKeys, which only says that the directive is to be expected."""
    return "" if field is None else next((one for one in sorted(field.strategies) if one != "retainKeys"), "")


def _merge_map(original: dict[str, Any], patch: dict[str, Any], lookup: Lookup) -> dict[str, Any]:
    match patch.pop(_DIRECTIVE, "merge"):
        case "replace":
            return patch
        case "delete":
            return {}
        case "merge":
            pass
        case other:
            raise Malformed(f"unknown patch directive: {other}")
    _retain_keys(original, patch)
    _merge_ordered_lists(original, patch, lookup)
    for key, value in patch.items():
        removing = key.startswith(_DELETE_PRIMITIVES)
        _merge_key(original, key.removeprefix(_DELETE_PRIMITIVES), value, lookup, removing)
    return original


def _merge_key(original: dict[str, Any], key: str, value: Any, lookup: Lookup, removing: bool) -> None:
    if value is None:
        original.pop(key, None)
        return
    before = original.get(key)
    match before, value:
        case dict(), dict():
            field = lookup(key)
            replaces = _strategy(field) == "replace"
            original[key] = _plain(value) if replaces else _merge_map(before, value, _below(field))
        case list(), list():
            original[key] = _merge_list(before, value, lookup(key), removing)
        case _:
            if not removing:
                original[key] = _plain(value)


def _retain_keys(original: dict[str, Any], patch: dict[str, Any]) -> None:
    keep = patch.pop(_RETAIN, None)
    if keep is None:
        return
    if not isinstance(keep, list) or not all(isinstance(key, str) for key in keep):
        raise Malformed("invalid patch format of retainKeys")
    stray = [key for key, value in patch.items() if value is not None and not key.startswith("$") and key not in keep]
    if stray:
        raise Malformed("invalid patch format of retainKeys")
    for key in [key for key in original if key not in keep]:
        del original[key]


def _merge_ordered_lists(original: dict[str, Any], patch: dict[str, Any], lookup: Lookup) -> None:
    """Lists that come with `$setElementOrder`: merged and put in that order, then taken out of the patch."""
    for directive in [key for key in patch if key.startswith(_ORDER)]:
        order = patch.pop(directive)
        key = directive.removeprefix(_ORDER)
        before, change = original.get(key), patch.get(key)
        if not isinstance(order, list) or not isinstance(change, (list, type(None))):
            raise Malformed("invalid patch format of setElementOrder list")
        field = lookup(key)
        merge_key = "" if field is None else field.merge_key
        _check_order(change or [], order, merge_key)
        if before is None and change is None:
            continue
        if change is None:
            merged = before
        elif before is None:
            merged = _plain(_without_deleted(change))
        else:
            merged = _merge_list(before, change, field, removing=False)
        if not isinstance(merged, list):
            raise Malformed("invalid patch format of setElementOrder list")
        original[key] = _ordered(merged, order, before or [], merge_key)
        patch.pop(key, None)


def _check_order(change: list[Any], order: list[Any], merge_key: str) -> None:
    """Every element the patch brings must be named in the order, in the same sequence."""
    kept = [_identity(one, merge_key) for one in _without_deleted(change)]
    named = iter([_identity(one, merge_key) for one in order])
    if not all(any(one == other for other in named) for one in kept):
        raise Malformed(f"The order in patch list:\n{change}\n doesn't match {_ORDER} list:\n{order}\n")


def _merge_list(before: list[Any], change: list[Any], field: Field | None, removing: bool) -> list[Any]:
    if _strategy(field) != "merge" or field is None:
        return list(_plain(_without_deleted(change)))
    if not before and not change:
        return before
    if not isinstance((before or change)[0], dict):
        if removing:
            return [one for one in before if one not in change]
        merged = list(before)
        merged.extend(one for one in change if one not in merged)
        return _ordered(merged, change, before, "")
    if not field.merge_key:
        raise Malformed("cannot merge lists without merge key")
    before, change, replaced = _special_elements(before, change, field.merge_key)
    if replaced:
        return list(_plain(change))
    merged = _merge_elements(before, change, field)
    return _ordered(merged, change, before, field.merge_key)


def _special_elements(before: list[Any], change: list[Any], key: str) -> tuple[list[Any], list[Any], bool]:
    """Elements that are directives: (what remains of the old list, the ordinary elements, whether the old list goes)."""
    ordinary: list[Any] = []
    replaced = False
    for element in change:
        if not isinstance(element, dict):
            raise Malformed(f"cannot merge a list of objects with {element!r}")
        match element.get(_DIRECTIVE):
            case None:
                ordinary.append(element)
            case "delete":
                if key not in element:
                    raise Malformed(f"map: {element} does not contain declared merge key: {key}")
                before = [one for one in before if one.get(key) != element[key]]
            case "replace":
                replaced = True
                rest = {name: value for name, value in element.items() if name != _DIRECTIVE}
                ordinary.extend([rest] if rest else [])
            case "merge":
                raise Malformed("merging lists cannot yet be specified in the patch")
            case other:
                raise Malformed(f"unknown patch directive: {other}")
    return before, ordinary, replaced


def _merge_elements(before: list[Any], change: list[Any], field: Field) -> list[Any]:
    key, lookup = field.merge_key, _of_type(field.type)
    merged = list(before)
    for element in change:
        if key not in element:
            raise Malformed(f"map: {element} does not contain declared merge key: {key}")
        at = next((i for i, one in enumerate(merged) if one.get(key) == element[key]), None)
        if at is None:
            merged.append(_plain(element))
        else:
            merged[at] = _merge_map(merged[at], element, lookup)
    return merged


def _identity(element: Any, merge_key: str) -> Any:
    if not merge_key or not isinstance(element, dict):
        return element
    if merge_key not in element:
        raise Malformed(f"map: {element} does not contain declared merge key: {merge_key}")
    return element[merge_key]


def _ordered(merged: list[Any], order: list[Any], server: list[Any], merge_key: str) -> list[Any]:
    """Known elements in the client's order; the server's own stay before those they stood before.

    A merge of two sorted lists: the next server-only element goes first when both it and the next known one stood in
    the server's list, in that order; otherwise the known one goes first.
    """
    wanted = [_identity(one, merge_key) for one in order]
    stood = [_identity(one, merge_key) for one in server]
    known = sorted(
        (one for one in merged if _identity(one, merge_key) in wanted),
        key=lambda one: wanted.index(_identity(one, merge_key)),
    )
    own = [one for one in merged if _identity(one, merge_key) not in wanted]
    own.sort(key=lambda one: stood.index(_identity(one, merge_key)))
    result: list[Any] = []
    while own and known:
        left, right = _identity(own[0], merge_key), _identity(known[0], merge_key)
        first = right in stood and stood.index(left) < stood.index(right)
        result.append((own if first else known).pop(0))
    return result + own + known


def _without_deleted(values: list[Any]) -> list[Any]:
    return [one for one in values if not (isinstance(one, dict) and one.get(_DIRECTIVE) == "delete")]


def _plain(value: Any) -> Any:
    """A patch value as it is stored where nothing was before: without directives, nulls and deletions."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items() if item is not None and not _is_directive(key)}
        case list():
            return [_plain(one) for one in _without_deleted(value)]
        case _:
            return value


def _is_directive(key: str) -> bool:
    return key in {_DIRECTIVE, _RETAIN} or key.startswith((_DELETE_PRIMITIVES, _ORDER))
