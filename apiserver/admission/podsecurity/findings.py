"""A pod as the checks see it, and what they say about it in upstream's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

Obj = dict[str, Any]
LATEST: Final = 1 << 16
_NO_CONTEXT: Final[Obj] = {}
USER_NAMESPACES: Final = 35  # from v1.35 on, pods in user namespaces of their own may be root there


@dataclass(frozen=True, slots=True)
class Finding:
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class Pod:
    """`containers`: all of them, with their security contexts; init containers first, as upstream visits them."""

    metadata: Obj
    spec: Obj
    context: Obj
    containers: tuple[tuple[Obj, Obj], ...]

    @classmethod
    def of(cls, metadata: Obj, spec: Obj) -> Pod:
        parts = ("initContainers", "containers", "ephemeralContainers")
        all_of = [one for part in parts for one in spec.get(part) or ()]
        contexts = tuple((one, one.get("securityContext") or _NO_CONTEXT) for one in all_of)
        return cls(metadata, spec, spec.get("securityContext") or _NO_CONTEXT, contexts)

    @property
    def annotations(self) -> Obj:
        return self.metadata.get("annotations") or {}

    @property
    def is_windows(self) -> bool:
        return (self.spec.get("os") or {}).get("name") == "windows"

    @property
    def has_user_namespace(self) -> bool:
        return self.spec.get("hostUsers") is False

    def named(self, bad: Callable[[Obj, Obj], bool]) -> list[str]:
        """The containers of which `bad(container, security context)` is true."""
        return [one["name"] for one, context in self.containers if bad(one, context)]


@dataclass(frozen=True, slots=True)
class Check:
    """In force from v1.`since`, until a newer one of that name; `replaces` a check of the level below."""

    name: str
    run: Callable[[Pod], Finding | None]
    since: int = 0
    replaces: str = ""


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def plural(word: str, names: Iterable[str]) -> str:
    return word if len(list(names)) == 1 else f"{word}s"


def containers(names: list[str]) -> str:
    """`container "a"`, `containers "a", "b"`"""
    return f"{plural('container', names)} {quoted(names)}"


def setters(pod: bool, names: list[str]) -> str:
    """`pod and container "a"`"""
    return " and ".join([*(["pod"] if pod else []), *([containers(names)] if names else [])])
