"""What the schema table says, as values: types and their fields, protobuf messages, resources.

Rows are array-like so that the committed table stays small and loads in a few milliseconds. Names of types are
upstream's OpenAPI names (`io.k8s.api.core.v1.Pod`), because OpenAPI documents and `kubectl explain` show them.
"""

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec


class GVK(NamedTuple):
    """Group, version, kind; the core group is the empty string."""

    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @classmethod
    def of(cls, obj: dict[str, Any]) -> "GVK":
        group, _, version = str(obj.get("apiVersion", "")).rpartition("/")
        return cls(group, version, str(obj.get("kind", "")))


class Shape(StrEnum):
    """What holds the field's values: the value itself, a list of them, or a map from strings to them."""

    ONE = "o"
    LIST = "l"
    MAP = "m"


class Field(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One field of a type.

    `type` is a scalar (`string`, `bool`, `int32`, `int64`, `double`, `byte`, `any`) or the name of a type; `shape` says
    whether it is one, a list or a map of those. `omit`: upstream leaves it out when it is empty (a Go value with
    `omitempty`, not a pointer), so `false`, `0`, `""`, `[]` and `{}` mean the same as absence. Two key systems live side
    by side and never mix: `patch` and `merge_key` belong to strategic merge patch, `list_type` and `list_keys` to
    server-side apply. `named` is what documents call an `any` that has a name (RawExtension, FieldsV1).
    `always`: a plain Go value without `omitempty`, so upstream writes its zero (`replicas: 0`).
    """

    type: str
    shape: Shape = Shape.ONE
    required: bool = False
    omit: bool = False
    patch: str = ""
    merge_key: str = ""
    list_type: str = ""
    list_keys: tuple[str, ...] = ()
    map_type: str = ""
    named: str = ""
    always: bool = False

    @property
    def strategies(self) -> frozenset[str]:
        return frozenset(self.patch.split(",")) if self.patch else frozenset()


class Type(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A structured type, or (no fields) a scalar with a name of its own: Quantity, Time, IntOrString, RawExtension."""

    fields: dict[str, Field] = {}
    kinds: tuple[tuple[str, str, str], ...] = ()
    map_type: str = ""
    scalar: str = ""
    format: str = ""
    unions: tuple[Any, ...] = ()


class WireField(msgspec.Struct, frozen=True, array_like=True):
    """One protobuf field: JSON name, protobuf type or message name, flags.

    Flags: the first letter is `o` (one), `r` (repeated) or `m` (map with string keys); then `i` (the message's fields
    belong to the parent), `p` (a pointer: a zero on the wire survives), `e` (left out of the JSON when empty).
    """

    name: str
    type: str
    flags: str


class Subresource(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """`pods/status` and its like; group and version are empty where they are those of the resource."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


class ResourceInfo(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One row of discovery: how a resource is addressed, what it is called, what one may do with it."""

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()

    @property
    def gvk(self) -> GVK:
        return GVK(self.group, self.version, self.kind)

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def subresource(self, name: str) -> Subresource | None:
        return next((one for one in self.subresources if one.name == name), None)


class Table(msgspec.Struct, frozen=True):
    """The committed document. `release` is the Kubernetes release it was derived from."""

    release: str
    types: dict[str, Type]
    resources: tuple[ResourceInfo, ...]
