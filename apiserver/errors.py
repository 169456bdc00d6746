"""Failures as the API speaks them: a `metav1.Status` with a code, a reason and a sentence.

Clients match on `reason` and `code`, people read `message`, and a surprising number of tools match on the exact words;
the texts here are those of k8s.io/apimachinery/pkg/api/errors and .../util/validation/field. A validation produces
`Cause` values (where, what kind, which value, why); `invalid` folds them into one 422.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

REQUIRED: Final = "FieldValueRequired"
INVALID: Final = "FieldValueInvalid"
TYPE_INVALID: Final = "FieldValueTypeInvalid"
NOT_SUPPORTED: Final = "FieldValueNotSupported"
DUPLICATE: Final = "FieldValueDuplicate"
FORBIDDEN: Final = "FieldValueForbidden"
TOO_LONG: Final = "FieldValueTooLong"
TOO_MANY: Final = "FieldValueTooMany"
NOT_FOUND: Final = "FieldValueNotFound"

_TITLES: Final = {
    REQUIRED: "Required value",
    INVALID: "Invalid value",
    TYPE_INVALID: "Invalid value",
    NOT_SUPPORTED: "Unsupported value",
    DUPLICATE: "Duplicate value",
    FORBIDDEN: "Forbidden",
    TOO_LONG: "Too long",
    TOO_MANY: "Too many",
    NOT_FOUND: "Not found",
}
_WITHOUT_VALUE: Final = frozenset({REQUIRED, FORBIDDEN, TOO_LONG})


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with one field: `message` is complete ("Invalid value: ..."), `field` is a path ("spec.a[0]")."""

    field: str
    reason: str
    message: str

    def to_dict(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "field": self.field}


def cause(field: str, reason: str, value: object = None, detail: str = "") -> Cause:
    """A cause in upstream's words: title, the value where the kind of error shows one, and the detail."""
    text = _TITLES[reason]
    if reason not in _WITHOUT_VALUE:
        text = f"{text}: {_shown(value)}"
    return Cause(field, reason, f"{text}: {detail}" if detail else text)


def required(field: str, detail: str = "") -> Cause:
    return cause(field, REQUIRED, detail=detail)


def not_supported(field: str, value: object, supported: Iterable[str]) -> Cause:
    return cause(field, NOT_SUPPORTED, value, "supported values: " + ", ".join(f'"{one}"' for one in sorted(supported)))


def too_long(field: str, limit: int) -> Cause:
    return cause(field, TOO_LONG, detail=f"may not be more than {limit} bytes")


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class StatusError(Exception):
    """A request refused; `to_dict()` is the body, `code` the HTTP status, `headers` what must go with it."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def headers(self) -> dict[str, str]:
        seconds = (self.details or {}).get("retryAfterSeconds")
        return {"Retry-After": str(seconds)} if seconds else {}

    def to_dict(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status


def qualified(group: str, noun: str) -> str:
    """`pods`, `deployments.apps`: how the API names a resource or kind in a sentence."""
    return f"{noun}.{group}" if group else noun


def _details(group: str, kind: str, name: str = "", **more: Any) -> dict[str, Any]:
    named = {"name": name, "group": group, "kind": kind}
    return {key: value for key, value in (named | more).items() if value not in ("", None)}


def not_found(group: str, plural: str, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{qualified(group, plural)} "{name}" not found', _details(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> StatusError:
    message = f'{qualified(group, plural)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(group, plural, name))


def generate_name_conflict(group: str, plural: str, name: str, retry_after: int = 1) -> StatusError:
    message = (
        f'{qualified(group, plural)} "{name}" already exists, '
        "the server was not able to generate a unique name for the object"
    )
    return StatusError(409, "AlreadyExists", message, _details(group, plural, name, retryAfterSeconds=retry_after))


OPTIMISTIC_LOCK: Final = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(group: str, plural: str, name: str, why: str = OPTIMISTIC_LOCK) -> StatusError:
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(group, plural, name))


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """422: `Deployment.apps "x" is invalid: spec.y: Invalid value: ...`, several causes in brackets, each text once."""
    texts = list(dict.fromkeys(f"{one.field}: {one.message}" for one in causes))
    what = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    message = f'{qualified(group, kind)} "{name}" is invalid' + (f": {what}" if texts else "")
    details = _details(group, kind, name, causes=[one.to_dict() for one in causes])
    return StatusError(422, "Invalid", message, details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized(message: str = "Unauthorized") -> StatusError:
    return StatusError(401, "Unauthorized", message)


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[dict[str, str]] = ()) -> StatusError:
    noun = qualified(group, plural)
    if not noun:
        message = f"forbidden: {why}"
    elif name:
        message = f'{noun} "{name}" is forbidden: {why}'
    else:
        message = f"{noun} is forbidden: {why}"
    return StatusError(403, "Forbidden", message, _details(group, plural, name, causes=list(causes) or None))


def unsupported_media_type(supported: Sequence[str]) -> StatusError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(supported)}"
    return StatusError(415, "UnsupportedMediaType", message)


def not_acceptable(supported: Sequence[str]) -> StatusError:
    return StatusError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(supported)}")


def method_not_allowed(group: str, plural: str, action: str) -> StatusError:
    message = f'{action} is not supported on resources of kind "{qualified(group, plural)}"'
    return StatusError(405, "MethodNotAllowed", message, _details(group, plural))


def unknown_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def expired(message: str) -> StatusError:
    """410 for a resource version or continue token that compaction has passed: list again."""
    return StatusError(410, "Expired", message)


def too_old_resource_version(asked: int, oldest: int) -> StatusError:
    return expired(f"too old resource version: {asked} ({oldest})")


def gone(message: str) -> StatusError:
    return StatusError(410, "Gone", message)


def timeout(message: str, retry_after: int = 0) -> StatusError:
    return StatusError(504, "Timeout", f"Timeout: {message}", {"retryAfterSeconds": retry_after} if retry_after else {})


def too_large_resource_version(asked: int, current: int, retry_after: int = 1) -> StatusError:
    """The cache has not seen this version (yet): client-go recognises the cause and asks again without one."""
    error = timeout(f"Too large resource version: {asked}, current: {current}", retry_after)
    error.details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": retry_after,
    }
    return error


def too_many_requests(message: str, retry_after: int = 1, causes: Sequence[dict[str, str]] = ()) -> StatusError:
    details: dict[str, Any] = {"retryAfterSeconds": retry_after}
    if causes:
        details["causes"] = list(causes)
    return StatusError(429, "TooManyRequests", message, details)


def request_entity_too_large(limit: int) -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def service_unavailable(message: str) -> StatusError:
    return StatusError(503, "ServiceUnavailable", message)


def internal(message: str) -> StatusError:
    return StatusError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})
