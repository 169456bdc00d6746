"""JSON that others wrote, read so that nothing in it can end the daemon.

msgspec names what is not JSON and what is of another type; where it is nested deeper than Python's stack there is a
RecursionError, which nobody who reads a node's annotation expects. Here that is one more way of not being readable. Pure.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")
_MOST = 400


def decoded(text: bytes | str, kind: type[T]) -> T:
    """Raises msgspec.DecodeError, and UnicodeError where the text is not UTF-8."""
    try:
        return msgspec.json.decode(text, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply to be read") from error


def shortened(words: str) -> str:
    """Words that quote what somebody wrote, which may be a quarter of a megabyte: their beginning and their end."""
    return words if len(words) <= _MOST else f"{words[: _MOST // 2]} ... {words[-_MOST // 2 :]}"
