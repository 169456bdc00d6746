"""What a client is told when the store refuses: whether it helps to try again, and whether anything may have been written."""

from __future__ import annotations

from apiserver import errors
from apiserver.errors import StatusError
from apiserver.store import StoreAway, StoreFailed, StoreFull, StoreLost, StoreUnsure, TooLarge


def refused(error: StoreFailed | StoreLost) -> StatusError:
    """503 with Retry-After for what passes, 413 and 507 for what does not fit, 500 for the rest, upstream's codes but for the
    full disk (there a 500). A write that may have happened is never one that clients repeat by themselves."""
    match error:
        case TooLarge():
            return StatusError(413, "RequestEntityTooLarge", f"the object is too large for the store: {error}")
        case StoreFull():
            return StatusError(507, "InternalError", f"the store has no space left, nothing was written: {error}")
        case StoreUnsure():
            return errors.internal(f"the write may or may not have happened, read before you repeat it: {error}")
        case StoreAway():
            return StatusError(
                503,
                "ServiceUnavailable",
                f"the store does not answer, nothing was written: {error}",
                {"retryAfterSeconds": 1},
            )
        case StoreLost():
            return StatusError(
                503,
                "ServiceUnavailable",
                f"the server starts again, as its store did ({error}); the write may or may not have happened",
            )
        case _:
            return errors.internal(f"the store refused: {error}")
