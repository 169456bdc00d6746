"""One attempt of a probe: a command in the container, an HTTP GET, a TCP connect, a gRPC health check; spoken from this
node to the pod's address.

The words are upstream's (pkg/probe, pkg/kubelet/prober), because people search for them; where upstream's leave out the
reason, it is added. What could not be tried at all (the runtime is away, a port has no number) is tried three times and
then says nothing about the container. Neither does a command that outlives its time while the runtime itself hangs.
"""

import asyncio

from kube.errors import Retry
from kube.pods import ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction
from kubelet.backoff import spelt
from kubelet.environment import expand
from kubelet.httpget import BodyMissing, NoAnswer, NoPort, address, dial, fetch, port_number
from kubelet.probing.probes import Outcome, Target
from kubelet.runtime import ExecTimeout, Runtime, RuntimeRefused

OUTPUT = 10 * 1024  # bytes of a command's output
SHOWN = 256  # characters of a refusing server's body
TRIES = 3
LATE = 2.0  # seconds after which a runtime that was to end a command itself is not waited for

SILENT = Outcome(None, "the container runtime does not answer")


class Prober:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def attempt(self, target: Target) -> Outcome:
        outcome = await self._once(target)
        for _ in range(TRIES - 1):
            if outcome.healthy is not None or outcome is SILENT:
                break
            outcome = await self._once(target)
        return outcome

    async def _once(self, target: Target) -> Outcome:
        probe, timeout = target.probe, float(max(1, target.probe.timeout_seconds))
        if probe.exec is not None:
            return await self._exec(target, probe.exec, timeout)
        if probe.http_get is not None:
            return await _http(target, probe.http_get, timeout)
        if probe.tcp_socket is not None:
            return await _tcp(target, probe.tcp_socket, timeout)
        if probe.grpc is not None:
            return await _grpc(target, probe.grpc, timeout)
        return Outcome(None, f"missing probe handler for {target.pod.metadata.key}:{target.container.name}")

    async def _exec(self, target: Target, action: ExecAction, timeout: float) -> Outcome:
        known = {variable.name: variable.value for variable in target.container.env if variable.value_from is None}
        command = tuple(expand(word, known) for word in action.command)
        late = Outcome(False, f'command timed out: "{" ".join(command)}" timed out after {spelt(timeout)}')
        try:
            async with asyncio.timeout(timeout + LATE):
                result = await self._runtime.exec_sync(target.container_id, command, timeout)
        except (ExecTimeout, TimeoutError):
            # Of a runtime that hangs itself no container is to die (upstream's kills them all once it goes on).
            return late if await self._answers() else SILENT
        except (Retry, RuntimeRefused) as error:
            return Outcome(None, str(error))
        text = (result.stdout + result.stderr)[:OUTPUT].decode(errors="replace")
        if result.exit_code == 0:
            return Outcome(True, text)
        return Outcome(False, text if text.strip() else f"command exited with {result.exit_code} and said nothing")

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(1):
                return (await self._runtime.status()).runtime_ready
        except (Retry, RuntimeRefused, TimeoutError):
            return False


async def _tcp(target: Target, action: TCPSocketAction, timeout: float) -> Outcome:
    host = action.host or target.pod_ip
    try:
        port = port_number(action.port, target.container)
    except NoPort as error:
        return Outcome(None, str(error))
    try:
        async with asyncio.timeout(timeout):
            _, writer = await dial(host, port)
    except TimeoutError:
        return Outcome(False, f"dial tcp {address(host, port)}: i/o timeout")
    except NoAnswer as error:
        return Outcome(False, str(error))
    writer.close()
    return Outcome(True)


async def _http(target: Target, action: HTTPGetAction, timeout: float) -> Outcome:
    try:
        answer = await fetch(action, target.container, target.pod_ip, "probe", timeout=timeout)
    except (NoPort, BodyMissing) as error:
        return Outcome(None, str(error))
    except NoAnswer as error:
        return Outcome(False, str(error))
    if 200 <= answer.status < 300:
        return Outcome(True, answer.body)
    if 300 <= answer.status < 400:
        return Outcome(True, f"Probe terminated redirects, Response body: {answer.body}", warning=True)
    failed = f"HTTP probe failed with statuscode: {answer.status}"
    # Upstream hides the body: with `host`, a pod's author could read what only the node may ask. What the pod's own
    # address says is the author's own.
    theirs = not action.host and not target.pod.spec.host_network
    said = " ".join(answer.body.split())[:SHOWN] if theirs else ""
    return Outcome(False, f"{failed}, body: {said}" if said else failed)


async def _grpc(target: Target, action: GRPCAction, timeout: float) -> Outcome:
    from kubelet.health import check  # protobuf, for those who need it

    if not 0 < action.port < 65536:
        return Outcome(None, f"invalid port number: {action.port}")
    healthy, message = await check(target.pod_ip, action.port, action.service or "", timeout)
    return Outcome(healthy, message)
