"""Carrying out what is done for a pod as a whole: directories, volumes, cgroups, sandboxes, and giving it all back.

`starts` and `stops` are the deeds for one container. Each deed can be done twice: a kubelet that died half-way does it again.
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kube.errors import Retry
from kube.pods import Pod
from kubelet import resize, resources, sandboxes, volumes
from kubelet.containerlogs import loglinks
from kubelet.departure import Departure
from kubelet.environment import Surroundings
from kubelet.hooks import Hooks
from kubelet.means import Means, Place, StartFailed
from kubelet.model import Action, RemoveContainer, RemoveSandbox, Seen, StartContainer, StopSandbox
from kubelet.runtime import (
    HostNetworkRefused,
    LinuxResources,
    NetworkUnavailable,
    NotFound,
    RuntimeRefused,
    SandboxConfig,
)
from kubelet.sandboxes import uid_of
from kubelet.starts import Started, Starts, resolver_of
from kubelet.stops import Stops
from kubelet.told import Told
from kubelet.volumes import References
from linux.cgroup import tree

__all__ = ["Deeds", "Means", "Place", "StartFailed", "Told"]

log = logging.getLogger(__name__)

_ATTEMPT = re.compile(r"[0-9]{1,9}")
NO_NETWORK_YET = ("uninitialized", "not initialized")


class Deeds:
    def __init__(self, means: Means, trees: tree.Hierarchies) -> None:
        self._means = means
        self._place = means.place
        self._trees = trees
        hooks = Hooks(means.runtime)
        means.metrics.fallbacks(lambda: hooks.fallbacks)
        self.objects = means.objects
        self.stops = Stops(means, hooks)
        self._starts = Starts(means, hooks, self.stops)
        self._burstable = 0

    def close(self) -> None:
        self._means.threads.close()

    def references(self, pod: Pod) -> References:
        return volumes.references(pod)

    # --- before a sandbox ---------------------------------------------------------------------------------------------

    async def prepare(self, pod: Pod, everyone: Iterable[Pod], before: Pod | None = None) -> None:
        """Directories, cgroup, volumes, all up to date. While a resize is under way, `before` has to fit into the pod's group
        as well. Raises MountFailed and Invalid."""
        around = await self._surroundings(pod)
        burstable = resources.burstable_shares(everyone)

        def work() -> dict[str, str]:
            self._cgroup(pod, burstable, before)
            if isinstance(around, Retry):
                return self._standing(pod, around)
            (volumes.pod_directory(self._place.root, pod.metadata.uid) / "volumes").mkdir(
                parents=True, exist_ok=True, mode=0o750
            )
            return {v.name: self._volume(pod, v.name, around) for v in pod.spec.volumes}

        self._means.volumes[pod.metadata.uid] = await self._means.blocking(f"volumes of pod {pod.metadata.key}", work)

    async def _surroundings(self, pod: Pod) -> Surroundings | Retry:
        """What the volumes are made of, or why that is not to be had now."""
        try:
            return replace(await self._means.around(pod, Seen()), tokens=await self._means.tokens.of(pod))
        except Retry as error:
            return error

    def _standing(self, pod: Pod, error: Retry) -> dict[str, str]:
        """While the API is away, volumes that an earlier kubelet set up will do."""
        found = volumes.standing(self._place.root, pod)
        if found is None:
            raise error
        log.warning("pod %s: volumes stay as they are: %s", pod.metadata.key, error)
        return found

    def prepared(self, uid: str) -> bool:
        return uid in self._means.volumes

    def _volume(self, pod: Pod, name: str, around: Surroundings) -> str:
        volume = next(v for v in pod.spec.volumes if v.name == name)
        try:
            with self._means.metrics.storage("volume_mount", volumes.plugin_of(volume)):
                return volumes.set_up(self._place.root, pod, volume, around)
        except volumes.MountFailed as error:
            raise volumes.MountFailed(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
        except OSError as error:
            raise volumes.MountFailed(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error

    def _cgroup(self, pod: Pod, burstable: int, before: Pod | None) -> None:
        root = self._place.cgroup_root
        if not tree.exists(self._trees, resources.tier(root, resources.BEST_EFFORT)):
            self._burstable = 0
            tree.create(self._trees, resources.tier(root, resources.GUARANTEED), tree.Limits())
            best_effort = tree.Limits(cpu_shares=resources.MIN_SHARES)
            tree.create(self._trees, resources.tier(root, resources.BEST_EFFORT), best_effort)
        if burstable != self._burstable:
            tier = resources.tier(root, resources.BURSTABLE)
            tree.create(self._trees, tier, tree.Limits(cpu_shares=burstable))
            self._burstable = burstable
        there = tree.exists(self._trees, resources.pod_cgroup(root, pod))
        with self._means.metrics.cgroup("update" if there else "create"):
            limits = resources.pod_limits(pod, self._place.policy)
            if before is not None:
                limits = resize.widest(resources.pod_limits(before, self._place.policy), limits)
            tree.create(self._trees, resources.pod_cgroup(root, pod), limits)

    # --- resizing -----------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        return self._place

    async def regroup(self, pod: Pod) -> None:
        """Hold the pod as a whole to what it was allocated."""

        def work() -> None:
            limits = resources.pod_limits(pod, self._place.policy)
            tree.create(self._trees, resources.pod_cgroup(self._place.cgroup_root, pod), limits)

        await self._means.blocking(f"cgroup of pod {pod.metadata.key}", work)

    async def update(self, container_id: str, wanted: LinuxResources) -> None:
        await self._means.runtime.update_resources(container_id, wanted)

    async def memory_in_use(self, cgroup: str) -> int:
        """Bytes; 0 where nobody knows."""
        return await self._means.blocking(f"memory of {cgroup}", lambda: tree.memory_in_use(self._trees, cgroup))

    async def sandbox_config(self, pod: Pod, attempt: int) -> SandboxConfig:
        """Raises StartFailed when the pod's RuntimeClass is not there, and Retry when nobody has said so."""
        place = self._place
        resolver = resolver_of(pod, place.resolv_conf, place.cluster_dns, place.cluster_domain)
        return sandboxes.sandbox_config(pod, attempt, place, resolver, await self._handler(pod))

    async def _handler(self, pod: Pod) -> str:
        name, classes = pod.spec.runtime_class_name, self._means.classes
        if not name:
            return ""
        found = classes.get(name)
        if found is None:
            try:
                async with asyncio.timeout(10):
                    await classes.synced.wait()
            except TimeoutError:
                why = f'the API server has not yet told of RuntimeClasses: "{name}" of pod {pod.metadata.key} is not known'
                raise Retry(why) from None
            found = classes.get(name)
        if found is None:
            why = f'runtimeclass.node.k8s.io "{name}" not found'
            self._means.told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {why}")
            raise StartFailed("CreatePodSandboxError", why, 5.0)
        return found.handler

    async def create_sandbox(self, pod: Pod, attempt: int) -> str:
        self._means.metrics.starting("pod_sandbox")
        try:
            return await self._create_sandbox(pod, attempt)
        except StartFailed as error:
            self._means.metrics.start_failed("pod_sandbox", error.reason)
            raise

    async def _create_sandbox(self, pod: Pod, attempt: int) -> str:
        config = await self.sandbox_config(pod, attempt)
        told = self._means.told
        try:
            os.makedirs(config.log_directory, mode=0o755, exist_ok=True)
        except OSError as error:
            told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise StartFailed("CreatePodSandboxError", str(error), 5.0) from error
        try:
            return await self._means.runtime.run_sandbox(config)
        except HostNetworkRefused as error:
            told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise StartFailed("CreatePodSandboxError", str(error), 300.0) from error
        except NetworkUnavailable as error:
            if any(word in str(error) for word in NO_NETWORK_YET):
                told.pod(pod, "Warning", "NetworkNotReady", f"network is not ready: {error}")
            else:
                told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise StartFailed("CreatePodSandboxError", str(error), 1.0) from error
        except RuntimeRefused as error:
            told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error.message}")
            raise StartFailed("CreatePodSandboxError", error.message, 5.0) from error

    # --- containers ---------------------------------------------------------------------------------------------------

    async def start(self, pod: Pod, action: StartContainer, seen: Seen, departure: Departure) -> Started:
        """Raises StartFailed and Departed."""
        attempt = next((s.attempt for s in seen.sandboxes if s.id == action.sandbox_id), 0)
        kind = _type_of(pod, action.container.name)
        self._means.metrics.starting(kind)
        try:
            return await self._starts.start(pod, action, seen, await self.sandbox_config(pod, attempt), departure)
        except StartFailed as error:
            self._means.metrics.start_failed(kind, error.reason)
            raise

    def attempts(self, pod: Pod, name: str) -> int:
        """How often a container has run, as its logs tell: one more than the highest N of N.log."""
        meta = pod.metadata
        directory = sandboxes.log_directory(self._place.logs, meta.namespace, meta.name, meta.uid)
        with contextlib.suppress(OSError):
            found = (
                entry.partition(".log")[0] for entry in os.listdir(os.path.join(directory, name)) if ".log" in entry
            )
            # Whoever may write here may write odd names.
            return max((int(number) + 1 for number in found if _ATTEMPT.fullmatch(number)), default=0)
        return 0

    async def tidy(self, action: Action) -> None:
        match action:
            case StopSandbox():
                await self._means.runtime.stop_sandbox(action.id)
            case RemoveSandbox():
                await self._means.runtime.remove_sandbox(action.id)
            case RemoveContainer():
                await self._remove_container(action.id)
            case _:
                raise AssertionError(f"{action!r} is no tidying")

    async def _remove_container(self, container_id: str) -> None:
        """With its log, where the runtime leaves that to us."""
        runtime, log = self._means.runtime, ""
        if not runtime.rotates_logs:
            with contextlib.suppress(NotFound):
                log = (await runtime.container_status(container_id)).log_path
        await runtime.remove_container(container_id)
        if log:
            await self._means.blocking(f"log {log}", lambda: loglinks.erase(log))

    # --- afterwards ---------------------------------------------------------------------------------------------------

    async def settle(self, uid: str, pod: Pod | None) -> None:
        """Take down volumes and cgroups; raises OSError (tried again) while something is in the way."""

        def work() -> None:
            volumes.tear_down(self._place.root, uid)
            with self._means.metrics.cgroup("destroy"):
                for qos in (resources.GUARANTEED, resources.BURSTABLE, resources.BEST_EFFORT):
                    tree.remove(self._trees, f"{resources.tier(self._place.cgroup_root, qos)}/pod{uid}")

        await self._means.blocking(f"cleaning up pod {pod.metadata.key if pod else uid}", work)
        self._means.volumes.pop(uid, None)
        self._means.tokens.forget(uid)

    async def erase(self, uid: str) -> None:
        """The logs of a pod nobody can ask about any more."""

        def work() -> None:
            for directory in self._log_directories():
                if uid_of(directory.name) == uid:
                    shutil.rmtree(directory, ignore_errors=True)

        await self._means.blocking(f"logs of pod {uid}", work)

    def _log_directories(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [Path(entry.path) for entry in os.scandir(self._place.logs) if uid_of(entry.name)]
        return []

    def leftovers(self) -> set[str]:
        """The uids of pods of which directories, logs or cgroups are here."""
        found = {uid_of(directory.name) for directory in self._log_directories()}
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in os.scandir(os.path.join(self._place.root, "pods")) if entry.is_dir())
        for qos in (resources.GUARANTEED, resources.BURSTABLE, resources.BEST_EFFORT):
            names = tree.children(self._trees, resources.tier(self._place.cgroup_root, qos))
            found.update(name.removeprefix("pod") for name in names if name.startswith("pod"))
        return found


def _type_of(pod: Pod, name: str) -> str:
    """As upstream's metrics call it."""
    if any(each.name == name for each in pod.spec.init_containers):
        return "init_container"
    return "ephemeral_container" if any(each.name == name for each in pod.spec.ephemeral_containers) else "container"
