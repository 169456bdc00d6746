"""The kubelet's HTTPS API on 10250: what `kubectl logs` and `exec` reach through the API server, and Prometheus directly.

    /healthz /healthz/ping            all is well, or what is not
    /pods /runningpods/               what was asked of this node; what runs on it
    /containerLogs/{ns}/{pod}/{c}     kubelet.logs
    /exec /attach /portForward        kubelet.streams, over WebSocket or SPDY/3.1
    /run                              a command's output, in one piece
    further routes, such as /metrics, are given at construction

Who asks must show a client certificate of the cluster's CA. Until the API server can be asked what that user may do, it may
do as much as upstream's bootstrap policy allows its groups: everything for the API server and administrators, metrics
for everybody else. (Upstream: pkg/kubelet/server/server.go.)
"""

from __future__ import annotations

import asyncio
import shlex
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from aiohttp import web

from kube import serving
from kube.errors import UsageError
from kube.meta import to_wire
from kube.pods import ContainerStatus, Pod
from kubelet import logs
from kubelet.runtime import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    ContainerState,
    ExecTimeout,
    NotFound,
    PodRecord,
    Runtime,
    RuntimeRefused,
    RuntimeUnavailable,
)
from kubelet.streams import door
from kubelet.streams.door import Refusal
from metrics import exposition
from metrics.collector import Collector, Identity, identity

Handler = serving.Handler

_ADMINISTRATORS = frozenset({"system:masters", "kubeadm:cluster-admins"})
_API_SERVER = "kube-apiserver-kubelet-client"
_RUN_TIMEOUT = 120.0


class PodSource(Protocol):
    def pods(self) -> Sequence[Pod]:
        """The pods of this node with the status the kubelet last knew, container ids included."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: frozenset[str]


def locate(pod: Pod, container: str, *, previous: bool) -> str:
    """The runtime's id of the container whose log is asked for. Refusal in upstream's words (kubelet_pods.go)."""
    status = _status_of(pod, container)
    names = f'"{container}" in pod "{pod.metadata.name}"'
    if status is None:
        raise Refusal(400, f"container {names} is not available")
    state, last = status.state, status.last_state.terminated
    before = _bare(last.container_id) if last is not None else ""
    if previous:
        if not before:
            raise Refusal(400, f"previous terminated container {names} not found")
        return before
    if state.running is not None:
        return _bare(status.container_id)
    if state.terminated is not None or last is not None:
        found = (_bare(state.terminated.container_id) if state.terminated is not None else "") or before
        if not found:
            raise Refusal(400, f"container {names} is terminated")
        return found
    reason = state.waiting.reason if state.waiting is not None else ""
    match reason:
        case "":
            why = "is waiting to start - no logs yet"
        case "ErrImagePull":
            why = "is waiting to start: image can't be pulled"
        case "ImagePullBackOff":
            why = "is waiting to start: trying and failing to pull image"
        case _:
            why = f"is waiting to start: {reason}"
    raise Refusal(400, f"container {names} {why}")


def _status_of(pod: Pod, container: str) -> ContainerStatus | None:
    both = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    return next((status for status in both if status.name == container), None)


def _bare(container_id: str) -> str:
    """`docker://abc` as `abc`."""
    return container_id.partition("://")[2]


def may(user: User, path: str) -> bool:
    if user.name == _API_SERVER or user.groups & _ADMINISTRATORS:
        return True
    return path in ("/healthz", "/healthz/ping") or path.startswith(("/metrics", "/stats/summary"))


def container_metrics(
    records: Callable[[], Iterable[PodRecord]], cgroup_root: str, pause_image: str
) -> dict[str, Handler]:
    """GET /metrics/cadvisor and /metrics/resource: the containers of `records`, read from the tree below `cgroup_root`."""

    def known() -> dict[str, Identity]:
        found = {}
        for record in list(records()):
            pod = record.pod
            labels = {POD_NAME: pod.name, POD_NAMESPACE: pod.namespace, POD_UID: pod.uid}
            for each in record.sandboxes:
                started = each.created_at.timestamp()
                found[each.id] = identity(each.id, each.id, pause_image, {**labels, CONTAINER_NAME: "POD"}, started)
            for one in record.containers:
                started = one.created_at.timestamp()
                found[one.id] = identity(one.id, one.id, one.image, {**labels, CONTAINER_NAME: one.name}, started)
        return found

    collector = Collector(known, cgroup_root)
    root = "/" + cgroup_root.strip("/")

    def page(render: Callable[[], str]) -> Handler:
        async def answer(_request: web.Request) -> web.Response:
            text = await asyncio.to_thread(render)
            return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

        return answer

    return {
        "/metrics/cadvisor": page(lambda: exposition.cadvisor(collector.snapshot())),
        "/metrics/resource": page(lambda: exposition.resource(collector.snapshot(), root)),
    }


class Server:
    def __init__(
        self,
        source: PodSource,
        runtime: Runtime,
        *,
        checks: Mapping[str, serving.Check],
        routes: Mapping[str, Handler],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`routes`: further GET paths, such as /metrics and /metrics/cadvisor."""
        self._source = source
        self._runtime = runtime
        self._checks = checks
        self._routes = routes
        self._now = now

    def application(self) -> web.Application:
        application = web.Application(middlewares=[_guard])
        router = application.router
        router.add_get("/healthz", serving.health(self._checks))
        router.add_get("/healthz/ping", serving.text("ok"))
        for path in ("/pods", "/pods/"):
            router.add_get(path, self._pods)
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
        for path, further in self._routes.items():
            router.add_get(path, further)
        return application

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
        for pod in self._source.pods():
            meta = pod.metadata
            if (meta.namespace, meta.name) == (wanted["namespace"], wanted["pod"]) and (
                meta.uid == wanted.get("uid", meta.uid)
            ):
                names = {each.name for each in (*pod.spec.containers, *pod.spec.init_containers)}
                if "container" in wanted and wanted["container"] not in names:
                    raise Refusal(404, "container not found")
                return pod
        raise Refusal(404, "pod does not exist")

    def _running(self, request: web.Request) -> str:
        """The id of the running container that a command is meant for."""
        name = request.match_info["container"]
        status = _status_of(self._pod(request), name)
        if status is None or status.state.running is None or not status.container_id:
            raise Refusal(500, f'container not found ("{name}")')
        return _bare(status.container_id)

    # Logs

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        try:
            options = logs.options_from(request.query, self._now())
        except logs.BadOption as error:
            raise Refusal(400, str(error)) from error
        identity = locate(self._pod(request), request.match_info["container"], previous=options.previous)
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
        await response.prepare(request)
        try:
            async for piece in pieces:
                await response.write(piece)
            await response.write_eof()
        finally:
            await pieces.aclose()
        return response

    # Commands

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        identity = self._running(request)
        command = request.query.getall("command", [])
        if not command:
            raise Refusal(400, "you must specify a command")
        return await door.command(request, lambda options: self._runtime.exec(identity, command, options))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        identity = self._running(request)
        return await door.command(request, lambda options: self._runtime.attach(identity, options))

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
        return await door.port_forward(request, self._runtime, self._pod(request).metadata.uid)


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who may, and every refusal as plain text with its status."""
    user = user_of(request)
    if user is None:
        return web.Response(status=401, text="Unauthorized: a client certificate of the cluster's CA is required\n")
    if not may(user, request.path):
        verb = "create" if request.method == "POST" else "get"
        return web.Response(
            status=403, text=f"Forbidden (user={user.name}, verb={verb}, resource=nodes, subresource=proxy)\n"
        )
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


def user_of(request: web.Request) -> User | None:
    """The verified client certificate's CN and Os."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    if not certificate:
        return None
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    name = next((value for key, value in pairs if key == "commonName"), "")
    return User(name, frozenset(value for key, value in pairs if key == "organizationName"))


def tls_context(node: str, certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """Serving TLS from files, or, where none are named, self-signed; clients are verified against `client_ca`."""
    if not client_ca:
        raise UsageError(
            "authentication.x509.clientCAFile is not set: the kubelet's API accepts client certificates only; "
            "name the cluster's CA file (flag --client-ca-file)"
        )
    if bool(certificate) != bool(key):
        missing = "tlsPrivateKeyFile" if certificate else "tlsCertFile"
        raise UsageError(f"{missing}: tlsCertFile and tlsPrivateKeyFile go together; name both or neither")
    if certificate:
        return serving.server_tls(certificate, key, client_ca)
    from kube import selfsigned  # and with it `cryptography`, 8 MB that a node with a certificate does without

    context = selfsigned.context(node)
    try:
        context.load_verify_locations(client_ca)
    except OSError as error:
        raise UsageError(f"authentication.x509.clientCAFile: cannot load {client_ca}: {error}") from error
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@asynccontextmanager
async def serve(server: Server, host: str, port: int, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Serve while the context is open; the port that was bound. UsageError when it cannot be."""
    # Streams end with their client, even one that follows a silent log, and when the daemon does.
    runner = web.AppRunner(
        server.application(),
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
                "(flags --address, --port) to a free address"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
