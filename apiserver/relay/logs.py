"""What may be asked of a container's log (upstream: ValidatePodLogOptions), and what the kubelet is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from apiserver import errors
from apiserver.errors import Cause

_NUMBERS: Final = ("sinceSeconds", "tailLines", "limitBytes")
_FLAGS: Final = ("follow", "previous", "timestamps")
_ALL: Final = "All"
_STREAMS: Final = (_ALL, "Stderr", "Stdout")


def asked(query: Mapping[str, str], pod: str) -> dict[str, str]:
    """The options for the kubelet, as they were given. Raises 400 and 422."""
    found = {key: query[key] for key in (*_NUMBERS, *_FLAGS, "sinceTime", "stream") if query.get(key)}
    numbers: dict[str, int] = {}
    for key in _NUMBERS:
        if key in found:
            try:
                numbers[key] = int(found[key])
            except ValueError:
                raise errors.bad_request(f'strconv.ParseInt: parsing "{found[key]}": invalid syntax') from None
    if "sinceTime" in found:
        try:
            datetime.fromisoformat(found["sinceTime"])
        except ValueError:
            raise errors.bad_request(f'sinceTime: "{found["sinceTime"]}" is not an RFC 3339 time') from None
    if causes := _wrong(found, numbers):
        raise errors.invalid("", "PodLogOptions", pod, causes)
    return {key: found[key] for key in sorted(found) if (key, found[key]) != ("stream", _ALL)}


def _wrong(found: Mapping[str, str], numbers: Mapping[str, int]) -> list[Cause]:
    causes: list[Cause] = []
    if (lines := numbers.get("tailLines", 0)) < 0:
        causes.append(errors.cause("tailLines", errors.INVALID, lines, "must be greater than or equal to 0"))
    causes += [
        errors.cause(key, errors.INVALID, numbers[key], "must be greater than 0")
        for key in ("limitBytes", "sinceSeconds")
        if numbers.get(key, 1) < 1
    ]
    if "sinceSeconds" in found and "sinceTime" in found:
        why = "at most one of `sinceTime` or `sinceSeconds` may be specified"
        causes.append(errors.cause("", errors.FORBIDDEN, None, why))
    if (stream := found.get("stream", _ALL)) not in _STREAMS:
        causes.append(errors.not_supported("stream", stream, _STREAMS))
    elif stream != _ALL and "tailLines" in found:
        why = "`tailLines` and specific `stream` are mutually exclusive for now"
        causes.append(errors.cause("", errors.FORBIDDEN, None, why))
    return causes
