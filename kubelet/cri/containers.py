"""Containers: making, starting, looking, stopping, changing, removing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import signal

from kubelet import peer
from kubelet.cri import calls, spec
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import SETTLE, Client
from kubelet.cri.images import Images
from kubelet.cri.processes import NOBODY, Details, Process, details_of
from kubelet.exits import pidfd_of
from kubelet.hints import Hints
from kubelet.runtime import (
    ContainerConfig,
    ContainerState,
    ContainerStatus,
    LinuxResources,
    NotFound,
    RuntimeRefused,
    RuntimeUnavailable,
    SandboxConfig,
)


class Containers:
    def __init__(self, client: Client, owner: spec.Owner, hints: Hints, images: Images) -> None:
        self._client = client
        self._owner = owner
        self._hints = hints
        self._images = images
        self._details: dict[str, Details] = {}  # what does not change in a container's life
        self._processes: dict[str, Process] = {}  # of running ones
        self._signals: dict[str, str] = {}  # stop signals of their own; "" where the image's is meant

    async def create(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str:
        config = await self._complete(config)
        with spec.speaking():
            request = pb.CreateContainerRequest(
                pod_sandbox_id=sandbox_id,
                config=spec.container(config, sandbox, self._owner),
                sandbox_config=spec.sandbox(sandbox, self._owner),
            )
        subject = f"{sandbox.pod.name}/{config.name}"
        try:
            told = await self._client.call(calls.CREATE, request, subject=subject)
        except RuntimeRefused as error:
            if "reserved" not in error.message or not await self._unreserved(sandbox_id, config):
                raise
            told = await self._client.call(calls.CREATE, request, subject=subject)
        self._hints.made(told.container_id, sandbox.pod.uid)
        self._signals[told.container_id] = config.stop_signal
        return told.container_id

    async def _complete(self, config: ContainerConfig) -> ContainerConfig:
        """CRI wants a user where there is a group, and no oom_score_adj below what the runtime may give."""
        security, resources = config.security, config.resources
        if security.run_as_group is not None and not security.run_as_user:
            user = (await self._images.user(config.image)).partition(":")[0] or "0"
            config = dataclasses.replace(config, security=dataclasses.replace(security, run_as_user=user))
        if resources.oom_score_adj < 0:
            score = await self._allowed(resources.oom_score_adj)
            config = dataclasses.replace(config, resources=dataclasses.replace(resources, oom_score_adj=score))
        return config

    async def _allowed(self, score: int) -> int:
        path = self._client.socket_path
        try:
            return await asyncio.to_thread(peer.oom_score, score, path)
        except OSError as error:
            raise RuntimeUnavailable(f"cri: {path}: {error.strerror or error}") from error

    async def _unreserved(self, sandbox_id: str, config: ContainerConfig) -> bool:
        """Whether the name was held by one that never started, which is gone now: left by a call that was cut short, by us or
        by our predecessor."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=sandbox_id))
        listed = await self._client.ask(calls.LIST, request)
        for each in listed.containers:
            same = (each.metadata.name, each.metadata.attempt) == (config.name, config.attempt)
            if same and each.state == pb.CONTAINER_CREATED:
                await self.remove(each.id)
                return True
        return False

    async def start(self, container_id: str) -> ContainerStatus | None:
        request = pb.StartContainerRequest(container_id=container_id)
        await self._client.call(calls.START, request, subject=container_id[:12])
        try:  # its process is found and watched, before it may end
            status = await self.status(container_id)
        except (RuntimeUnavailable, NotFound):
            return None
        if status.state is not ContainerState.RUNNING:
            self._hints.ended(container_id)
        return status

    async def stop(self, container_id: str, timeout: float) -> None:
        with contextlib.suppress(NotFound):
            seconds = math.ceil(await self._signalled(container_id, timeout))
            request = pb.StopContainerRequest(container_id=container_id, timeout=seconds)
            limit = self._client.timeout + seconds
            await self._client.ask(calls.STOP, request, subject=container_id[:12], timeout=limit)
        await self.settled(container_id)  # containerd 1.6 comes back early from one that was ending by itself
        self._processes.pop(container_id, None)

    async def _signalled(self, container_id: str, timeout: float) -> float:
        """What is left of the grace period. A container with a stop signal of its own is sent it here and given its time:
        runtimes before containerd 2.1 know only the image's."""
        if timeout <= 0:
            return 0.0
        if self._signals.get(container_id) == "":
            return timeout
        status = await self.status(container_id)
        name = self._signals[container_id] = status.annotations.get(spec.STOP_SIGNAL, "")
        if not name or status.state is not ContainerState.RUNNING:
            return timeout
        number, descriptor = _number(name), pidfd_of(status.pid, container_id)
        if number is None or descriptor is None:
            return timeout  # not to be seen from here: the runtime's own signal has to do
        try:
            self._hints.adopted(container_id, status.pid)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
        if self._hints.exits.known(container_id):
            await self._hints.exits.wait(container_id, timeout)
        return 0.0

    async def remove(self, container_id: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id)
        with contextlib.suppress(NotFound):
            try:
                await self._client.call(calls.REMOVE, request, subject=container_id[:12])
            except (
                RuntimeRefused
            ):  # containerd 1.6, of one that was ending just then: "is still running, to stop first"
                await self.stop(container_id, 0)
                await self._client.ask(calls.REMOVE, request, subject=container_id[:12])

    async def status(self, container_id: str) -> ContainerStatus:
        """The verbose answer is asked for once, and once more for the process."""
        verbose = container_id not in self._details
        answer = await self._look(container_id, verbose=verbose)
        if answer.status.state == pb.CONTAINER_RUNNING and not verbose and container_id not in self._processes:
            answer = await self._look(container_id, verbose=True)
        running = answer.status.state == pb.CONTAINER_RUNNING
        if answer.info:
            details = details_of(answer.info)
            self._details[container_id] = details
            if running:
                self._processes[container_id] = details.process
                self._hints.adopted(container_id, details.process.pid)
        if not running:
            self._processes.pop(container_id, None)
        details = self._details.get(container_id, Details())
        process = self._processes.get(container_id, NOBODY)
        found = spec.container_status(answer.status, details.sandbox_id, details.tty)
        return dataclasses.replace(
            found, pid=process.pid, cgroup=process.cgroup, resources=found.resources or process.resources
        )

    async def settled(self, container_id: str) -> None:
        """Back when the runtime admits that it does not run."""
        for pause in (*SETTLE, 0.0):
            if not await self._runs(container_id):
                return
            await asyncio.sleep(pause)
        raise RuntimeUnavailable(f"cri: container {container_id[:12]} has exited, but the runtime does not admit it")

    async def _runs(self, container_id: str) -> bool:
        try:
            return (await self._look(container_id, verbose=False)).status.state == pb.CONTAINER_RUNNING
        except NotFound:
            return False

    async def _look(self, container_id: str, *, verbose: bool) -> pb.ContainerStatusResponse:
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=verbose)
        return await self._client.ask(calls.CONTAINER_STATUS, request, subject=container_id[:12])

    async def update(self, container_id: str, resources: LinuxResources) -> None:
        with spec.speaking():
            request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=spec.resources(resources))
        await self._client.call(calls.UPDATE, request, subject=container_id[:12])
        self._processes.pop(container_id, None)

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await self._client.call(calls.REOPEN_LOG, request, subject=container_id[:12])

    def forget(self, container_id: str) -> None:
        for memory in (self._details, self._processes, self._signals):
            memory.pop(container_id, None)


def _number(name: str) -> int | None:
    """Of SIGTERM, SIGRTMIN+3, SIGRTMAX-1, as the API writes signals; None for what is none."""
    base, plus, forth = name.partition("+")
    base, minus, back = base.partition("-")
    try:
        number = int(signal.Signals[base]) + (int(forth) if plus else 0) - (int(back) if minus else 0)
    except (KeyError, ValueError):
        return None
    return number if number in signal.valid_signals() else None
