"""Paths: what /apis/apps/v1/namespaces/default/deployments/web/status means.

Behind `/proxy` comes a path of somebody else's: it is no part of the route, whoever proxies reads it from the raw path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

REMEMBERED: Final = 256  # the longest path that is


@dataclass(frozen=True, slots=True)
class Route:
    """`namespace` is None for cluster scope and for a list over all namespaces; empty `name` is the collection."""

    group: str
    version: str
    plural: str
    namespace: str | None = None
    name: str = ""
    subresource: str = ""


def parse(path: str) -> Route | None:
    """The resource a path addresses; None for every other path (discovery, health, nonsense). Clients ask for the same paths
    again and again."""
    return _remembered(path) if len(path) <= REMEMBERED else _parsed(path)


@lru_cache(maxsize=2048)
def _remembered(path: str) -> Route | None:
    return _parsed(path)


def _parsed(path: str) -> Route | None:
    match path.strip("/").split("/"):
        case ["api", "v1", *rest] if rest:
            return _resource("", "v1", rest)
        case ["apis", group, version, *rest] if rest:
            return _resource(group, version, rest)
        case _:
            return None


def _resource(group: str, version: str, rest: list[str]) -> Route | None:
    match rest:
        case ["namespaces", namespace, ("pods" | "services") as plural, name, "proxy", *_] if not group:
            return Route(group, version, plural, namespace, name, "proxy")
        case [("nodes" | "pods" | "services") as plural, name, "proxy", *_] if not group:
            return Route(group, version, plural, None, name, "proxy")
        case ["namespaces", name, ("status" | "finalize") as subresource] if not group:
            return Route(group, version, "namespaces", None, name, subresource)
        case ["namespaces", namespace, plural, *more] if len(more) <= 2:
            return Route(group, version, plural, namespace, *more)
        case [plural, *more] if len(more) <= 2:
            return Route(group, version, plural, None, *more)
        case _:
            return None
