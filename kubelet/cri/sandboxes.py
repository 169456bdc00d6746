"""Sandboxes: the runtime makes them, network and all; what is remembered of one is its addresses and its process."""

from __future__ import annotations

import asyncio
import contextlib
import re

from kubelet import peer
from kubelet.cri import calls, spec
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import SETTLE, Client
from kubelet.cri.processes import NOBODY, Process, details_of
from kubelet.hints import Hints
from kubelet.runtime import (
    IPAddress,
    NetworkUnavailable,
    NotFound,
    RuntimeRefused,
    RuntimeUnavailable,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
)

# What RunPodSandbox says when it was the network that refused: containerd, CRI-O.
_NETWORK = re.compile(
    r"failed to (setup|set up) network|cni (plugin not |config un)initialized|network is not ready"
    r"|failed to create pod network sandbox|error adding .* to CNI network",
    re.IGNORECASE,
)


class Sandboxes:
    def __init__(self, client: Client, owner: spec.Owner, hints: Hints) -> None:
        self._client = client
        self._owner = owner
        self._hints = hints
        self._addresses: dict[str, tuple[IPAddress, ...]] = {}  # of READY ones; they do not change
        self._processes: dict[str, Process] = {}

    async def run(self, config: SandboxConfig) -> str:
        with spec.speaking():
            request = pb.RunPodSandboxRequest(config=spec.sandbox(config, self._owner), runtime_handler=config.handler)
        subject = f"{config.pod.namespace}/{config.pod.name}"
        try:
            # Images of sandboxes are pulled, and CNI plugins may be slow: upstream too waits twice as long.
            told = await self._client.call(
                calls.RUN_SANDBOX, request, subject=subject, timeout=2 * self._client.timeout
            )
        except RuntimeRefused as error:
            if _NETWORK.search(error.message):
                raise NetworkUnavailable(error.message) from error
            raise self._explained(error) from error
        identity = told.pod_sandbox_id
        self._hints.made(identity, config.pod.uid)
        with contextlib.suppress(RuntimeUnavailable, NotFound):  # addresses and process, needed at once
            await self.status(identity)
        return identity

    def _explained(self, error: RuntimeRefused) -> RuntimeRefused:
        """runc says "EOF" when it may not lower the sandbox's oom_score_adj."""
        path, message = self._client.socket_path, error.message
        if "EOF" in message:
            with contextlib.suppress(OSError):
                if not peer.may_lower_oom_scores(path):
                    message += (
                        f" (the runtime at {path} lacks CAP_SYS_RESOURCE: set restrict_oom_score_adj = true in its CRI "
                        "configuration)"
                    )
        return RuntimeRefused(message)

    async def stop(self, sandbox_id: str) -> None:
        self._addresses.pop(sandbox_id, None)
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        with contextlib.suppress(NotFound):
            await self._client.ask(calls.STOP_SANDBOX, request, subject=sandbox_id[:12])
        self._processes.pop(sandbox_id, None)

    async def remove(self, sandbox_id: str) -> None:
        await self.stop(sandbox_id)
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        with contextlib.suppress(NotFound):
            await self._client.ask(calls.REMOVE_SANDBOX, request, subject=sandbox_id[:12])

    async def status(self, sandbox_id: str) -> SandboxStatus:
        """The verbose answer is asked for once: it tells the process."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=sandbox_id not in self._processes)
        answer = await self._client.ask(calls.SANDBOX_STATUS, request, subject=sandbox_id[:12])
        told, state = answer.status, spec.sandbox_state(answer.status.state)
        ips, process = spec.ips_of(told), NOBODY
        if state is SandboxState.READY:
            self._addresses[sandbox_id] = ips
            process = self._processes.get(sandbox_id, NOBODY)
            if answer.info:
                process = self._processes[sandbox_id] = details_of(answer.info).process
                self._hints.adopted(sandbox_id, process.pid)
        else:
            self.forget(sandbox_id)
        return SandboxStatus(
            id=told.id,
            pod=spec.pod_of(told.labels),
            attempt=told.metadata.attempt,
            state=state,
            created_at=spec.moment(told.created_at) or spec.EPOCH,
            ips=ips,
            pid=process.pid,
            netns=f"/proc/{process.pid}/ns/net" if process.pid else "",
        )

    async def ips(self, told: pb.PodSandbox) -> tuple[IPAddress, ...]:
        if told.state != pb.SANDBOX_READY:
            self.forget(told.id)
            return ()
        if told.id not in self._addresses:
            with contextlib.suppress(NotFound):
                await self.status(told.id)
        return self._addresses.get(told.id, ())

    async def settled(self, sandbox_id: str) -> None:
        """Back when the runtime admits that it is not READY."""
        for pause in (*SETTLE, 0.0):
            try:
                if (await self.status(sandbox_id)).state is not SandboxState.READY:
                    return
            except NotFound:
                return
            await asyncio.sleep(pause)
        raise RuntimeUnavailable(f"cri: sandbox {sandbox_id[:12]} has ended, but the runtime does not admit it")

    def known(self, sandbox_id: str) -> bool:
        return sandbox_id in self._addresses

    def forget(self, sandbox_id: str) -> None:
        self._addresses.pop(sandbox_id, None)
        self._processes.pop(sandbox_id, None)
