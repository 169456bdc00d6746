"""A request's head as values: the path it means, its query, its number in the audit log.

The path comes percent-encoded, and sometimes with scheme and host before it (absolute form). `%2f` becomes a slash as it does
upstream; what is no UTF-8 is refused. Queries repeat themselves, so what one means is remembered.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, unquote

from multidict import MultiDict, MultiDictProxy

from apiserver import errors

MAX_FIELDS: Final = 1000
_REMEMBERED: Final = 1024  # longer queries are mostly tokens, which do not come back
_EMPTY: Final[MultiDictProxy[str]] = MultiDictProxy(MultiDict())
_random: Final = random.SystemRandom()
_numbers: Final = random.Random(_random.getrandbits(256))


def split(target: bytes) -> tuple[str, str, str]:
    """The path, the path as it was sent, and the query as it was sent. Raises 400."""
    text = target.decode("latin-1")
    raw, _, query = text.partition("?")
    if not raw.startswith("/"):
        raw = _relative(raw)
    query = query.partition("#")[0]
    raw = raw.partition("#")[0]
    return (path_of(raw) if "%" in raw else raw), raw, query


def _relative(raw: str) -> str:
    """`https://host/path` is `/path`."""
    scheme, sign, rest = raw.partition("://")
    if not sign or not scheme.isalpha():
        return raw
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


def path_of(raw: str) -> str:
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError as error:
        raise errors.bad_request(f"the path is not UTF-8 once decoded: {error.reason}") from error


def query_of(raw: str) -> MultiDictProxy[str]:
    """The first of several values counts. Raises 400."""
    if not raw:
        return _EMPTY
    return _remembered(raw) if len(raw) <= _REMEMBERED else _parsed(raw)


def _parsed(raw: str) -> MultiDictProxy[str]:
    try:
        return MultiDictProxy(MultiDict(parse_qsl(raw, keep_blank_values=True, max_num_fields=MAX_FIELDS)))
    except ValueError as error:
        raise errors.bad_request(f"the query has more than {MAX_FIELDS} fields") from error


@lru_cache(maxsize=512)
def _remembered(raw: str) -> MultiDictProxy[str]:
    return _parsed(raw)


def audit_id(asked: str | None) -> str:
    """The client's own, as upstream takes it, else a new random UUID."""
    if asked and len(asked) <= 64 and asked.isascii() and asked.isprintable():
        return asked
    digits = f"{_numbers.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
