"""postStart and preStop: a command, an HTTP GET, a TCP connect or a sleep, once.

Upstream's ways (pkg/kubelet/lifecycle/handlers.go): whatever an HTTP server answers is good, it only must answer; an https
hook that meets a plain HTTP server is tried again as http, without Authorization. A tcpSocket is connected to; upstream
takes it and then fails every time. Nothing here has a time limit of its own: preStop has the grace period, postStart none.
"""

import asyncio
from collections.abc import Callable

import msgspec

from kube.errors import Retry
from kube.pods import Container, HTTPGetAction, LifecycleHandler, TCPSocketAction
from kubelet.httpget import BodyMissing, NoAnswer, NoPort, NotTls, address, dial, fetch, port_number
from kubelet.runtime import ExecTimeout, Runtime, RuntimeRefused

UNLIMITED = 365 * 86_400.0  # seconds; the runtime wants a number
SHOWN = 1024  # bytes of what a command printed


class HookFailed(Exception):
    """Why; may hold what the hook printed, so it is for the log and not for an Event, which more people can read."""


class Hooks:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.fallbacks = 0  # https hooks that were answered in plain HTTP

    async def run(
        self,
        hook: LifecycleHandler,
        container: Container,
        container_id: str,
        pod_ip: str,
        fell_back: Callable[[str], None],
    ) -> None:
        """`fell_back(host and port)` is called when an https hook was answered in plain HTTP. Raises HookFailed."""
        if hook.exec is not None:
            await self._exec(container, container_id, hook.exec.command)
        elif hook.http_get is not None:
            await self._http(hook.http_get, container, pod_ip, fell_back)
        elif hook.tcp_socket is not None:
            await _tcp(hook.tcp_socket, container, pod_ip)
        elif hook.sleep is not None:
            await asyncio.sleep(hook.sleep.seconds)
        else:
            raise HookFailed("Cannot run handler: invalid handler: a hook is one of exec, httpGet, tcpSocket, sleep")

    async def _exec(self, container: Container, container_id: str, command: tuple[str, ...]) -> None:
        what = f'Exec lifecycle hook ([{" ".join(command)}]) for Container "{container.name}" failed'
        try:
            result = await self._runtime.exec_sync(container_id, command, UNLIMITED)
        except (Retry, RuntimeRefused, ExecTimeout) as error:
            raise HookFailed(f"{what} - error: {error}") from error
        if result.exit_code != 0:
            said = (result.stdout + result.stderr)[:SHOWN].decode(errors="replace")
            why = f"command '{' '.join(command)}' exited with {result.exit_code}"
            raise HookFailed(f'{what} - error: {why}, message: "{said}"')

    async def _http(
        self, action: HTTPGetAction, container: Container, pod_ip: str, fell_back: Callable[[str], None]
    ) -> None:
        try:
            try:
                await fetch(action, container, pod_ip, "lifecycle", timeout=None)
            except NotTls:
                headers = tuple(h for h in action.http_headers if h.name.lower() != "authorization")
                plain = msgspec.structs.replace(action, scheme="HTTP", http_headers=headers)
                await fetch(plain, container, pod_ip, "lifecycle", timeout=None)
                self.fallbacks += 1
                fell_back(address(action.host or pod_ip, port_number(action.port, container)))
        except (NoPort, NoAnswer, BodyMissing) as error:
            what = f'HTTP lifecycle hook ({action.path}) for Container "{container.name}" failed'
            raise HookFailed(f"{what} - error: {error}") from error


async def _tcp(action: TCPSocketAction, container: Container, pod_ip: str) -> None:
    try:
        _, writer = await dial(action.host or pod_ip, port_number(action.port, container))
    except (NoPort, NoAnswer) as error:
        what = f'TCP lifecycle hook ({action.port}) for Container "{container.name}" failed'
        raise HookFailed(f"{what} - error: {error}") from error
    writer.close()
