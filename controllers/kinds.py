"""Every kind that the server serves, found by discovery, as far as garbage collection and namespaces care: metadata only.

A kind that is added to the server later (or that only a stock server has) is collected and emptied like any other.
"""

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Any

import msgspec

from kube.client import Client
from kube.meta import Typed
from kube.resources import Resource

IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})
"""Events own nothing and are owned by nothing; upstream's garbage collector leaves them out too."""

_NEEDED = frozenset({"list", "watch", "delete"})


class _Kind(msgspec.Struct):
    name: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...] = ()


class _Kinds(msgspec.Struct):
    resources: tuple[_Kind, ...] = ()


class _Version(msgspec.Struct, rename="camel"):
    group_version: str


class _Group(msgspec.Struct, rename="camel"):
    name: str
    preferred_version: _Version


class _Groups(msgspec.Struct):
    groups: tuple[_Group, ...] = ()


def metadata_only(resource: Resource[Any]) -> Resource[Typed]:
    return dataclasses.replace(resource, type=Typed)


async def discover(client: Client) -> list[Resource[Typed]]:
    """Kinds that can be listed, watched and deleted, each in its group's preferred version."""
    groups = msgspec.json.decode(await client.request("GET", "/apis"), type=_Groups).groups
    versions = ["v1", *(g.preferred_version.group_version for g in groups)]
    served = await asyncio.gather(*(_served(client, version) for version in versions))
    return unique([resource for several in served for resource in several])


def unique(resources: Iterable[Resource[Typed]]) -> list[Resource[Typed]]:
    """Events are served in two groups and stored once."""
    found = {(r.group, r.plural): r for r in resources}
    if ("", "events") in found:
        found.pop(("events.k8s.io", "events"), None)
    return list(found.values())


async def _served(client: Client, group_version: str) -> list[Resource[Typed]]:
    path = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    kinds = msgspec.json.decode(await client.request("GET", path), type=_Kinds).resources
    group, _, version = group_version.rpartition("/")
    return [
        Resource(group, version, k.name, k.kind, k.namespaced, Typed)
        for k in kinds
        if "/" not in k.name and _NEEDED.issubset(k.verbs)
    ]
