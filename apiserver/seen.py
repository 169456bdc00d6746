"""Values that were looked at before and found in order, known again by their bytes.

Objects come in series that differ in their metadata only: the pods of one controller have one spec. What depends on nothing
but a value, and found nothing to say of it, need not be asked again; to write its bytes costs a twentieth of the walk.

A value that JSON cannot write (an integer beyond 64 bits, a key that is no text) is never known.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

MOST: Final = 256
LARGEST: Final = 16 << 10
_AS_THEY_ARE: Final = (
    orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
)


class Seen:
    """The last `MOST` such values, of 4 MB at most."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, None] = {}

    def look(self, value: Any) -> tuple[bytes, bool]:
        """The value's bytes, and whether it is known; no bytes for what is not remembered."""
        try:
            key = orjson.dumps(value, option=_AS_THEY_ARE)
        except TypeError:
            return b"", False
        return (key, key in self._known) if len(key) <= LARGEST else (b"", False)

    def keep(self, key: bytes) -> None:
        """`key` as `look` gave it."""
        if not key:
            return
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = None
