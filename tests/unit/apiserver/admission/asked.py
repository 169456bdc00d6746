"""Attributes of a write, and a Sight on objects that a test names: plugins without a server."""

from __future__ import annotations

import asyncio
from typing import Any

from apiserver import schema
from apiserver.admission import Admission, Attributes, Settings, Sight
from apiserver.admission.attributes import Operation
from apiserver.authentication import User
from apiserver.cache import Cache, storage_bytes
from apiserver.registry import Registry

Obj = dict[str, Any]
REGISTRY = Registry()
USER = User("somebody", ("system:authenticated",))


class World:
    """What is there when the plugins look."""

    def __init__(self, *objects: Obj) -> None:
        self.cache = Cache(REGISTRY.describers())
        self.cache.rv = 1
        self.sight = Sight(self.cache, REGISTRY, self._newest)
        for one in objects:
            self.put(one)

    async def _newest(self) -> int:
        return self.cache.rv

    def put(self, obj: Obj) -> None:
        group, _, version = obj["apiVersion"].rpartition("/")
        found = next(
            one for one in schema.served() if (one.group, one.version, one.kind) == (group, version, obj["kind"])
        )
        resource = REGISTRY.find(found.group, found.version, found.plural)
        assert resource is not None
        self.cache.rv += 1
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        self.cache.shelf(resource.prefix).apply(key, storage_bytes(obj), self.cache.rv)


def attributes(
    kind: str, new: Obj, old: Obj | None = None, operation: Operation | None = None, subresource: str = ""
) -> Attributes:
    plural, _, group = kind.partition(".")
    resource = REGISTRY.find(group, "v1", plural)
    assert resource is not None
    metadata = new.setdefault("metadata", {})
    asked: Operation = operation or ("UPDATE" if old is not None else "CREATE")
    return Attributes(
        resource, asked, metadata.get("namespace", ""), metadata.get("name", ""), new, old, subresource, USER
    )


def chain(world: World, *names: str, **settings: Any) -> Admission:
    return Admission(world.sight, frozenset(names), Settings(**settings))


def admitted(admission: Admission, asked: Attributes) -> Obj:
    """The object as it leaves both phases; raises what refuses it."""

    async def both() -> None:
        await admission.mutate(asked)
        await admission.validate(asked)

    asyncio.run(both())
    return asked.new


def pod(name: str = "p", namespace: str = "d", **spec: Any) -> Obj:
    containers = spec.pop("containers", [{"name": "c", "image": "i"}])
    metadata = {"name": name, "namespace": namespace}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": containers, **spec}}


def obj(api_version: str, kind: str, name: str, namespace: str = "", **rest: Any) -> Obj:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"kind": kind, "apiVersion": api_version, "metadata": metadata | rest.pop("metadata", {}), **rest}
