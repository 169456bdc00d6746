"""`Warning` headers: few, short and printable, whatever a body was that they are about.

A body may hold thousands of unknown fields with any name; a client's HTTP library refuses big heads and control characters.
The bounds are upstream's (k8s.io/apiserver/pkg/endpoints/filters/warning.go): 4096 characters in all, and when they would be
more, 256 for each and what does not fit is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TOTAL: Final = 4096
EACH: Final = 256


def headers(texts: Iterable[str]) -> list[bytes]:
    """Header lines with their line ends, each text once."""
    kept = list(dict.fromkeys(_printable(text) for text in texts))
    if sum(len(text) for text in kept) > TOTAL:
        kept = [text[:EACH] for text in kept[:TOTAL]]
    found: list[bytes] = []
    left = TOTAL
    for text in kept:
        left -= len(text)
        if left < 0:
            break
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        found.append(f'Warning: 299 - "{quoted}"\r\n'.encode())
    return found


def _printable(text: str) -> str:
    return "".join(one for one in text if one.isprintable())
