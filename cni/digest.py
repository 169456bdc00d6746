"""Names that the reference plugins make of a network and a container: SHA-512 in hexadecimal, cut to what the kernel takes."""

from __future__ import annotations


def digest(text: str) -> str:
    try:
        # hashlib costs 4 ms, this nothing; Python 3.12 has only hashlib
        from _sha512 import sha512  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha512
    found: str = sha512(text.encode()).hexdigest()
    return found
