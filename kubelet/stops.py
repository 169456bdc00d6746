"""How a container is stopped: its preStop hook, then SIGTERM (or what it asks for), then SIGKILL, all within the grace."""

import asyncio
import contextlib
import logging
import time

from kube.pods import Pod
from kubelet.hooks import HookFailed, Hooks
from kubelet.means import Means
from kubelet.model import StopContainer
from kubelet.plan import hooked, named
from kubelet.plan.ending import LEAST_GRACE

log = logging.getLogger(__name__)


class Stops:
    def __init__(self, means: Means, hooks: Hooks) -> None:
        self._means = means
        self._hooks = hooks

    def tell(self, pod: Pod | None, name: str, message: str) -> None:
        if pod is not None:
            self._means.told.container(pod, name, "Normal", "Killing", message)

    async def stop(self, container_id: str, grace: float) -> None:
        await self._means.runtime.stop_container(container_id, grace)

    async def part(self, pod: Pod, action: StopContainer, grace: float, pod_ip: str, farewells: set[str]) -> None:
        """The whole of it for one container whose pod goes on."""
        self.tell(pod, action.name, action.message)
        if hooked(pod, action.name) is not None and action.id not in farewells:
            begun = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace) as limit:
                    await self.farewell(pod, action.id, action.name, pod_ip, limit)
            farewells.add(action.id)  # a hook that was cut short, for the pod is to go, is run again in its end
            grace -= time.monotonic() - begun
        await self.stop(action.id, max(LEAST_GRACE, grace))

    async def farewell(self, pod: Pod, container_id: str, name: str, pod_ip: str, limit: asyncio.Timeout) -> None:
        """The preStop hook, inside `limit`, which may be moved while it runs; whatever comes of it, the stop goes on."""
        hook, container = hooked(pod, name), named(pod, name)
        if hook is None or container is None:
            return
        try:
            await self._hooks.run(hook, container, container_id, pod_ip, lambda at: self.fell_back(pod, name, at))
        except HookFailed as error:
            self._failed(pod, name, str(error))
        except asyncio.CancelledError:
            if limit.expired():
                self._failed(pod, name, "it took longer than the grace period")
            raise

    def _failed(self, pod: Pod, name: str, why: str) -> None:
        # What the hook printed is for the log: an Event can be read by more people.
        log.warning("pod %s container %s: preStop: %s", pod.metadata.key, name, why)
        self._means.told.container(pod, name, "Warning", "FailedPreStopHook", "PreStopHook failed")

    def fell_back(self, pod: Pod, name: str, at: str) -> None:
        message = f"request to HTTPS lifecycle hook {at} got HTTP response, retry with HTTP succeeded"
        self._means.told.container(pod, name, "Warning", "LifecycleHTTPFallback", message)
