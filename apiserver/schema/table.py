"""The committed tables, read once when first asked for."""

import gzip
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from apiserver.schema.beside import TYPES
from apiserver.schema.model import GVK, ResourceInfo, Table, Type, WireField
from apiserver.schema.served import in_order

META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_META_KINDS: Final = frozenset({"DeleteOptions", "Status", "WatchEvent"})


def _bytes(name: str) -> bytes:
    return gzip.decompress((files("apiserver.schema") / name).read_bytes())


@cache
def load() -> Table:
    """The whole table; a few milliseconds the first time, nothing after."""
    found = msgspec.json.decode(_bytes("types.json.gz"), type=Table)
    return msgspec.structs.replace(found, types=found.types | TYPES)


@cache
def messages() -> dict[str, dict[int, WireField]]:
    """Protobuf messages by name, fields by number; read when the first protobuf body arrives."""
    return msgspec.json.decode(_bytes("protobuf.json.gz"), type=dict[str, dict[int, WireField]])


@cache
def _names() -> dict[tuple[str, str, str], str]:
    return {kind: name for name, one in load().types.items() for kind in one.kinds}


@cache
def _served() -> dict[tuple[str, str, str], ResourceInfo]:
    return {(one.group, one.version, one.plural): one for one in in_order(load().resources)}


def served() -> tuple[ResourceInfo, ...]:
    """Every resource this server knows how to serve, core group first."""
    return tuple(_served().values())


def resource(group: str, version: str, plural: str) -> ResourceInfo | None:
    """The served resource of that address, or None."""
    return _served().get((group, version, plural))


@cache
def resource_of(gvk: tuple[str, str, str]) -> ResourceInfo | None:
    """The served resource whose objects are of that kind, or None."""
    return next((one for one in served() if one.gvk == gvk and "get" in one.verbs), None)


def type_name(gvk: tuple[str, str, str]) -> str | None:
    """The type's OpenAPI name, or None. The meta kinds (DeleteOptions, Status) appear under any group-version."""
    found = _names().get((gvk[0], gvk[1], gvk[2]))
    if found is None and gvk[2] in _META_KINDS:
        return META + gvk[2]
    return found


def type_of(gvk: tuple[str, str, str]) -> Type | None:
    name = type_name(gvk)
    return None if name is None else load().types.get(name)


def named(name: str) -> Type:
    """The type of that OpenAPI name, which the table itself mentions: a KeyError is a broken table."""
    return load().types[name]


def kind_of(name: str) -> GVK | None:
    kinds = load().types[name].kinds
    return GVK(*kinds[0]) if kinds else None
