"""The verbs on resources: a route and a request in, a reply out. What each verb means is in the modules it calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from apiserver import deletion, errors, listing, partial, strategy
from apiserver.cache import Entry
from apiserver.deletion import Deleted
from apiserver.http import as_yaml, patching
from apiserver.http.accept import wants_yaml
from apiserver.http.exchange import Feed, Reply, Request, Stream, json_answer
from apiserver.http.routes import Route
from apiserver.http.subresources import Creation, Handler
from apiserver.http.wire import (
    decoded_body,
    delete_options,
    method_not_allowed,
    same_name,
    same_namespace,
    target_of,
    view_of,
    written_answer,
)
from apiserver.listing import flag
from apiserver.pipeline import Target, Writer
from apiserver.registry import Registry, Resource
from apiserver.subresources import success
from apiserver.views import SLICE, View
from apiserver.watch import Start, Watches
from kube.selectors import FieldSelector


class Verbs:
    """`subresources` and `creations` answer what is no plain object: parts of one, and kinds that can only be created
    (Binding, and the reviews), which nothing stores."""

    def __init__(
        self,
        registry: Registry,
        writer: Writer,
        watches: Watches,
        subresources: Mapping[tuple[str, str], Handler],
        creations: Mapping[tuple[str, str, str], Creation],
    ) -> None:
        self.registry = registry
        self.writer = writer
        self.watches = watches
        self.subresources = {**subresources, **{part: self._whole(part[1]) for part in partial.PARTS}}
        self.creations = creations

    async def handle(self, route: Route, request: Request) -> Reply:
        if handler := self.creations.get((route.group, route.version, route.plural)):
            return await handler(route, request)
        resource = self.registry.find(route.group, route.version, route.plural)
        if resource is None or not _in_scope(resource, route):
            raise errors.unknown_path()
        if route.subresource:
            if resource.info.subresource(route.subresource) is None:
                raise errors.unknown_path()
            return await self._subresource(resource, route, request)
        if not route.name:
            return await self._collection(resource, route, request)
        target = target_of(resource, route, request)
        match request.method:
            case "GET" if flag(request.query, "watch"):
                return await self._list_or_watch(resource, route, request)
            case "GET":
                return await self._get(target, request)
            case "PUT":
                return await self._put(target, request)
            case "PATCH":
                return await patching.patched(self.writer, target, request)
            case "DELETE":
                return await self._delete(target, request)
            case _:
                raise method_not_allowed(resource, request)

    async def _collection(self, resource: Resource, route: Route, request: Request) -> Reply:
        match request.method:
            case "GET":
                return await self._list_or_watch(resource, route, request)
            case "POST" if route.namespace is not None or not resource.info.namespaced:
                return await self._create(resource, route, request)
            case "DELETE" if route.namespace is not None or not resource.info.namespaced:
                if "deletecollection" in resource.info.verbs:
                    return await self._delete_collection(resource, route, request)
                raise method_not_allowed(resource, request)
            case _:
                raise method_not_allowed(resource, request)

    async def _subresource(self, resource: Resource, route: Route, request: Request) -> Reply:
        target = target_of(resource, route, request)
        if handler := self.subresources.get((resource.plural, route.subresource)):
            return await handler(target, request)
        match route.subresource, request.method:
            case "status", "GET":
                return await self._get(target, request)
            case "status", "PUT":
                return await self._put(target, request, "status")
            case "status", "PATCH":
                return await patching.patched(self.writer, target, request, "status")
            case "status", _:
                raise method_not_allowed(resource, request)
            case _:
                raise errors.unknown_path()

    def _whole(self, subresource: str) -> Handler:
        """A subresource that is the whole object with one part of it that may change."""

        async def handler(target: Target, request: Request) -> Reply:
            match request.method:
                case "GET":
                    return await self._get(target, request)
                case "PUT":
                    return await self._put(target, request, subresource)
                case "PATCH":
                    return await patching.patched(self.writer, target, request, subresource)
                case _:
                    raise method_not_allowed(target.resource, request)

        return handler

    async def _get(self, target: Target, request: Request) -> Reply:
        await listing.fresh(self.writer.cache, listing.parse_rv(request.query.get("resourceVersion")))
        return json_answer(view_of(request, target.resource).one(self.writer.get(target).body))

    async def _list_or_watch(self, resource: Resource, route: Route, request: Request) -> Reply:
        asked = listing.options(request.query, resource.info)
        if route.name:
            asked = replace(asked, fields=FieldSelector((*asked.fields.terms, ("metadata.name", True, route.name))))
        namespace = route.namespace if resource.info.namespaced else ""
        view = view_of(request, resource)
        if asked.watch:
            return await self._watch(resource, asked, namespace, view)
        page = await listing.page(self.writer.cache, resource.prefix, asked, namespace)
        return _listed(request, view, page.entries, page.metadata())

    async def _watch(self, resource: Resource, asked: listing.Options, namespace: str | None, view: View) -> Reply:
        cache, shelf = self.writer.cache, self.writer.shelf(resource)
        await listing.fresh(cache, asked.rv)
        everything = asked.initial_events is True or (asked.initial_events is None and not asked.rv)
        rv = None if everything else asked.rv or cache.rv
        if rv is not None and rv < shelf.floor:
            raise errors.too_old_resource_version(rv, shelf.floor)
        start = Start(
            rv,
            lambda: listing.candidates(shelf, asked, namespace),
            listing.bucket(asked, namespace),
            initial_events_end=asked.bookmarks and everything and (asked.initial_events is True or asked.rv is None),
        )
        matches = listing.matcher(asked, namespace)
        seconds = listing.watch_seconds(asked)
        return Feed(
            lambda outlet: self.watches.follow(
                resource.prefix, start, matches, view, outlet, seconds=seconds, bookmarks=asked.bookmarks
            )
        )

    async def _create(self, resource: Resource, route: Route, request: Request) -> Reply:
        target = target_of(resource, route, request)
        decoded = await decoded_body(request, resource.info.gvk)
        obj = resource.inward(decoded.obj) if resource.inward else decoded.obj
        same_namespace(obj, target)
        written = await self.writer.create(replace(target, name=obj["metadata"].get("name", "")), obj)
        return written_answer(request, resource, written, decoded.warnings)

    async def _put(self, target: Target, request: Request, subresource: str = "") -> Reply:
        decoded = await decoded_body(request, target.resource.info.gvk)
        obj = target.resource.inward(decoded.obj) if target.resource.inward else decoded.obj
        same_namespace(obj, target)
        same_name(obj, target)
        shelf = self.writer.shelf(target.resource)
        if shelf.get(target.namespace, target.name) is None and target.resource.creates_on_update and not subresource:
            if obj["metadata"].get("uid"):
                uid = obj["metadata"]["uid"]
                raise target.conflict(f"Precondition failed: UID in precondition: {uid}, UID in object meta: ")
            obj["metadata"].pop("resourceVersion", None)
            written = await self.writer.create(target, obj)
        else:
            pinned = obj["metadata"].get("resourceVersion") not in (None, "", "0")
            written = await self.writer.modify(
                target, lambda _: strategy.copied(obj), subresource=subresource, pinned=pinned
            )
        return written_answer(request, target.resource, written, decoded.warnings)

    async def _delete(self, target: Target, request: Request) -> Reply:
        asked = deletion.options(await delete_options(request), request.query)
        done = await deletion.delete(self.writer, target, asked)
        if done.gone and not target.resource.returns_deleted:
            return json_answer(_deleted_status(target, done), warnings=done.warnings)
        return json_answer(view_of(request, target.resource).one(done.body), warnings=done.warnings)

    async def _delete_collection(self, resource: Resource, route: Route, request: Request) -> Reply:
        asked = deletion.options(await delete_options(request), request.query)
        namespace = route.namespace if resource.info.namespaced else ""
        page = await listing.page(
            self.writer.cache, resource.prefix, listing.options(request.query, resource.info), namespace
        )
        target = target_of(resource, route, request)
        deleted: list[Entry] = []
        for entry in page.entries:
            try:
                await deletion.delete(self.writer, replace(target, namespace=entry.namespace, name=entry.name), asked)
            except errors.StatusError as error:
                if error.code != 404:  # somebody else was faster: it is gone, as asked
                    raise
            deleted.append(entry)
        return _listed(request, view_of(request, resource), deleted, page.metadata())


def _listed(request: Request, view: View, entries: list[Entry], metadata: dict[str, Any]) -> Reply:
    """What is long leaves in slices that are made one after the other. Only what is short is indented."""
    size = sum([entry.size for entry in entries])
    if size > SLICE and wants_yaml(request.headers.get("Accept", "")):
        return Stream(as_yaml.listed(view, entries, metadata), as_yaml.CONTENT_TYPE, whole=True)
    slices = view.slices(entries, metadata)
    if size <= SLICE:
        return json_answer(b"".join(slices))
    return Stream(_each(slices), whole=True)


async def _each(slices: Iterator[bytes]) -> AsyncIterator[bytes]:
    for one in slices:
        yield one
        await asyncio.sleep(0)


def _in_scope(resource: Resource, route: Route) -> bool:
    if not resource.info.namespaced:
        return route.namespace is None
    return route.namespace is not None or not route.name


def _deleted_status(target: Target, done: Deleted) -> dict[str, Any]:
    details = {"name": target.name, "kind": target.resource.plural, "uid": orjson.loads(done.body)["metadata"]["uid"]}
    if target.resource.info.group:
        details["group"] = target.resource.info.group
    return success(200, details)
