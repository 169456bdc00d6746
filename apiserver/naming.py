"""Names the server makes up: a prefix and five characters that spell no words (k8s.io/apiserver/pkg/storage/names)."""

from __future__ import annotations

import os
from typing import Final

ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
LENGTH: Final = 5
MAX_PREFIX: Final = 63 - LENGTH


def generated_name(prefix: str) -> str:
    """From one draw of 64 random bits: a pod with a generated name and a token volume takes two of these."""
    drawn = int.from_bytes(os.urandom(8))
    suffix = ""
    for _ in range(LENGTH):
        drawn, index = divmod(drawn, len(ALPHABET))
        suffix += ALPHABET[index]
    return prefix[:MAX_PREFIX] + suffix
