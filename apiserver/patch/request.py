"""A PATCH request's body applied to the current object: which of the formats it is, and what can be wrong with it.

A body that is no patch is a 400, a patch that does not apply to this object is a 422, and so is one whose result is not an
object of this kind: the field in that case is `patch`, as upstream has it (endpoints/handlers/patch.go).
"""

from typing import Any, Final

import orjson

from apiserver import errors, schema
from apiserver.codec import json
from apiserver.codec.body import Decoded, FieldValidation, Strict, conforming, media_type
from apiserver.codec.conform import Mismatch
from apiserver.errors import StatusError
from apiserver.patch import json_patch, merge, strategic
from apiserver.schema import GVK

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
SUPPORTED: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY)
_REJECTED: Final = "the server rejected our request due to an error in our request"


def apply(content_type: str | None, body: bytes, current: dict[str, Any], gvk: tuple[str, str, str]) -> dict[str, Any]:
    """The patched object, unknown fields dropped; `current` is not changed."""
    return patched(content_type, body, orjson.loads(orjson.dumps(current)), gvk, "Ignore").obj


def patched(
    content_type: str | None,
    body: bytes,
    current: dict[str, Any],
    gvk: tuple[str, str, str],
    field_validation: FieldValidation = "Ignore",
) -> Decoded:
    """The patched object with its strict findings handled as the client asked; `current` is changed and must be the
    caller's own."""
    kind = media_type(content_type)
    if kind not in SUPPORTED or kind == APPLY:
        raise errors.unsupported_media_type(SUPPORTED)
    patch, twice = _parse(body, kind, field_validation)
    document = _apply(kind, patch, current, GVK(*gvk))
    if not isinstance(document, dict):
        raise errors.bad_request("the patched document is not an object")
    if twice and field_validation == "Strict":
        raise _unfit(body, str(Strict(twice)))
    try:
        decoded = conforming(document, gvk, field_validation)
    except (Mismatch, Strict) as wrong:
        raise _unfit(body, str(wrong)) from None
    return Decoded(decoded.obj, (*twice, *decoded.warnings) if field_validation == "Warn" else ())


def _parse(body: bytes, kind: str, field_validation: FieldValidation) -> tuple[Any, list[str]]:
    try:
        patch = json.loads(body)
    except ValueError as wrong:
        raise errors.bad_request(f"error decoding patch: {wrong}") from None
    if kind != JSON_PATCH and not isinstance(patch, dict):
        raise errors.bad_request("error decoding patch: json: cannot unmarshal the patch into a Go map")
    prefix = "json patch " if kind == JSON_PATCH else ""
    found = [] if field_validation == "Ignore" else json.duplicates(body, patch)
    return patch, [f'{prefix}duplicate field "{path}"' for path in found]


def _apply(kind: str, patch: Any, document: dict[str, Any], gvk: GVK) -> Any:
    try:
        if kind == MERGE_PATCH:
            return merge.apply(document, patch)
        if kind == STRATEGIC_MERGE_PATCH:
            return strategic.apply(document, patch, schema.type_name(gvk) or "")
        if isinstance(patch, list) and len(patch) > json_patch.LIMIT:
            text = f"The allowed maximum operations in a JSON patch is {json_patch.LIMIT}, got {len(patch)}"
            raise StatusError(413, "RequestEntityTooLarge", f"Request entity too large: {text}")
        return json_patch.apply(document, patch)
    except (strategic.Malformed, json_patch.Malformed) as wrong:
        raise errors.bad_request(str(wrong)) from None
    except json_patch.Refused as wrong:
        # upstream says only that it refuses; the cause tells which operation, and kubectl prints it
        raise StatusError(422, "Invalid", _REJECTED, {"causes": [{"message": str(wrong), "field": "patch"}]}) from None


def _unfit(body: bytes, why: str) -> StatusError:
    value = body.decode(errors="replace")
    return errors.invalid("", "", "", [errors.cause("patch", errors.INVALID, value, why)])
