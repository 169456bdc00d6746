"""Commands in running containers: exec_sync for probes and hooks, exec and attach for people.

The runtime keeps the time of an exec_sync too, but containerd 1.6 does not come back from one whose output is held open by a
grandchild: so the clock here decides, and ending the call ends the command.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Sequence

from kubelet.cri import calls, streams
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import NO_LIMIT, Client, DeadlineExceeded
from kubelet.cri.containers import Containers
from kubelet.runtime import ContainerState, ExecResult, ExecTimeout, RuntimeRefused, StreamOptions

_OUTPUT = 16 * 1024 * 1024  # bytes kept of each stream


class Executions:
    def __init__(self, client: Client, containers: Containers) -> None:
        self._client = client
        self._containers = containers

    async def run(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        limit = timeout or self._client.timeout
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=math.ceil(limit))
        subject = container_id[:12]
        try:
            async with asyncio.timeout(limit):
                told = await self._client.call(calls.EXEC_SYNC, request, subject=subject, timeout=NO_LIMIT)
        except (TimeoutError, DeadlineExceeded):
            raise ExecTimeout(f"command {list(command)!r} timed out after {limit:g}s") from None
        return ExecResult(told.exit_code, told.stdout[:_OUTPUT], told.stderr[:_OUTPUT])

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> streams.SpdyStream:
        request = pb.ExecRequest(
            container_id=container_id,
            cmd=command,
            tty=options.tty,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr and not options.tty,
        )
        told = await self._client.call(calls.EXEC, request, subject=container_id[:12])
        return await streams.connect(told.url, options)

    async def attach(self, container_id: str, options: StreamOptions) -> streams.SpdyStream:
        status = await self._containers.status(container_id)
        if status.state is not ContainerState.RUNNING:
            raise RuntimeRefused(f"container {container_id} is not running")
        options = dataclasses.replace(options, tty=status.tty)
        request = pb.AttachRequest(
            container_id=container_id,
            tty=options.tty,
            stdin=options.stdin,
            stdout=options.stdout,
            stderr=options.stderr and not options.tty,
        )
        told = await self._client.call(calls.ATTACH, request, subject=container_id[:12])
        return await streams.connect(told.url, options)
