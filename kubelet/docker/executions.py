"""Commands in running containers: exec_sync for probes and hooks, exec and attach for people."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import urllib.parse
from collections.abc import Sequence

from docker.api.client import APIClient

from kubelet.docker.containers import Containers
from kubelet.docker.engine import Conflict
from kubelet.docker.streams import HijackedStream, hijack
from kubelet.exits import pidfd_of
from kubelet.runtime import (
    Channel,
    ExecResult,
    ExecTimeout,
    RuntimeRefused,
    RuntimeUnavailable,
    StreamOptions,
)

_OUTPUT = 16 * 1024 * 1024  # bytes kept of each stream, CRI's limit
_SETTLE = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)  # between the end of output and the exit code
_NOT_STARTED = b"OCI runtime exec failed"


class Executions:
    def __init__(self, containers: Containers, *, timeout: float) -> None:
        self._containers = containers
        self._engine = containers.engine
        self._timeout = timeout

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """A command that cannot be started is refused; one that outlives `timeout` is killed."""
        identity, stream = await self._open(container_id, command, StreamOptions())
        output = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        limit = timeout or self._timeout
        try:
            async with asyncio.timeout(limit):
                while (piece := await stream.read()) is not None:
                    channel, data = piece
                    output[channel] += data[: max(0, _OUTPUT - len(output[channel]))]
                code = await stream.exit_code()
        except TimeoutError:
            await self._end(identity, container_id)
            raise ExecTimeout(f"command {list(command)!r} timed out after {limit:g}s") from None
        finally:
            await stream.close()
        if code in (126, 127) and output[Channel.STDOUT].startswith(_NOT_STARTED):
            raise RuntimeRefused(output[Channel.STDOUT].decode(errors="replace").strip())
        return ExecResult(code, bytes(output[Channel.STDOUT]), bytes(output[Channel.STDERR]))

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> HijackedStream:
        return (await self._open(container_id, command, options))[1]

    async def attach(self, container_id: str, options: StreamOptions) -> HijackedStream:
        document = await self._containers.inspect("attach", container_id)
        if not document["State"]["Running"]:
            raise Conflict(f"container {container_id} is not running")
        wanted = {"stdin": options.stdin, "stdout": options.stdout, "stderr": options.stderr}
        query = urllib.parse.urlencode({"stream": 1, **{name: int(flag) for name, flag in wanted.items()}})

        async def resize(width: int, height: int) -> None:
            def call(client: APIClient) -> None:
                client.resize(container_id, height=height, width=width)

            with contextlib.suppress(RuntimeRefused):
                await self._engine.call("attach", "", call)

        async def exit_code() -> int:
            return 0

        reader, writer = await hijack(self._engine.socket_path, f"/containers/{container_id}/attach?{query}", None)
        tty, once = bool(document["Config"]["Tty"]), bool(document["Config"].get("StdinOnce"))
        return HijackedStream(reader, writer, tty=tty, resize=resize, exit_code=exit_code, half_close=once)

    async def _open(
        self, container_id: str, command: Sequence[str], options: StreamOptions
    ) -> tuple[str, HijackedStream]:
        def create(client: APIClient) -> str:
            answer = client.exec_create(
                container_id,
                list(command),
                stdin=options.stdin,
                stdout=options.stdout,
                stderr=options.stderr,
                tty=options.tty,
            )
            return str(answer["Id"])

        identity = await self._engine.call("exec", container_id[:12], create)

        async def resize(width: int, height: int) -> None:
            def call(client: APIClient) -> None:
                client.exec_resize(identity, height=height, width=width)

            with contextlib.suppress(RuntimeRefused):  # a command that has ended has no window
                await self._engine.call("exec", "", call)

        async def exit_code() -> int:
            for pause in (*_SETTLE, 0.0):
                running, code, _ = await self._look(identity)
                if not running:
                    return code
                await asyncio.sleep(pause)
            raise RuntimeUnavailable(
                f"docker: the output of {list(command)!r} has ended, but dockerd says it still runs"
            )

        reader, writer = await hijack(
            self._engine.socket_path, f"/exec/{identity}/start", {"Detach": False, "Tty": options.tty}
        )
        return identity, HijackedStream(reader, writer, tty=options.tty, resize=resize, exit_code=exit_code)

    async def _look(self, identity: str) -> tuple[bool, int, int]:
        """Whether it runs, its exit code, its process id."""

        def look(client: APIClient) -> tuple[bool, int, int]:
            answer = client.exec_inspect(identity)
            return bool(answer["Running"]), int(answer.get("ExitCode") or 0), int(answer.get("Pid") or 0)

        return await self._engine.call("exec", "", look)

    async def _end(self, identity: str, container_id: str) -> None:
        """Kill an abandoned command, which the Engine API cannot; best effort."""
        with contextlib.suppress(RuntimeRefused, RuntimeUnavailable):
            running, _, pid = await self._look(identity)
            descriptor = pidfd_of(pid, container_id) if running else None
            if descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                os.close(descriptor)
