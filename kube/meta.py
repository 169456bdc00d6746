"""metav1: what every object carries.

Objects are frozen msgspec Structs with the wire's names in snake case; lists are tuples, absent objects None. Fields that
no daemon reads are not here: decoding skips them, and daemons write by PATCH, so they are never lost.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct


class Object(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Encoding rules shared by all typed objects; it has no behaviour."""


class OwnerReference(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`namespace/name`, or `name` for what has no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that manages this object, if there is one."""
        return next((o for o in self.owner_references if o.controller), None)


class LabelSelectorRequirement(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class Condition(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One condition; the kinds differ only in which of the optional fields they use. `status` has no default, because
    one that equals its default is not written, and a patch would leave the old one."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    last_heartbeat_time: datetime | None = None
    last_update_time: datetime | None = None
    last_probe_time: datetime | None = None
    observed_generation: int | None = None


class Typed(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A top-level object: its kind, version and metadata. Members of a list may come without kind and version."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()


class Identity(Protocol):
    """What a copy of many objects needs to know of each one's metadata."""

    @property
    def key(self) -> str: ...

    @property
    def resource_version(self) -> str: ...


class Identified(Protocol):
    """A top-level object of any type: `Typed`, or a room's own that holds less of it."""

    @property
    def metadata(self) -> Identity: ...


def now() -> datetime:
    """The present in UTC at the wire's precision, one second."""
    return datetime.now(UTC).replace(microsecond=0)


def timestamp(moment: datetime) -> str:
    """RFC 3339 with seconds, as metav1.Time is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(moment: datetime) -> str:
    """RFC 3339 with microseconds, as metav1.MicroTime (Lease) is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _wire(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, datetime):
        return micro_timestamp(value) if value.microsecond else timestamp(value)
    if isinstance(value, Struct):
        return _wire(msgspec.to_builtins(value, builtin_types=(datetime, msgspec.Raw)))
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    if isinstance(value, Mapping):
        return {k: _wire(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_wire(v) for v in value]
    return value


def to_wire(value: Any) -> Any:
    """A Struct, or a container of them, as plain JSON values: times as RFC 3339 (microseconds only where there are any, so
    `now()` makes a metav1.Time and `datetime.now(UTC)` a MicroTime), `msgspec.Raw` expanded."""
    return _wire(value)
