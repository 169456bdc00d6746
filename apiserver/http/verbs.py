"""The verbs on resources: a route and a request in, a reply out. What each verb means is in the modules it calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast, get_args

import orjson

from apiserver import codec, deletion, errors, listing, patch, strategy, subresources
from apiserver.cache import Entry
from apiserver.deletion import Deleted
from apiserver.http import accept
from apiserver.http.exchange import Answer, Reply, Request, Stream, json_answer
from apiserver.http.routes import Route
from apiserver.listing import flag
from apiserver.pipeline import Obj, Target, Writer, Written, now
from apiserver.registry import Registry, Resource
from apiserver.relay import Relay
from apiserver.schema import GVK
from apiserver.views import Metadata, Objects, Tables, View
from apiserver.watch import Start, Watches
from kube.selectors import FieldSelector

DELETE_OPTIONS: Final = GVK("", "v1", "DeleteOptions")


def view_of(request: Request, resource: Resource) -> View:
    match accept.form(request.headers.get("Accept", "")):
        case "table":
            return Tables(resource.stored, request.query.get("includeObject") or "Metadata")
        case "metadata":
            return Metadata(resource.info)
        case "object" | "yaml":
            return Objects(resource.info, resource.outward)


def _validation(request: Request) -> codec.FieldValidation:
    asked = request.query.get("fieldValidation") or "Warn"
    if asked in get_args(codec.FieldValidation):
        return cast("codec.FieldValidation", asked)
    cause = errors.not_supported("fieldValidation", asked, ("", "Ignore", "Strict", "Warn"))
    raise errors.invalid("meta.k8s.io", "CreateOptions", "", [cause])


def _dry_run(request: Request) -> bool:
    asked = request.query.get("dryRun", "")
    if asked in ("", "All"):
        return bool(asked)
    raise errors.invalid("meta.k8s.io", "CreateOptions", "", [errors.not_supported("dryRun", [asked], ("All",))])


class Verbs:
    def __init__(self, registry: Registry, writer: Writer, watches: Watches, relay: Relay) -> None:
        self.registry = registry
        self.writer = writer
        self.watches = watches
        self.relay = relay

    async def handle(self, route: Route, request: Request) -> Reply:
        if route.plural == "bindings" and not route.group and request.method == "POST" and not route.name:
            return await self._bind(route, request)
        resource = self.registry.find(route.group, route.version, route.plural)
        if resource is None or not _in_scope(resource, route):
            raise errors.unknown_path()
        if route.subresource:
            if resource.info.subresource(route.subresource) is None:
                raise errors.unknown_path()
            return await self._subresource(resource, route, request)
        if not route.name:
            return await self._collection(resource, route, request)
        target = self._target(resource, route, request)
        match request.method:
            case "GET" if flag(request.query, "watch"):
                return await self._list_or_watch(resource, route, request)
            case "GET":
                return await self._get(target, request)
            case "PUT":
                return await self._put(target, request)
            case "PATCH":
                return await self._patch(target, request)
            case "DELETE":
                return await self._delete(target, request)
            case _:
                raise self._method(resource, request)

    async def _collection(self, resource: Resource, route: Route, request: Request) -> Reply:
        match request.method:
            case "GET":
                return await self._list_or_watch(resource, route, request)
            case "POST" if route.namespace is not None or not resource.info.namespaced:
                return await self._create(resource, route, request)
            case "DELETE" if route.namespace is not None or not resource.info.namespaced:
                if "deletecollection" in resource.info.verbs:
                    return await self._delete_collection(resource, route, request)
                raise self._method(resource, request)
            case _:
                raise self._method(resource, request)

    async def _subresource(self, resource: Resource, route: Route, request: Request) -> Reply:
        target = self._target(resource, route, request)
        match route.subresource, request.method:
            case "status", "GET":
                return await self._get(target, request)
            case "status", "PUT":
                return await self._put(target, request, "status")
            case "status", "PATCH":
                return await self._patch(target, request, "status")
            case "scale", "GET" | "PUT" | "PATCH":
                return await self._scale(target, request)
            case "binding", "POST":
                return await self._bind(route, request)
            case "eviction", "POST":
                return await self._evict(target, request)
            case "finalize", "PUT":
                return await self._finalize(target, request)
            case "log", "GET":
                return await self.relay.logs(self.writer.get(target).parse(), request)
            case ("exec" | "attach") as what, "GET" | "POST":
                return await self.relay.upgrade(what, self.writer.get(target).parse(), request)
            case _:
                raise self._method(resource, request)

    def _target(self, resource: Resource, route: Route, request: Request) -> Target:
        dry_run = request.method != "GET" and _dry_run(request)
        return Target(resource, route.namespace or "", route.name, dry_run)

    @staticmethod
    def _method(resource: Resource, request: Request) -> errors.StatusError:
        return errors.method_not_allowed(resource.info.group, resource.plural, request.method.lower())

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
        return json_answer(view.many(page.entries, page.metadata()))

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
        return Stream(
            self.watches.follow(resource.prefix, start, matches, view, seconds=seconds, bookmarks=asked.bookmarks)
        )

    async def _create(self, resource: Resource, route: Route, request: Request) -> Reply:
        target = self._target(resource, route, request)
        decoded = await self._decode(request, resource.info.gvk)
        obj = resource.inward(decoded.obj) if resource.inward else decoded.obj
        _same_namespace(obj, target)
        written = await self.writer.create(replace(target, name=obj["metadata"].get("name", "")), obj)
        return self._written(request, resource, written, decoded.warnings)

    async def _put(self, target: Target, request: Request, subresource: str = "") -> Reply:
        decoded = await self._decode(request, target.resource.info.gvk)
        obj = target.resource.inward(decoded.obj) if target.resource.inward else decoded.obj
        _same_namespace(obj, target)
        _same_name(obj, target)
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
        return self._written(request, target.resource, written, decoded.warnings)

    async def _patch(self, target: Target, request: Request, subresource: str = "") -> Reply:
        body, resource, validation = await request.body(), target.resource, _validation(request)
        content_type = request.headers.get("Content-Type", "")
        warnings: tuple[str, ...] = ()

        def change(current: Obj) -> Obj:
            nonlocal warnings
            shown = resource.outward(current) if resource.outward else current
            decoded = patch.patched(content_type, body, shown, resource.info.gvk, validation)
            warnings = decoded.warnings
            obj = resource.inward(decoded.obj) if resource.inward else decoded.obj
            _same_namespace(obj, target)
            _same_name(obj, target)
            return obj

        written = await self.writer.modify(target, change, subresource=subresource)
        return self._written(request, resource, written, warnings)

    async def _delete(self, target: Target, request: Request) -> Reply:
        asked = deletion.options(await self._delete_options(request), request.query)
        done = await deletion.delete(self.writer, target, asked)
        if done.gone and not target.resource.returns_deleted:
            return json_answer(_deleted_status(target, done))
        return json_answer(view_of(request, target.resource).one(done.body))

    async def _delete_collection(self, resource: Resource, route: Route, request: Request) -> Reply:
        asked = deletion.options(await self._delete_options(request), request.query)
        namespace = route.namespace if resource.info.namespaced else ""
        page = await listing.page(
            self.writer.cache, resource.prefix, listing.options(request.query, resource.info), namespace
        )
        deleted: list[Entry] = []
        for entry in page.entries:
            try:
                await deletion.delete(self.writer, Target(resource, entry.namespace, entry.name), asked)
            except errors.StatusError as error:
                if error.code != 404:  # somebody else was faster: it is gone, as asked
                    raise
            deleted.append(entry)
        return json_answer(view_of(request, resource).many(deleted, page.metadata()))

    async def _scale(self, target: Target, request: Request) -> Reply:
        if request.method == "GET":
            return json_answer(subresources.scale_of(self.writer.get(target).parse()))
        body, content_type = await request.body(), request.headers.get("Content-Type", "")

        def change(current: Obj) -> Obj:
            if request.method == "PUT":
                scale = codec.decode_body(body, content_type, subresources.SCALE, _validation(request)).obj
            else:
                scale = patch.apply(content_type, body, subresources.scale_of(current), subresources.SCALE)
            return subresources.scaled(current, scale)

        written = await self.writer.modify(target, change)
        return json_answer(subresources.scale_of(orjson.loads(written.body)))

    async def _bind(self, route: Route, request: Request) -> Reply:
        binding = (await self._decode(request, subresources.BINDING)).obj
        resource = self.registry.core("pods")
        name = route.name or (binding.get("metadata") or {}).get("name", "")
        target = Target(resource, route.namespace or "", name, _dry_run(request))
        await self.writer.modify(
            target, lambda pod: subresources.bound(pod, binding, target, now()), subresource="binding"
        )
        return json_answer(subresources.success(201), 201)

    async def _evict(self, target: Target, request: Request) -> Reply:
        eviction = (await self._decode(request, subresources.EVICTION)).obj
        asked = deletion.options(eviction.get("deleteOptions") or {}, request.query)
        await deletion.delete(self.writer, target, replace(asked, dry_run=asked.dry_run or target.dry_run))
        return json_answer(subresources.success(201), 201)

    async def _finalize(self, target: Target, request: Request) -> Reply:
        decoded = await self._decode(request, target.resource.info.gvk)
        asked = decoded.obj
        _same_name(asked, target)
        rv = (asked.get("metadata") or {}).get("resourceVersion")

        def change(current: Obj) -> Obj:
            metadata = current["metadata"] | ({"resourceVersion": rv} if rv else {})
            return subresources.finalized(current, asked) | {"metadata": metadata}

        written = await self.writer.modify(target, change, subresource="finalize", pinned=bool(rv))
        return self._written(request, target.resource, written, decoded.warnings)

    async def _decode(self, request: Request, gvk: GVK) -> codec.Decoded:
        body = await request.body()
        decoded = codec.decode_body(body, request.headers.get("Content-Type"), gvk, _validation(request))
        decoded.obj.setdefault("metadata", {})
        return decoded

    @staticmethod
    async def _delete_options(request: Request) -> dict[str, Any]:
        body = await request.body()
        if not body.strip():
            return {}
        return codec.decode_body(body, request.headers.get("Content-Type"), DELETE_OPTIONS, "Ignore").obj

    @staticmethod
    def _written(request: Request, resource: Resource, written: Written, warnings: tuple[str, ...]) -> Answer:
        body = view_of(request, resource).one(written.body)
        return json_answer(body, 201 if written.created else 200, warnings)


def _in_scope(resource: Resource, route: Route) -> bool:
    if not resource.info.namespaced:
        return route.namespace is None
    return route.namespace is not None or not route.name


def _same_namespace(obj: Obj, target: Target) -> None:
    metadata = obj.setdefault("metadata", {})
    if not target.resource.info.namespaced:
        metadata.pop("namespace", None)
        return
    if metadata.get("namespace", "") not in ("", target.namespace):
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    metadata["namespace"] = target.namespace


def _same_name(obj: Obj, target: Target) -> None:
    name = obj.setdefault("metadata", {}).get("name") or target.name
    if name != target.name:
        raise errors.bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
    obj["metadata"]["name"] = name


def _deleted_status(target: Target, done: Deleted) -> dict[str, Any]:
    details = {"name": target.name, "kind": target.resource.plural, "uid": orjson.loads(done.body)["metadata"]["uid"]}
    if target.resource.info.group:
        details["group"] = target.resource.info.group
    return subresources.success(200, details)
