"""postStart and preStop: a command, an HTTP GET or a sleep, once.

Upstream's ways (pkg/kubelet/lifecycle/handlers.go): whatever an HTTP server answers is good, it only must answer; an https
hook that meets a plain HTTP server is tried again as http, without Authorization; tcpSocket is accepted by the API for the
sake of old objects and fails. Nothing here has a time limit of its own: preStop has the grace period, postStart none.
"""

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlunsplit

from kube.errors import Retry
from kube.pods import Container, HTTPGetAction, LifecycleHandler
from kube.version import MAJOR, MINOR
from kubelet.prober import get, port_number
from kubelet.runtime import ExecTimeout, Runtime, RuntimeRefused

UNLIMITED = 365 * 86_400.0  # seconds; the runtime wants a number
AGENT = f"kube-lifecycle/{MAJOR}.{MINOR}"


class HookFailed(Exception):
    """Why; may hold what the hook printed, so it is for the log and not for an Event, which more people can read."""


class Hooks:
    """`fell_back()` is called when an https hook was answered in plain HTTP."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def run(
        self,
        hook: LifecycleHandler,
        container: Container,
        container_id: str,
        pod_ip: str,
        fell_back: Callable[[], None],
    ) -> None:
        """Raises HookFailed."""
        if hook.exec is not None:
            await self._exec(container_id, hook.exec.command)
        elif hook.http_get is not None:
            await _http(hook.http_get, container, pod_ip, fell_back)
        elif hook.sleep is not None:
            await asyncio.sleep(hook.sleep.seconds)
        else:
            raise HookFailed("invalid handler: a hook is one of exec, httpGet, sleep")

    async def _exec(self, container_id: str, command: tuple[str, ...]) -> None:
        try:
            result = await self._runtime.exec_sync(container_id, command, UNLIMITED)
        except (Retry, RuntimeRefused, ExecTimeout) as error:
            raise HookFailed(str(error)) from error
        if result.exit_code != 0:
            said = (result.stdout + result.stderr)[:1024].decode(errors="replace")
            raise HookFailed(f"command {list(command)!r} exited with {result.exit_code}: {said}")


async def _http(action: HTTPGetAction, container: Container, pod_ip: str, fell_back: Callable[[], None]) -> None:
    port = port_number(action.port, container) if action.port else 80
    if port is None:
        raise HookFailed(f"couldn't find port: {action.port} in container {container.name}")
    host, scheme = action.host or pod_ip, action.scheme.lower()
    path, _, query = action.path.partition("?")
    rest = (
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        path if path.startswith("/") else f"/{path}",
        query,
        "",
    )
    headers = {"User-Agent": AGENT} | {header.name: header.value for header in action.http_headers}
    try:
        try:
            await get(urlunsplit((scheme, *rest)), headers)
        except ssl.SSLError as error:
            if error.reason not in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                raise
            fell_back()
            plain = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            await get(urlunsplit(("http", *rest)), plain)
    except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
        raise HookFailed(
            f"{action.scheme} GET {host}:{port}{action.path}: {str(error) or type(error).__name__}"
        ) from error
