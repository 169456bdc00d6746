"""JSON of whatever names there are.

A cgroup, a mount point may be named in bytes that are no UTF-8; Python has them as lone surrogates, which orjson refuses. Those
rare answers are written by the standard library, in ASCII with the surrogates escaped, and every browser reads them.

A `part` of a long answer is written as soon as it is there: millions of small objects that wait for one another would keep the
garbage collector, and with it everybody else, busy.
"""

import json

import msgspec
import orjson


class Written(msgspec.Struct, frozen=True):
    text: bytes


def encoded(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=_as_it_is)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), default=_read_again).encode("ascii")


def part(value: object) -> Written:
    return Written(encoded(value))


def _as_it_is(value: object) -> object:
    if isinstance(value, Written):
        return orjson.Fragment(value.text)
    raise TypeError(f"{type(value)} is nothing that JSON has")


def _read_again(value: object) -> object:
    if isinstance(value, Written):
        return json.loads(value.text)
    raise TypeError(f"{type(value)} is nothing that JSON has")
