"""Subresources: the parts of an object that have verbs of their own, as a table of handlers.

`handlers` maps (plural, subresource) to what answers it, whatever the method; a handler refuses the methods it has not. The
subresource `status` is missing here: it is the object itself, seen through another door (`verbs`). `creations` are the
kinds that can only be created, by (group, version, plural). What each one means is in functions of values,
`apiserver.subresources`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import orjson

from apiserver import codec, patch, subresources
from apiserver.http import patching
from apiserver.http.evicting import Evictions
from apiserver.http.exchange import Reply, Request, json_answer
from apiserver.http.reviews import Reviews
from apiserver.http.routes import Route
from apiserver.http.wire import decoded_body, field_validation, method_not_allowed, same_name, target_of, written_answer
from apiserver.pipeline import Obj, Target, Writer, now
from apiserver.proxying import Proxying
from apiserver.registry import Registry
from apiserver.relay import Relay

SCALED: Final = ("deployments", "replicasets", "statefulsets", "replicationcontrollers")
Handler = Callable[[Target, Request], Awaitable[Reply]]
Creation = Callable[[Route, Request], Awaitable[Reply]]


def handlers(writer: Writer, relay: Relay, proxying: Proxying, reviews: Reviews) -> Mapping[tuple[str, str], Handler]:
    parts, streams = Parts(writer), Streams(writer, relay)
    return {
        **{(plural, "scale"): parts.scale for plural in SCALED},
        ("pods", "binding"): parts.bind,
        ("pods", "eviction"): Evictions(writer).evict,
        ("namespaces", "finalize"): parts.finalize,
        ("serviceaccounts", "token"): reviews.issue,
        ("pods", "log"): streams.log,
        ("pods", "exec"): streams.exec,
        ("pods", "attach"): streams.attach,
        ("pods", "portforward"): streams.port_forward,
        ("nodes", "proxy"): proxying.nodes,
        ("pods", "proxy"): proxying.pods,
        ("services", "proxy"): proxying.services,
    }


def creations(registry: Registry, writer: Writer, reviews: Reviews) -> Mapping[tuple[str, str, str], Creation]:
    """Kinds that can only be created: nothing stores them."""
    parts, pods = Parts(writer), registry.core("pods")

    async def binding(route: Route, request: Request) -> Reply:
        return await parts.bind(target_of(pods, route, request), request)

    return {("", "v1", "bindings"): binding, **reviews.creations()}


@dataclass(frozen=True, slots=True)
class Parts:
    writer: Writer

    async def scale(self, target: Target, request: Request) -> Reply:
        if request.method == "GET":
            return json_answer(subresources.scale_of(self.writer.get(target).parse()))
        if request.method not in ("PUT", "PATCH"):
            raise method_not_allowed(target.resource, request)
        target = replace(target, part="scale")
        if request.method == "PATCH":
            patching.check_options(request)
            if patching.is_apply(request):
                return await self._apply_scale(target, request)
        body, content_type = await request.body(), request.headers.get("Content-Type", "")

        validation = field_validation(request)
        warnings: tuple[str, ...] = ()

        def change(current: Obj) -> Obj:
            nonlocal warnings
            if request.method == "PUT":
                decoded = codec.decode_body(body, content_type, subresources.SCALE, validation)
            else:
                shown = subresources.scale_of(current)
                decoded = patch.patched(content_type, body, shown, subresources.SCALE, validation)
            warnings = decoded.warnings
            same_name(decoded.obj, target)
            return subresources.scaled(current, decoded.obj)

        written = await self.writer.modify(target, change)
        scale = subresources.scale_of(orjson.loads(written.body))
        return json_answer(scale, warnings=(*warnings, *written.warnings))

    async def _apply_scale(self, target: Target, request: Request) -> Reply:
        asked = await patching.applied_body(request)
        asked = replace(asked, config=patching.config_of_scale(target, asked.config))
        written = await patching.applied(self.writer, target, asked)
        scale = subresources.scale_of(orjson.loads(written.body))
        return json_answer(scale, warnings=(*asked.warnings, *written.warnings))

    async def bind(self, target: Target, request: Request) -> Reply:
        """Also for POST to the collection `bindings`, whose body alone names the pod."""
        if request.method != "POST":
            raise method_not_allowed(target.resource, request)
        binding = (await decoded_body(request, subresources.BINDING)).obj
        target = target if target.name else replace(target, name=(binding.get("metadata") or {}).get("name", ""))
        await self.writer.modify(
            target, lambda pod: subresources.bound(pod, binding, target, now()), subresource="binding"
        )
        return json_answer(subresources.success(201), 201)

    async def finalize(self, target: Target, request: Request) -> Reply:
        if request.method != "PUT":
            raise method_not_allowed(target.resource, request)
        decoded = await decoded_body(request, target.resource.info.gvk)
        asked = decoded.obj
        same_name(asked, target)
        rv = (asked.get("metadata") or {}).get("resourceVersion")

        def change(current: Obj) -> Obj:
            metadata = current["metadata"] | ({"resourceVersion": rv} if rv else {})
            return subresources.finalized(current, asked) | {"metadata": metadata}

        written = await self.writer.modify(target, change, subresource="finalize", pinned=bool(rv))
        return written_answer(request, target.resource, written, decoded.warnings)


@dataclass(frozen=True, slots=True)
class Streams:
    writer: Writer
    relay: Relay

    async def log(self, target: Target, request: Request) -> Reply:
        if request.method != "GET":
            raise method_not_allowed(target.resource, request)
        return await self.relay.logs(self.writer.get(target).parse(), request)

    async def exec(self, target: Target, request: Request) -> Reply:
        return await self._upgrade("exec", target, request)

    async def attach(self, target: Target, request: Request) -> Reply:
        return await self._upgrade("attach", target, request)

    async def port_forward(self, target: Target, request: Request) -> Reply:
        return await self._upgrade("portForward", target, request)

    async def _upgrade(self, what: str, target: Target, request: Request) -> Reply:
        if request.method not in ("GET", "POST"):
            raise method_not_allowed(target.resource, request)
        return await self.relay.upgrade(what, self.writer.get(target).parse(), request)
