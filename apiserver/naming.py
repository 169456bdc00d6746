"""Names the server makes up: a prefix and five characters that spell no words (k8s.io/apiserver/pkg/storage/names)."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Final

ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
LENGTH: Final = 5
MAX_PREFIX: Final = 63 - LENGTH


def generated_name(prefix: str) -> str:
    """From one draw of 64 random bits."""
    return prefix[:MAX_PREFIX] + _spelt(int.from_bytes(os.urandom(8)))


@lru_cache(maxsize=1024)
def derived_name(prefix: str, seed: str) -> str:
    """The same one for the same seed: where a name need only differ from those beside it, alike objects stay alike."""
    return prefix[:MAX_PREFIX] + _spelt(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))


def _spelt(number: int) -> str:
    text = ""
    for _ in range(LENGTH):
        number, index = divmod(number, len(ALPHABET))
        text += ALPHABET[index]
    return text
