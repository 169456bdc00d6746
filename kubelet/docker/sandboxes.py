"""Sandboxes on Docker: a pause container without Docker's network, and a network by CNI.

A sandbox is READY while its pause process runs. It has addresses when its attachment is complete, and still wired: a crash
between the two, or a bridge that somebody has deleted, leaves one without, which the kubelet stops and replaces.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

from kubelet import peer
from kubelet.bandwidth import bandwidth
from kubelet.docker import pause, spec
from kubelet.docker.containers import KILLED, Containers
from kubelet.network import Network
from kubelet.runtime import (
    HostNetworkRefused,
    IPAddress,
    NetworkUnavailable,
    NotFound,
    RuntimeRefused,
    RuntimeUnavailable,
    SandboxConfig,
    SandboxState,
    SandboxStatus,
)

_RUN, _STOP, _REMOVE = "run_podsandbox", "stop_podsandbox", "remove_podsandbox"


class Sandboxes:
    def __init__(
        self, containers: Containers, network: Network, *, pause_image: str, host_network: bool | None
    ) -> None:
        self._containers = containers
        self._network = network
        self._pause_image = pause_image
        self._host_network = host_network
        self._building = asyncio.Lock()

    async def run(self, config: SandboxConfig) -> str:
        await self._admit(config)
        engine, pod = self._containers.engine, config.pod
        what = f"{pod.namespace}/{pod.name}"
        score = await engine.call(_RUN, what, lambda _: peer.oom_score(spec.SANDBOX_OOM_SCORE, engine.socket_path))
        body = spec.sandbox_body(config, self._containers.owner, self._pause_image, score)
        name = spec.sandbox_name(pod, config.attempt)
        try:
            identity = await self._containers.create(_RUN, what, body, name)
        except NotFound:
            await self._make_pause_image()
            identity = await self._containers.create(_RUN, what, body, name)
        try:
            document = await self._containers.start(_RUN, identity)
            if not config.host_network:
                await self._attach(identity, document["State"]["Pid"], config)
        except (RuntimeRefused, NetworkUnavailable):
            with contextlib.suppress(RuntimeUnavailable, NetworkUnavailable):
                await self.remove(identity)
            raise
        return identity

    async def _admit(self, config: SandboxConfig) -> None:
        """Nothing is created for a pod that cannot have its network."""
        if not config.host_network:
            self._network.config()
            try:
                bandwidth(config.annotations)
            except ValueError as error:
                raise RuntimeRefused(str(error)) from None
            return
        engine = self._containers.engine
        shared = self._host_network
        if shared is None:
            shared = await engine.call(_RUN, "", lambda _: peer.shares_network(engine.socket_path))
        if not shared:
            raise HostNetworkRefused(
                f"hostNetwork: dockerd at {engine.socket_path} runs in another network namespace than this node, so its "
                "host network is not the node's; pods with hostNetwork need a runtime in the node: --runtime containerd"
            )

    async def _attach(self, identity: str, pid: int, config: SandboxConfig) -> None:
        exits = self._containers.exits
        if exits.watched(identity):  # so `pid` is the pause process; while it lives the number names no other
            await self._network.add(
                identity, f"/proc/{pid}/ns/net", config.pod, config.port_mappings, bandwidth(config.annotations)
            )
        if not exits.watched(identity):
            raise RuntimeRefused(
                f"the sandbox of {config.pod.namespace}/{config.pod.name} ended at once "
                f"(or dockerd's processes cannot be seen from this PID namespace)"
            )

    async def _make_pause_image(self) -> None:
        async with self._building:
            engine = self._containers.engine
            if self._pause_image != pause.PAUSE_IMAGE:
                raise RuntimeRefused(
                    f"the sandbox image {self._pause_image} is not there: load it into docker, or drop "
                    f"--pod-infra-container-image to use {pause.PAUSE_IMAGE}, which is built on the spot"
                )
            await engine.call("pull_image", pause.PAUSE_IMAGE, pause.build)

    async def stop(self, sandbox_id: str) -> None:
        try:
            document = await self._containers.inspect(_STOP, sandbox_id)
        except NotFound:
            await self._network.delete(sandbox_id)
            return
        pid = document["State"]["Pid"]
        refused: NetworkUnavailable | None = None
        try:
            await self._network.delete(sandbox_id, f"/proc/{pid}/ns/net" if pid else "")
        except NetworkUnavailable as error:
            refused = error  # the pod stops all the same; the address is given back by a later try or the sweep
        await self._containers.end(_STOP, document, first="SIGKILL", timeout=KILLED)
        if refused is not None:
            raise refused

    async def remove(self, sandbox_id: str) -> None:
        await self.stop(sandbox_id)
        for row in await self._containers.list(_REMOVE, f"{spec.SANDBOX_ID}={sandbox_id}"):
            await self._containers.remove(_REMOVE, row["Id"])
        await self._containers.remove(_REMOVE, sandbox_id)

    async def status(self, sandbox_id: str) -> SandboxStatus:
        document = await self._containers.inspect("podsandbox_status", sandbox_id)
        labels, running = document["Config"]["Labels"], bool(document["State"]["Running"])
        state, ips = self.readiness(sandbox_id, running=running)
        pid = int(document["State"]["Pid"]) if running else 0
        return SandboxStatus(
            id=sandbox_id,
            pod=spec.pod_of(labels),
            attempt=spec.attempt_of(labels),
            state=state,
            created_at=spec.moment(document["Created"]) or datetime.fromtimestamp(0, UTC),
            ips=ips,
            pid=pid,
            netns=f"/proc/{pid}/ns/net" if pid else "",
        )

    def readiness(self, sandbox_id: str, *, running: bool) -> tuple[SandboxState, tuple[IPAddress, ...]]:
        state = SandboxState.READY if running else SandboxState.NOT_READY
        attachment = self._network.attachments().get(sandbox_id)
        if attachment is None or (running and not self._network.wired(attachment)):
            return state, ()
        return state, attachment.ips

    async def sweep(self) -> None:
        """Give back the addresses of sandboxes that are no more, whoever removed them; and what never became one of ours."""
        attached = set(self._network.attachments())  # read before the list: a sandbox exists before its attachment
        if attached:
            present = {row["Id"] for row in await self._containers.list("list_podsandbox")}
            for sandbox_id in attached - present:
                await self._network.delete(sandbox_id)
        await self._network.collect()
