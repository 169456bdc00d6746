"""The routes, their answers, and the guard before them: who may, and every refusal as plain text with its status."""

from __future__ import annotations

import shlex
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from aiohttp import hdrs, web

from kube import serving
from kube.errors import UsageError
from kube.meta import to_wire
from kube.pods import Pod
from kubelet.containerlogs import logs
from kubelet.runtime import (
    ContainerState,
    ExecTimeout,
    NotFound,
    Runtime,
    RuntimeRefused,
    RuntimeUnavailable,
    Stream,
    StreamOptions,
)
from kubelet.server import debug, node_logs, whose
from kubelet.server.access import Access
from kubelet.streams import door
from kubelet.streams.door import Refusal
from kubelet.streams.lasting import Lasting

Handler = serving.Handler
# Around a request: its method, the root of its path, readwrite or readonly.
Measure = Callable[[str, str, str], AbstractContextManager[None]]

Guard = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

_RUN_TIMEOUT: Final = 120.0


class PodSource(Protocol):
    def pods(self) -> Sequence[Pod]:
        """The pods of this node with the status the kubelet last knew, container ids included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """What there is to show, and what of it is shown. `routes` are further GET paths."""

    checks: Mapping[str, serving.Check] = field(default_factory=dict)
    routes: Mapping[str, Handler] = field(default_factory=dict)
    log_directory: str = ""  # of /logs/; "" is none
    log_query: bool = False  # enableSystemLogQuery: /logs/?query=UNIT
    commands: bool = True  # enableDebuggingHandlers: exec, attach, run, port-forward, container logs, ...
    stream_patience: float = 0.0  # streamingConnectionIdleTimeout, 0 is for ever


class Server:
    def __init__(
        self,
        source: PodSource,
        runtime: Runtime,
        access: Access,
        pages: Pages,
        *,
        own_uid: Callable[[str], str] = lambda uid: uid,
        measure: Measure = lambda _method, _path, _server: nullcontext(),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`own_uid`: by which uid the kubelet knows what the API knows by another, as it does the mirror of a static pod."""
        self._source = source
        self._runtime = runtime
        self._access = access
        self._pages = pages
        self._own_uid = own_uid
        self._measure = measure
        self._now = now

    def application(self, *, read_only: bool = False) -> web.Application:
        """`read_only`: no commands, and nobody is asked who he is."""
        measured = self._measured("readonly" if read_only else "readwrite")
        guards = [measured, _refusals] if read_only else [measured, self._guard, _refusals]
        application = web.Application(middlewares=[_middleware(guard) for guard in guards])
        router = application.router
        checks = self._pages.checks
        router.add_get("/healthz", serving.health(checks))
        for name, check in checks.items():
            router.add_get(f"/healthz/{name}", serving.health({name: check}))
        for path in ("/pods", "/pods/"):
            router.add_get(path, self._pods)
        for path, further in self._pages.routes.items():
            if not read_only or path != "/configz":
                router.add_get(path, further)
        if not read_only:
            (self._add_commands if self._pages.commands else _add_refusals)(router)
        return application

    def _add_commands(self, router: web.UrlDispatcher) -> None:
        for path in ("/runningpods", "/runningpods/"):
            router.add_get(path, self._running_pods)
        router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for verb, handler in (("exec", self._exec), ("attach", self._attach), ("run", self._run)):
            for path in (
                f"/{verb}/{{namespace}}/{{pod}}/{{container}}",
                f"/{verb}/{{namespace}}/{{pod}}/{{uid}}/{{container}}",
            ):
                router.add_get(path, handler)
                router.add_post(path, handler)
        for path in ("/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"):
            router.add_get(path, self._port_forward)
            router.add_post(path, self._port_forward)
        router.add_put("/debug/flags/v", debug.verbosity)
        for path in ("/debug/pprof/", "/debug/pprof/{name}"):
            router.add_get(path, debug.profile)
        if self._pages.log_directory:
            router.add_get("/logs", _to_directory)
            router.add_get("/logs/{path:.*}", self._node_logs)

    # Before every answer

    def _measured(self, server: str) -> Guard:
        async def measured(request: web.Request, handler: Handler) -> web.StreamResponse:
            # What is none of ours has no series of its own: strangers could make any number of them.
            resource = request.match_info.route.resource
            path = root_of(resource.canonical) if resource is not None else "other"
            method = request.method if request.method in hdrs.METH_ALL else "other"
            with self._measure(method, path, server):
                return await handler(request)

        return measured

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        user = await self._access.who(certificate, request.headers.get("Authorization", ""))
        if user is None:
            return web.Response(status=401, text="Unauthorized")
        denied = await self._access.refused(user, request.method, request.path)
        if denied is not None:
            return web.Response(status=denied.status, text=denied.message)
        return await handler(request)

    # What is there

    async def _pods(self, _request: web.Request) -> web.StreamResponse:
        items = [{**to_wire(pod), "apiVersion": "v1", "kind": "Pod"} for pod in self._source.pods()]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _running_pods(self, _request: web.Request) -> web.StreamResponse:
        items = []
        for record in await self._runtime.list_pods():
            running = [each for each in record.containers if each.state is ContainerState.RUNNING]
            if running:
                pod = record.pod
                containers = [{"name": each.name, "image": each.image, "resources": {}} for each in running]
                metadata = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
                items.append({"metadata": metadata, "spec": {"containers": containers}, "status": {}})
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    def _pod(self, request: web.Request) -> Pod:
        wanted = request.match_info
        uid = self._own_uid(wanted["uid"]) if "uid" in wanted else ""
        for pod in self._source.pods():
            meta = pod.metadata
            if (meta.namespace, meta.name) == (wanted["namespace"], wanted["pod"]) and uid in ("", meta.uid):
                if "container" in wanted and wanted["container"] not in whose.names_of(pod):
                    raise Refusal(404, "container not found")
                return pod
        raise Refusal(404, "pod does not exist")

    def _running(self, request: web.Request) -> str:
        return whose.running(self._pod(request), request.match_info["container"])

    # Logs

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        try:
            options = logs.options_from(request.query, self._now())
        except logs.BadOption as error:
            raise Refusal(400, str(error)) from error
        identity = whose.locate(self._pod(request), request.match_info["container"], previous=options.previous)
        status = await self._runtime.container_status(identity)

        async def running() -> bool:
            try:
                return (await self._runtime.container_status(identity)).state is ContainerState.RUNNING
            except NotFound:
                return False
            except RuntimeUnavailable:
                return True  # unknown: the follower keeps waiting

        try:
            pieces = logs.read(status.log_path, options, running)
            await anext(pieces)
        except OSError as error:
            raise Refusal(
                500, f"the log of container {identity} cannot be read: {status.log_path}: {error.strerror}"
            ) from error
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        try:
            await response.prepare(request)
            async for piece in pieces:
                await response.write(piece)
            await response.write_eof()
        finally:
            await pieces.aclose()
        return response

    async def _node_logs(self, request: web.Request) -> web.StreamResponse:
        return await node_logs.answer(request, self._pages.log_directory, query=self._pages.log_query)

    # Commands

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        identity = self._running(request)
        command = request.query.getall("command", [])
        if not command:
            raise Refusal(400, "you must specify a command")
        return await door.command(
            request, lambda options: self._runtime.exec(identity, command, options), self._pages.stream_patience
        )

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        identity = self._running(request)
        once = whose.stdin_once(self._pod(request), request.match_info["container"])

        async def begin(options: StreamOptions) -> Stream:
            stream = await self._runtime.attach(identity, options)
            return stream if once else Lasting(stream)

        return await door.command(request, begin, self._pages.stream_patience)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        identity = self._running(request)
        try:
            command = shlex.split(request.query.get("cmd", ""))
        except ValueError as error:
            raise Refusal(400, f"cmd: {error}") from error
        if not command:
            raise Refusal(400, "cmd: the command to run is missing")
        done = await self._runtime.exec_sync(identity, command, _RUN_TIMEOUT)
        if done.exit_code:
            text = f"command terminated with exit code {done.exit_code}\n".encode()
            return web.Response(status=500, body=done.stdout + done.stderr + text, content_type="text/plain")
        return web.Response(body=done.stdout + done.stderr, content_type="text/plain")

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        uid = self._pod(request).metadata.uid
        return await door.port_forward(request, self._runtime, uid, self._pages.stream_patience)


def root_of(path: str) -> str:
    """A path as the request metrics name it."""
    first, _, rest = path.strip("/").partition("/")
    return f"metrics/{rest.partition('/')[0]}" if first == "metrics" and rest else first


def _middleware(guard: Guard) -> Any:
    """aiohttp marks a middleware by an attribute, which a method cannot have."""

    @web.middleware
    async def each(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await guard(request, handler)

    return each


async def _to_directory(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPMovedPermanently("/logs/")


def _add_refusals(router: web.UrlDispatcher) -> None:
    """enableDebuggingHandlers: false."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=405, text="Debug endpoints are disabled.")

    for first in ("run", "exec", "attach", "portForward", "containerLogs", "runningpods", "logs", "debug"):
        router.add_route("*", f"/{first}/{{rest:.*}}", refuse)


async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as error:
        answer = web.Response(status=error.status, text=error.message)
        for name, value in error.headers:
            answer.headers.add(name, value)
        return answer
    except NotFound as error:
        return web.Response(status=404, text=error.message)
    except ExecTimeout as error:
        return web.Response(status=504, text=error.message)
    except RuntimeRefused as error:
        return web.Response(status=500, text=error.message)
    except RuntimeUnavailable as error:
        return web.Response(status=503, text=str(error))


@asynccontextmanager
async def serve(
    application: web.Application, host: str, port: int, tls: ssl.SSLContext | None, *, flag: str = "--port"
) -> AsyncIterator[int]:
    """Serve while the context is open; the port that was bound. UsageError when it cannot be."""
    # Streams end with their client, even one that follows a silent log, and when the daemon does.
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=0.5,
        handler_cancellation=True,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port, ssl_context=tls, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host or '*'}:{port} ({error.strerror or error}); set address and port "
                f"(flags --address, {flag}) to a free address"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
