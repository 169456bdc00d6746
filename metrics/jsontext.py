"""JSON of whatever names there are.

A cgroup, a mount point may be named in bytes that are no UTF-8; Python has them as lone surrogates, which orjson refuses. Those
rare answers are written by the standard library, in ASCII with the surrogates escaped, and every browser reads them.
"""

import json

import orjson


def encoded(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
