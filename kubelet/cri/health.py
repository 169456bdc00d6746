"""What is true of the runtime as a whole: who it is, whether it is ready, and for how long it is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from kubelet import peer
from kubelet.cri import calls
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import Client, Unimplemented
from kubelet.cri.spec import Owner
from kubelet.hints import Hints
from kubelet.runtime import (
    Hint,
    RuntimeRefused,
    RuntimeStatus,
    RuntimeUnavailable,
    RuntimeVersion,
)

PROMPT = 3.0  # seconds in which status() has an answer
_BRIEF = 1.0  # seconds


class Health:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.name = ""
        self.sandbox_image = ""  # where the runtime does not pin it itself
        self._driver: str | None = None  # cgroup driver

    async def version(self) -> RuntimeVersion:
        told = await self._client.ask(calls.VERSION, pb.VersionRequest(version=calls.API_VERSION))
        self.name = told.runtime_name
        return RuntimeVersion(
            name=told.runtime_name, version=told.runtime_version, api_version=told.runtime_api_version
        )

    async def status(self) -> RuntimeStatus:
        try:
            told = await self._client.ask(calls.STATUS, pb.StatusRequest(), timeout=PROMPT)
            message = await self._misfit()
        except RuntimeUnavailable as error:
            return RuntimeStatus(runtime_ready=False, runtime_message=str(error))
        conditions = {each.type: each for each in told.status.conditions}
        runtime, network = conditions.get("RuntimeReady"), conditions.get("NetworkReady")
        if runtime is None or not runtime.status:
            message = message or (f"{runtime.reason}: {runtime.message}" if runtime is not None else "no RuntimeReady")
        ready = network is not None and network.status
        return RuntimeStatus(
            runtime_ready=not message,
            runtime_message=message,
            network_ready=ready,
            network_message="" if ready or network is None else network.message,
            handlers=tuple(each.name for each in told.runtime_handlers),
            cgroup_driver=self._driver or "",
        )

    async def _misfit(self) -> str:
        """Why this runtime cannot serve the kubelet at all."""
        if self._driver is None:
            await self._learn()
        if self._driver == "systemd":
            return (
                f"the runtime at {self._client.socket_path} uses the cgroup driver 'systemd', the kubelet cgroupfs: set "
                "SystemdCgroup = false in the options of containerd's runtimes.runc (CRI-O: cgroup_manager = cgroupfs)"
            )
        return ""

    async def _learn(self) -> None:
        """The cgroup driver, by RuntimeConfig where there is one, of an older containerd by its configuration; "" when nobody
        says."""
        try:
            told = await self._client.call(calls.RUNTIME_CONFIG, pb.RuntimeConfigRequest(), timeout=PROMPT)
        except Unimplemented:
            verbose = await self._client.ask(calls.STATUS, pb.StatusRequest(verbose=True), timeout=PROMPT)
            self._read(verbose.info.get("config", ""))
        except RuntimeRefused as error:
            raise RuntimeUnavailable(f"cri: runtime config: {error.message}") from error
        else:
            self._driver = "systemd" if told.linux.cgroup_driver == pb.SYSTEMD else "cgroupfs"

    def _read(self, text: str) -> None:
        """The configuration of a containerd before 1.7."""
        try:
            config: dict[str, Any] = json.loads(text or "{}")
            self.sandbox_image = str(config.get("sandboxImage") or "")
            containerd = config["containerd"]
            options = containerd["runtimes"][containerd["defaultRuntimeName"]]["options"] or {}
            self._driver = "systemd" if options.get("SystemdCgroup") else "cgroupfs"
        except (KeyError, TypeError, ValueError, AttributeError):
            self._driver = ""

    async def follow(self, hints: Hints, owner: Owner) -> None:
        """The runtime's events about what is the owner's, where it has a stream of them; else just its presence."""
        self._driver = None  # it may have been configured anew
        try:
            async with asyncio.TaskGroup() as group:
                presence = group.create_task(self._presence(hints))
                try:
                    async for event in self._client.follow(calls.EVENTS, pb.GetEventsRequest()):
                        told = event.pod_sandbox_status
                        if owner.owns(told.labels):
                            hints.say(Hint(told.metadata.uid, event.container_id))
                except RuntimeRefused:  # Unimplemented, most of all
                    await presence
                finally:
                    presence.cancel()
        except* RuntimeUnavailable as gone:
            raise gone.exceptions[0] from None

    async def _presence(self, hints: Hints) -> None:
        """Hold a connection that says nothing. It ends with the runtime, or when a gRPC server's patience does (2 minutes):
        then the next one finds the same process behind it, and nothing was missed."""
        path, known = self._client.socket_path, -1
        while True:
            begun = time.monotonic()
            try:
                reader, writer = await asyncio.open_unix_connection(path)
            except OSError as error:
                raise RuntimeUnavailable(f"cri: {path}: {error.strerror or error}") from error
            try:
                process = peer.process(writer.get_extra_info("socket"))
                if process != known:
                    known = process
                    hints.flows()
                with contextlib.suppress(OSError):
                    while await reader.read(1024):
                        pass
            finally:
                writer.close()
            if time.monotonic() - begun < _BRIEF:
                raise RuntimeUnavailable(f"cri: {path}: the connection was closed at once")
