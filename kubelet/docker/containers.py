"""What is true of any Docker container, sandbox or not: making, looking, ending, removing.

Ending is not `docker stop`, which would hold a thread for the whole grace period: the signal is sent, the pidfd awaited in the
loop, and then Docker asked until it admits the exit. Removing and looking have no author to blame, so whatever dockerd
refuses there is worth another try (RuntimeUnavailable).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

import docker.errors
from docker.api.client import APIClient

from kubelet.docker import spec
from kubelet.docker.engine import Conflict, Engine
from kubelet.docker.spec import Owner
from kubelet.hints import Hints
from kubelet.runtime import ContainerState, NotFound, RuntimeUnavailable

KILLED = 30.0  # seconds after SIGKILL in which a process has to be gone
_POLL = 0.2  # where the process cannot be seen from here
_SETTLE = (
    0.005,
    0.01,
    0.015,
    0.01,
    0.01,
    0.01,
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.0,
    2.0,
    4.0,
)  # Docker needs some 40 ms


class Containers:
    def __init__(self, engine: Engine, hints: Hints, owner: Owner) -> None:
        self.engine = engine
        self._hints = hints
        self.exits = hints.exits
        self.owner = owner

    async def create(self, operation: str, subject: str, body: dict[str, Any], name: str) -> str:
        """Its id. NotFound names a missing image; a container of that name that never started is replaced."""

        def create(client: APIClient) -> str:
            return str(client.create_container_from_config(body, name)["Id"])  # type: ignore[no-untyped-call]

        try:
            return await self.engine.call(operation, subject, create)
        except Conflict:
            # Left by a call that was cut short, by us or by our predecessor.
            document = await self.inspect(operation, name)
            if spec.container_status(document, None).state is not ContainerState.CREATED:
                raise
            await self.remove(operation, document["Id"])
        return await self.engine.call(operation, subject, create)

    async def start(self, operation: str, container_id: str) -> dict[str, Any]:
        """Start and look; its exit will be noticed."""
        await self.engine.call(operation, container_id[:12], lambda client: client.start(container_id))
        document = await self.inspect(operation, container_id)
        if document["State"]["Running"]:
            self._hints.adopted(container_id, document["State"]["Pid"])
        return document

    async def inspect(self, operation: str, container_id: str) -> dict[str, Any]:
        def inspect(client: APIClient) -> dict[str, Any]:
            return dict(client.inspect_container(container_id))

        return await self.engine.ask(operation, container_id[:12], inspect)

    async def list(self, operation: str, *labels: str) -> list[dict[str, Any]]:
        """This node's containers in all states that carry `labels` ("key" or "key=value")."""
        filters = {"label": [*self.owner.filters, *labels]}

        def rows(client: APIClient) -> list[dict[str, Any]]:
            return list(client.containers(all=True, filters=filters))

        return await self.engine.ask(operation, "", rows)

    async def end(self, operation: str, document: dict[str, Any], *, first: str, timeout: float) -> None:
        """Signal `first`, SIGKILL after `timeout` seconds; back when Docker shows the exit."""
        container_id = document["Id"]
        if not document["State"]["Running"]:
            return
        self.exits.watch(container_id, document["State"]["Pid"])
        gone = False
        if timeout > 0:
            await self._kill(operation, container_id, first)
            gone = await self._gone(operation, container_id, timeout)
        if not gone:
            await self._kill(operation, container_id, "SIGKILL")
            if not await self._gone(operation, container_id, KILLED):
                raise RuntimeUnavailable(f"docker: container {container_id[:12]} survives SIGKILL for {KILLED:g} s")
        await self.settled(operation, container_id)

    async def settled(self, operation: str, container_id: str) -> None:
        """Back when Docker admits that it does not run."""
        for pause in (*_SETTLE, 0.0):
            if not await self._runs(operation, container_id):
                return
            await asyncio.sleep(pause)
        raise RuntimeUnavailable(f"docker: container {container_id[:12]} has exited, but dockerd does not admit it")

    async def remove(self, operation: str, container_id: str) -> None:
        """With its anonymous volumes, killing what runs. Not there is success."""

        def remove(client: APIClient) -> None:
            client.remove_container(container_id, v=True, force=True)

        with contextlib.suppress(NotFound):
            await self.engine.ask(operation, container_id[:12], remove)

    async def _kill(self, operation: str, container_id: str, signal: str) -> None:
        def kill(client: APIClient) -> None:
            try:
                client.kill(container_id, signal)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # it has ended by itself
                    raise

        await self.engine.ask(operation, container_id[:12], kill)

    async def _gone(self, operation: str, container_id: str, timeout: float) -> bool:
        if self.exits.known(container_id):
            return await self.exits.wait(container_id, timeout)
        end = time.monotonic() + timeout
        while await self._runs(operation, container_id):
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_POLL)
        return True

    async def _runs(self, operation: str, container_id: str) -> bool:
        try:
            return bool((await self.inspect(operation, container_id))["State"]["Running"])
        except NotFound:
            return False


def link_log(link: str, target: str) -> None:
    """Let <podLogsDir>/<pod>/<container>/<n>.log point at Docker's file, whatever stood there."""
    os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
    temporary = f"{link}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, link)


def unlink_log(link: str) -> None:
    with contextlib.suppress(OSError):
        if os.path.islink(link):
            os.unlink(link)
