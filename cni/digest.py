"""Names that the reference plugins make of a network and a container: SHA-512 in hexadecimal, cut to what the kernel takes."""

from __future__ import annotations


def digest(text: str) -> str:
    try:
        from _sha512 import sha512  # hashlib costs 4 ms, this nothing; Python 3.12 has only hashlib
    except ImportError:
        from hashlib import sha512
    return sha512(text.encode()).hexdigest()
