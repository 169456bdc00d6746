"""Names the server makes up: a prefix and five characters that spell no words (k8s.io/apiserver/pkg/storage/names)."""

from __future__ import annotations

import secrets
from typing import Final

ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
MAX_PREFIX: Final = 63 - 5


def generated_name(prefix: str) -> str:
    return prefix[:MAX_PREFIX] + "".join(secrets.choice(ALPHABET) for _ in range(5))
