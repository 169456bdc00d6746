"""Requests that are wrong, by families, from a seed: what a broken or hostile client sends.

Each is the bytes of one whole request. `lenient` families hold some that are merely odd and may be answered 2xx.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import orjson

from apiserver import schema
from apiserver.schema import ResourceInfo
from tests.node import malformed_heads
from tests.node.malformed_heads import JSON, PATCHED, PROTOBUF, Wrong, request
from tests.unit.apiserver import protobuf_writer
from tests.unit.apiserver.manifests import manifest

PATCHES = ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")


@cache
def _kinds() -> tuple[tuple[ResourceInfo, dict[str, Any]], ...]:
    found = []
    for info in schema.served():
        if "create" in info.verbs and info.kind != "Event":
            try:
                found.append((info, manifest(info.gvk)))
            except KeyError:
                continue
    return tuple(found)


def _collection(info: ResourceInfo) -> str:
    root = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
    return f"{root}/namespaces/default/{info.plural}" if info.namespaced else f"{root}/{info.plural}"


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        yield from _paths(one, (*path, key))


def _put(obj: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    obj = copy.deepcopy(obj)
    inner = obj
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return obj


def _at(obj: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        obj = obj[key]
    return obj


def _posted(rng: random.Random, family: str, body: bytes, content_type: str = JSON, *, lenient: bool = False) -> Wrong:
    info, _ = rng.choice(_kinds())
    return Wrong(family, request("POST", _collection(info) + "?dryRun=All", body, content_type), lenient)


def wrong_type(rng: random.Random) -> Wrong:
    """Something of another JSON type at some place of a good object."""
    info, good = rng.choice(_kinds())
    path = rng.choice([one for one in _paths(good) if one])
    values: list[Any] = [
        [[]],
        {"a": {"b": 1}},
        True,
        -1.5,
        1e300,
        2**63,
        -(2**63),
        "\u0000",
        "x" * 300,
        [None],
        [{}],
        None,
    ]
    value = rng.choice([one for one in values if type(one) is not type(_at(good, path))])
    target = f"{_collection(info)}?dryRun=All&fieldValidation={rng.choice(['Strict', 'Warn', 'Ignore'])}"
    return Wrong(
        "wrong type",
        request(
            "POST",
            target,
            orjson.dumps(_put(good, path, value), option=orjson.OPT_PASSTHROUGH_SUBCLASS)
            if not isinstance(value, int) or abs(value) < 2**63
            else _big(good, path, value),
        ),
        lenient=True,
    )


def _big(good: Any, path: tuple[Any, ...], value: int) -> bytes:
    """orjson writes no number of more than 64 bits."""
    return orjson.dumps(_put(good, path, "@number@")).replace(b'"@number@"', str(value).encode())


def broken_json(rng: random.Random) -> Wrong:
    """Bytes of a good object changed, cut, doubled."""
    info, good = rng.choice(_kinds())
    data = bytearray(orjson.dumps(good))
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = rng.choice([b"{", b"}", b"[", b"]", b",", b'"', b":", b"\\u", b"\x00", b"\xff\xfe"])
            case _:
                data += data[place:]
        if not data:
            break
    return Wrong("broken JSON", request("POST", _collection(info) + "?dryRun=All", bytes(data)), lenient=True)


def nonsense(rng: random.Random) -> Wrong:
    depth = rng.choice([200, 2000, 100_000])
    bodies = [
        b"",
        b" ",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"NaN",
        b"[1,2",
        b"{",
        b"}",
        b"\xff\xfe{}",
        b"\x00" * 50,
        b'{"a":NaN}',
        b'{"metadata":{"name":"\xc3\x28"}}',
        b'{"metadata":{"name":"\\ud800"}}',
        b"[" * depth,
        b'{"a":' * depth,
        b'{"metadata":' + b"[" * depth + b"]" * depth + b"}",
        b'{"metadata":{"annotations":{"a":' + b"9" * 5000 + b"}}}",
        b'{"metadata":{"generation":1e999}}',
        b'{"apiVersion":"v9","kind":"Nothing"}',
        b'{"kind":{"a":1},"apiVersion":[]}',
        b'{"metadata":{"labels":{"a":1}}}',
    ]
    return _posted(rng, "nonsense", rng.choice(bodies))


def wrong_content_type(rng: random.Random) -> Wrong:
    info, good = rng.choice(_kinds())
    kinds = [
        "text/plain",
        "application/xml",
        "application/cbor",
        "image/png",
        "a",
        ";",
        "application/json;;;=",
        "\xe9/\xff",
        "multipart/form-data; boundary=x",
        PROTOBUF,
        "application/yaml",
    ]
    kind = rng.choice(kinds)
    body = b"\x00\x01" + orjson.dumps(good) if kind in (PROTOBUF, "application/yaml") else orjson.dumps(good)
    lenient = kind in ("application/json;;;=", ";", "a")
    return Wrong("content type", request("POST", _collection(info) + "?dryRun=All", body, kind), lenient)


def protobuf(rng: random.Random) -> Wrong:
    """The envelope or what is in it: cut, lengths of gigabytes, groups, endless varints, deep nesting."""
    plural = rng.choice(["pods", "configmaps", "services"])
    info = next(one for one, _ in _kinds() if one.plural == plural)
    good = protobuf_writer.envelope(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"a": "b"}}
    )
    nested = b"\x0a\x01x"
    for _ in range(rng.choice([50, 3000])):
        nested = protobuf_writer.chunk(rng.choice([1, 2, 10]), nested)
    changed = bytearray(good)
    changed[rng.randrange(4, len(changed))] = rng.randrange(256)
    bodies = [
        good[: rng.randrange(4, len(good))],
        bytes(changed),
        b"k8s\x00",
        b"k8s\x00" + b"\xff" * 20,
        good[:4] + b"\x0a\xff\xff\xff\xff\x0f",
        b"k8s\x00"
        + protobuf_writer.chunk(1, protobuf_writer.chunk(1, b"v1") + protobuf_writer.chunk(2, b"Pod"))
        + protobuf_writer.chunk(2, nested),
        b"k8s\x00" + protobuf_writer.chunk(1, b"\x0a\x02\xff\xfe\x12\x03Pod") + b"\x12\x00",
        b"k8s\x00\x0b\x0c" * 100,
    ]
    target = f"{_collection(info)}?dryRun=All"
    return Wrong("protobuf", request("POST", target, rng.choice(bodies), PROTOBUF), lenient=True)


def yaml(rng: random.Random) -> Wrong:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    bodies = [
        bomb,
        "a: *nothing",
        "a: [",
        "? [1]: 2",
        "1: 2\n1: 3",
        "!!python/object/apply:os.system [id]",
        "a: !!binary '@'",
        "&a [*a]",
        "metadata: &m {labels: *m}",
        "- " * 3000 + "a",
        "{" * 3000,
        "\t- a",
        "a: 2026-99-99T00:00:00Z",
        "--- a\n--- b",
        "metadata: {generation: .nan}",
        "\x00",
        "%YAML 9.9\n--- a",
        "a: 0x" + "f" * 400,
    ]
    return _posted(rng, "YAML", rng.choice(bodies).encode(), "application/yaml")


def patch(rng: random.Random) -> Wrong:
    by_kind: dict[str, list[str]] = {
        "json-patch+json": [
            "{}",
            "[1]",
            '[{"op":"add"}]',
            '[{"op":"fly","path":"/a"}]',
            '[{"op":"add","path":"a","value":1}]',
            '[{"op":"remove","path":"/nothing/here"}]',
            '[{"op":"test","path":"/data/a","value":"no"}]',
            '[{"op":"move","from":"/data","path":"/data/a"}]',
            '[{"op":"replace","path":"/metadata/name","value":"other"}]',
            '[{"op":"add","path":"/data/-1~2","value":[]}]',
            '[{"op":"replace","path":"/metadata","value":[]}]',
            "[" + ",".join(['{"op":"test","path":"/kind","value":"ConfigMap"}'] * 10_001) + "]",
            '[{"op":"copy","from":"/data","path":"/data/b"}]',
            "["
            + ",".join(f'{{"op":"copy","from":"/metadata","path":"/metadata/x{n}"}}' for n in range(24))  # 1.9 GB
            + "]",
            '[{"op":"add","path":"/kind","value":"Pod"}]',
        ],
        "merge-patch+json": [
            "[]",
            "1",
            "null",
            '{"metadata":[]}',
            '{"data":{"a":1}}',
            '{"kind":"Pod"}',
            '{"metadata":{"labels":{"a":{"b":1}}}}',
            '{"metadata":{"resourceVersion":"nonsense"}}',
            '{"metadata":{"uid":"other"}}',
            '{"data":' + "[" * 2000 + "]" * 2000 + "}",
        ],
        "strategic-merge-patch+json": [
            "[]",
            '{"data":[]}',
            '{"metadata":{"$patch":"explode"}}',
            '{"$retainKeys":1}',
            '{"data":{"$patch":5}}',
            '{"metadata":{"finalizers":{"a":1}}}',
            '{"metadata":{"ownerReferences":[{"uid":1}]}}',
            '{"metadata":{"$setElementOrder/finalizers":"x"}}',
            '{"metadata":{"$deleteFromPrimitiveList/finalizers":{}}}',
            '{"metadata":{"ownerReferences":[1,2]}}',
            '{"metadata":{"ownerReferences":[{"$patch":"delete"}]}}',
        ],
        "apply-patch+yaml": [
            "[]",
            "a: [",
            "apiVersion: v1",
            "apiVersion: v1\nkind: Pod",
            "apiVersion: v9\nkind: ConfigMap",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}",
            "apiVersion: v1\nkind: ConfigMap\ndata: [1]",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {managedFields: [{}]}",
            "apiVersion: v1\nkind: ConfigMap\nunknown: 1",
        ],
    }
    kind = rng.choice(PATCHES)
    query = rng.choice(
        ["?dryRun=All", "?dryRun=All&fieldManager=m", "?dryRun=All&fieldManager=m&force=maybe", "?dryRun=None"]
    )
    if rng.random() < 0.1:
        return Wrong(
            "patch",
            request("PATCH", PATCHED + query, b"{}", rng.choice([JSON, "text/plain", "application/" + kind + "x"])),
        )
    text = rng.choice(by_kind[kind])
    return Wrong("patch", request("PATCH", PATCHED + query, text.encode(), f"application/{kind}"), lenient=True)


FAMILIES: tuple[tuple[Callable[[random.Random], Wrong], int], ...] = (
    (wrong_type, 30),
    (broken_json, 15),
    (nonsense, 8),
    (wrong_content_type, 4),
    (protobuf, 8),
    (yaml, 5),
    (patch, 10),
    (malformed_heads.path, 6),
    (malformed_heads.query, 8),
    (malformed_heads.options, 4),
    (malformed_heads.headers, 2),
    (malformed_heads.framing, 2),
)


def requests(seed: int, count: int) -> Iterator[Wrong]:
    rng = random.Random(seed)
    makers, weights = zip(*FAMILIES, strict=True)
    for maker in rng.choices(makers, weights, k=count):
        yield maker(rng)
