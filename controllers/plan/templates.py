"""Pod templates: when are two the same, and what are they called?

A ReplicaSet belongs to the Deployment's present template when the two are equal, the hash label aside; so ReplicaSets that
a stock controller made are recognised whatever their hash is. Names need a hash that is stable: FNV-1a over the canonical
JSON (sorted keys, nulls dropped, quantities in canonical spelling), and the collision count when a name was taken.
"""

import json
from functools import lru_cache
from typing import Any

import msgspec

from kube import quantity
from kube.labels import POD_TEMPLATE_HASH

_SAFE = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels, no look-alikes (k8s.io/apimachinery/pkg/util/rand)."""


@lru_cache(maxsize=1024)
def _canonical(template: bytes) -> str:
    decoded = _plain(msgspec.json.decode(template))
    labels = (decoded.get("metadata") or {}).get("labels")
    if labels:
        labels.pop(POD_TEMPLATE_HASH, None)
        if not labels:
            del decoded["metadata"]["labels"]
    if not decoded.get("metadata"):
        decoded.pop("metadata", None)
    return json.dumps(decoded, sort_keys=True, separators=(",", ":"))


def canonical(template: msgspec.Raw) -> str:
    """The template as text that is equal when templates are."""
    return _canonical(bytes(template))


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        amounts = key in ("requests", "limits", "overhead")
        return {k: _amount(v) if amounts else _plain(v, k) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _amount(value: Any) -> Any:
    try:
        return quantity.canonical(str(value))
    except ValueError:
        return value


def template_hash(template: msgspec.Raw, collisions: int) -> str:
    """Up to ten characters that may be part of a name."""
    text = canonical(template) + (f"/{collisions}" if collisions else "")
    return safe(fnv1a(text.encode()))


def fnv1a(data: bytes) -> int:
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def safe(number: int) -> str:
    """The number's decimal digits in the safe alphabet."""
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(number))
