"""An object's bytes in pieces, so that what thousands of objects have alike is in memory once.

The owners of the pods of one controller are the same text, as long as the rest of the pod. `pieces` cuts the bytes around each
`fieldsV1` and keeps one copy of what it cut out; joined, the pieces are the bytes, whatever was cut. So a wrong cut costs
memory and nothing else, which is why the end is found by what follows and not by counting brackets.
"""

from __future__ import annotations

from typing import Final

Pieces = tuple[bytes, ...]

MOST: Final = 1024
SHORTEST: Final = 200  # bytes: what is shorter than the bookkeeping is left where it is
_FIELDS: Final = b'"fieldsV1":'
_AFTER: Final = (b"}]", b'},{"manager"', b',"subresource":')  # the list ends, another entry follows, the entry goes on


class Sharing:
    """The copies, by themselves; the ones seen first go first when there are too many different ones."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[bytes, bytes] = {}

    def pieces(self, body: bytes) -> Pieces:
        """At least one; `b"".join(pieces)` is `body`."""
        found: list[bytes] = []
        kept = at = 0
        while (start := body.find(_FIELDS, at)) >= 0:
            start += len(_FIELDS)
            end = min((after for mark in _AFTER if (after := body.find(mark, start)) >= 0), default=len(body))
            if end - start >= SHORTEST:
                found += (body[kept:start], self._one(body[start:end]))
                kept = end
            at = end
        if not found:
            return (body,)
        found.append(body[kept:])
        return tuple(found)

    def _one(self, text: bytes) -> bytes:
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            known = self._known[text] = text
        return known
