"""Failures, by whose fault they are and what follows from them.

Three failures, three fates: `Retry` (the world refused: another pass, backed off), `Invalid` (the author of an object is
wrong: a condition or Event on that object, no retry), and everything else, which is a bug: the daemon crashes and its
supervisor starts it again. `UsageError` is `Invalid`'s sibling at the door: whoever started us is wrong; `kube.process`
prints it as one line and exits. `ApiError` is what the API server answered; `kube.reconcile` treats it as `Retry`.
"""

from collections.abc import Mapping
from typing import Any


class Retry(Exception):
    """The world refused for now. The message says what was attempted, on which object."""


class Invalid(Exception):
    """The object's author is wrong; trying again cannot help. The message names the field and the remedy."""


class UsageError(Exception):
    """Whoever started the daemon is wrong: a flag, a key, a file, a port in use. One line that names the remedy."""


class ApiUnreachable(Retry):
    """No answer from the API server: refused, reset, timed out or a TLS failure."""


class ApiError(Exception):
    """A metav1.Status of kind Failure.

    `status` is the HTTP code, `reason` the machine word (`NotFound`, `Conflict`, ...), `message` the server's own text,
    `details` the Status' details object, as sent.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{message} ({status} {reason})")
        self.status = status
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details if isinstance(details, Mapping) else {}

    @property
    def retry_after(self) -> float:
        """Seconds the server asks us to wait; 0 when it does not say."""
        asked = self.details.get("retryAfterSeconds")
        return float(asked) if isinstance(asked, int | float) else 0.0


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: the object has changed since it was read, or a precondition (uid, resourceVersion) failed."""


class AlreadyExists(ApiError):
    """409 on create."""


class Expired(ApiError):
    """410: the resourceVersion or continue token is older than the server's history. List again."""


class Unprocessable(ApiError):
    """422: the server's validation refused the object; `details["causes"]` names the fields."""


class Forbidden(ApiError):
    """403."""


class Unauthorized(ApiError):
    """401."""


class TooManyRequests(ApiError):
    """429: an eviction against a budget, or a busy server."""


class ServerTimeout(ApiError):
    """504."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    410: Expired,
    422: Unprocessable,
    429: TooManyRequests,
    504: ServerTimeout,
}


def api_error(status: int, body: Mapping[str, Any], retry_after: str = "") -> ApiError:
    """The exception for an HTTP status, the Status object that came with it, and the Retry-After header: an overloaded
    server says how long to wait only there."""
    reason = str(body.get("reason") or "")
    message = str(body.get("message") or f"the server answered {status}")
    details = body.get("details")
    details = details if isinstance(details, Mapping) else {}
    if retry_after.isascii() and retry_after.isdigit():
        details = {"retryAfterSeconds": int(retry_after), **details}
    if status == 409:
        kind: type[ApiError] = AlreadyExists if reason == "AlreadyExists" else Conflict
    else:
        kind = _BY_STATUS.get(status, ApiError)
    return kind(status, reason, message, details)
