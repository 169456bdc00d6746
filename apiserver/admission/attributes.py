"""What admission is asked about (one write, before it is stored), and how a plugin says what it wants to be asked.

A `Rule` is a function of the attributes that changes `new` in place, adds warnings, or raises the StatusError that refuses;
it returns something to wait for only where it must wait. Rules are chosen by kind, operation and subresource once, so that
a write asks only those that have something to say about it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from apiserver import errors
from apiserver.authentication import SERVER, User
from apiserver.errors import StatusError
from apiserver.registry import Resource

Obj = dict[str, Any]
Place = tuple[str, str, str, str]  # group, plural, operation, subresource
Operation = Literal["CREATE", "UPDATE", "DELETE"]
CREATE: Final[frozenset[Operation]] = frozenset({"CREATE"})
WRITE: Final[frozenset[Operation]] = frozenset({"CREATE", "UPDATE"})


@dataclass(slots=True)
class Attributes:
    """`new` is empty for DELETE, `old` is None for CREATE. While a name is still to be generated, `name` is its prefix, as in
    upstream's texts."""

    resource: Resource
    operation: Operation
    namespace: str
    name: str
    new: Obj
    old: Obj | None = None
    subresource: str = ""
    user: User = SERVER
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def place(self) -> Place:
        """What rules are chosen by."""
        return self.resource.info.group, self.resource.info.plural, self.operation, self.subresource

    @property
    def kind(self) -> str:
        """`pods`, `deployments.apps`"""
        return errors.qualified(self.resource.info.group, self.resource.plural)

    def refused(self, why: str, causes: Sequence[dict[str, str]] = ()) -> StatusError:
        return errors.forbidden(self.resource.info.group, self.resource.plural, self.name, why, causes)


Ask = Callable[[Attributes], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """`kinds` as `Attributes.kind` spells them; None for every kind."""

    ask: Ask
    kinds: frozenset[str] | None = None
    operations: frozenset[Operation] = CREATE
    subresources: frozenset[str] = frozenset({""})

    def concerns(self, kind: str, operation: Operation, subresource: str) -> bool:
        return (
            operation in self.operations
            and subresource in self.subresources
            and (self.kinds is None or kind in self.kinds)
        )


@dataclass(frozen=True, slots=True)
class Plugin:
    """`mutating` rules of all plugins run before validation, `validating` ones after it."""

    name: str
    mutating: tuple[Rule, ...] = ()
    validating: tuple[Rule, ...] = ()


PODS: Final = frozenset({"pods"})
