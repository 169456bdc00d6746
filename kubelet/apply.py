"""Carrying a pod's plan out: directories, volumes, cgroups, sandboxes, containers, and the Events that tell of it.
 Each deed can be done twice: a kubelet that died half-way does it again. Blocking work (mounts, trees of files,
cgroups) happens in a small thread pool of its own with a timeout, so that a hung filesystem holds up one pod and not
the node.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from kube.core import Service
from kube.errors import Invalid, Retry
from kube.events import Recorder, Reference
from kube.informer import Informer
from kube.pods import Pod
from kubelet import containers, hosts, resources, volumes
from kubelet.containers import Furniture
from kubelet.credentials import pull_secrets
from kubelet.departure import Departure
from kubelet.environment import Missing, Surroundings, environment
from kubelet.hooks import HookFailed, Hooks
from kubelet.images import ImageRefused, Images
from kubelet.model import RemoveContainer, RemoveSandbox, Seen, StartContainer, StopContainer, StopSandbox
from kubelet.objects import Objects
from kubelet.runtime import (
    HostNetworkRefused,
    NetworkUnavailable,
    PodIdentity,
    Runtime,
    RuntimeRefused,
    SandboxConfig,
)
from kubelet.tokens import Tokens
from kubelet.volumes import References
from linux.cgroup import tree

__all__ = ["Deeds", "Place", "StartFailed", "Told"]

log = logging.getLogger(__name__)
T = TypeVar("T")

VOLUME_TIMEOUT = 123.0
LEAST_GRACE = 2.0  # seconds that a preStop hook leaves a container, whatever it used up itself
# Seconds until another try. ErrImagePull is shown for a moment; the look after it finds the back-off and says so.
_RETRY_AFTER = {"ErrImagePull": 2.0, "InvalidImageName": 300.0}


class StartFailed(Exception):
    """A container (or sandbox) did not start: what its status says, and the seconds until another try."""

    def __init__(self, reason: str, message: str, retry_after: float = 10.0) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this node keeps things, and what it has to give."""

    root: str
    logs: str
    cgroup_root: str
    cluster_dns: tuple[str, ...]
    cluster_domain: str
    resolv_conf: str
    host_ips: tuple[str, ...]
    memory: int
    allocatable: Mapping[str, str]


class Told:
    """Events about pods and their containers, in upstream's form."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def pod(self, pod: Pod, kind: str, reason: str, message: str, field: str = "") -> None:
        log.info("pod %s: %s: %s", pod.metadata.key, reason, message)
        about = Reference.of(pod, kind="Pod", field_path=field)
        self._recorder.event(about, "Warning" if kind == "Warning" else "Normal", reason, message)

    def container(self, pod: Pod, name: str, kind: str, reason: str, message: str) -> None:
        group = "initContainers" if any(c.name == name for c in pod.spec.init_containers) else "containers"
        self.pod(pod, kind, reason, message, f"spec.{group}{{{name}}}")


class Deeds:
    def __init__(
        self,
        place: Place,
        runtime: Runtime,
        objects: Objects,
        services: Informer[Service],
        tokens: Tokens,
        told: Told,
        clock: Callable[[], datetime],
        trees: tree.Hierarchies,
    ) -> None:
        self._place = place
        self._runtime = runtime
        self.objects = objects
        self._services = services
        self._tokens = tokens
        self._told = told
        self._images = Images(runtime, now=clock)
        self._hooks = Hooks(runtime)
        self._bidden_farewell: set[str] = set()  # containers whose preStop hook was run
        self._trees = trees
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="volumes")
        self._paths: dict[str, Mapping[str, str]] = {}
        self._burstable = 0

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def references(self, pod: Pod) -> References:
        return volumes.references(pod)

    async def _blocking(self, what: str, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(VOLUME_TIMEOUT):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise Retry(f"{what}: not done within {VOLUME_TIMEOUT:g} s; is a filesystem hanging?") from None

    async def _around(self, pod: Pod, seen: Seen) -> Surroundings:
        config_maps, secrets = await self.objects.of(pod.metadata.uid)
        try:
            async with asyncio.timeout(10):
                await self._services.synced.wait()
        except TimeoutError:
            raise Retry("services have not yet been read at least once, cannot construct envvars") from None
        ips = seen.sandboxes[0].ips if seen.sandboxes else ()
        return Surroundings(
            services=self._services.items(),
            config_maps=config_maps,
            secrets=secrets,
            host_ips=self._place.host_ips,
            pod_ips=self._place.host_ips if pod.spec.host_network else tuple(str(ip) for ip in ips),
            allocatable=self._place.allocatable,
        )

    # --- before a sandbox ---------------------------------------------------------------------------------------------

    async def prepare(self, pod: Pod, everyone: Iterable[Pod]) -> None:
        """Directories, cgroup, volumes, all up to date. Raises MountFailed and Invalid."""
        around = replace(await self._around(pod, Seen()), tokens=await self._tokens.of(pod))
        burstable = resources.burstable_shares(everyone)

        def work() -> dict[str, str]:
            self._cgroup(pod, burstable)
            (volumes.pod_directory(self._place.root, pod.metadata.uid) / "volumes").mkdir(
                parents=True, exist_ok=True, mode=0o750
            )
            return {v.name: self._volume(pod, v.name, around) for v in pod.spec.volumes}

        self._paths[pod.metadata.uid] = await self._blocking(f"volumes of pod {pod.metadata.key}", work)

    def _volume(self, pod: Pod, name: str, around: Surroundings) -> str:
        volume = next(v for v in pod.spec.volumes if v.name == name)
        try:
            return volumes.set_up(self._place.root, pod, volume, around)
        except volumes.MountFailed as error:
            raise volumes.MountFailed(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
        except OSError as error:
            raise volumes.MountFailed(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error

    def _cgroup(self, pod: Pod, burstable: int) -> None:
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
        tree.create(self._trees, resources.pod_cgroup(root, pod), resources.pod_limits(pod))

    def sandbox_config(self, pod: Pod, attempt: int) -> SandboxConfig:
        context = pod.spec.security_context
        return SandboxConfig(
            pod=PodIdentity(pod.metadata.name, pod.metadata.namespace, pod.metadata.uid),
            attempt=attempt,
            hostname=hosts.kernel_hostname(pod, self._place.cluster_domain),
            log_directory=log_directory(self._place.logs, pod.metadata.namespace, pod.metadata.name, pod.metadata.uid),
            cgroup_parent=resources.pod_cgroup(self._place.cgroup_root, pod),
            host_network=pod.spec.host_network,
            host_pid=pod.spec.host_pid,
            share_pid=bool(pod.spec.share_process_namespace),
            host_ipc=pod.spec.host_ipc,
            sysctls={s.name: s.value for s in context.sysctls} if context else {},
            labels=pod.metadata.labels,
            annotations=pod.metadata.annotations,
        )

    async def create_sandbox(self, pod: Pod, attempt: int) -> None:
        config = self.sandbox_config(pod, attempt)
        os.makedirs(config.log_directory, mode=0o755, exist_ok=True)
        try:
            await self._runtime.run_sandbox(config)
        except HostNetworkRefused as error:
            self._told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise StartFailed("CreatePodSandboxError", str(error), 300.0) from error
        except NetworkUnavailable as error:
            if "uninitialized" in str(error):
                self._told.pod(pod, "Warning", "NetworkNotReady", f"network is not ready: {error}")
            else:
                self._told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            raise StartFailed("CreatePodSandboxError", str(error), 1.0) from error
        except RuntimeRefused as error:
            self._told.pod(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error.message}")
            raise StartFailed("CreatePodSandboxError", error.message, 5.0) from error

    # --- containers ---------------------------------------------------------------------------------------------------

    async def start(self, pod: Pod, action: StartContainer, seen: Seen, departure: Departure) -> None:
        """Pull, create, start, run the postStart hook. Raises StartFailed with what the status shall say."""
        container, name = action.container, action.container.name
        try:
            around = await self._around(pod, seen)
            variables = environment(pod, container, around)
        except (Missing, Invalid) as error:
            self._told.container(pod, name, "Warning", "Failed", f"Error: {error}")
            raise StartFailed("CreateContainerConfigError", str(error)) from error

        def tell(kind: str, reason: str, message: str) -> None:
            self._told.container(pod, name, kind, reason, message)

        auths = pull_secrets(pod, around.secrets, container.image)
        try:
            async with departure.cuts():
                image = await self._images.ensure(
                    pod.metadata.uid, container.image, container.image_pull_policy, auths, tell
                )
        except ImageRefused as error:
            tell("Warning", "Failed", f"Error: {error.reason}")
            wait = _RETRY_AFTER.get(error.reason, error.retry_after or 10.0)
            raise StartFailed(error.reason, error.message, wait) from error
        sandbox = self.sandbox_config(pod, next(s.attempt for s in seen.sandboxes if s.id == action.sandbox_id))
        furniture = await self._furniture(pod, action, around)
        try:
            config = containers.container_config(pod, action, image, variables, furniture)
        except Invalid as error:
            tell("Warning", "Failed", f"Error: {error}")
            raise StartFailed("CreateContainerConfigError", str(error)) from error
        os.makedirs(os.path.join(sandbox.log_directory, name), mode=0o755, exist_ok=True)
        try:
            identity = await self._runtime.create_container(action.sandbox_id, config, sandbox)
        except RuntimeRefused as error:
            tell("Warning", "Failed", f"Error: {error.message}")
            raise StartFailed("CreateContainerError", error.message) from error
        tell("Normal", "Created", f"Created container: {name}")
        try:
            await self._runtime.start_container(identity)
        except RuntimeRefused as error:
            tell("Warning", "Failed", f"Error: {error.message}")
            raise StartFailed("RunContainerError", error.message) from error
        tell("Normal", "Started", f"Started container {name}")
        async with departure.cuts():
            await self._post_start(pod, action, identity, str(around.pod_ips[0]) if around.pod_ips else "")

    async def _post_start(self, pod: Pod, action: StartContainer, identity: str, pod_ip: str) -> None:
        container = action.container
        hook = container.lifecycle.post_start if container.lifecycle else None
        if hook is None:
            return
        try:
            await self._hooks.run(hook, container, identity, pod_ip, lambda: self._fell_back(pod, container.name))
        except HookFailed as error:
            log.warning("pod %s container %s: postStart: %s", pod.metadata.key, container.name, error)
            self._told.container(pod, container.name, "Warning", "FailedPostStartHook", "PostStartHook failed")
            grace = pod.spec.termination_grace_period_seconds
            stop = StopContainer(identity, container.name, "FailedPostStartHook")
            await self.stop(pod, stop, 30.0 if grace is None else float(grace), pod_ip)
            raise StartFailed("PostStartHookError", str(error), 0.0) from error

    def _fell_back(self, pod: Pod, name: str) -> None:
        message = "request to HTTPS lifecycle hook got HTTP response, retrying with HTTP"
        self._told.container(pod, name, "Warning", "LifecycleHTTPFallback", message)

    async def _furniture(self, pod: Pod, action: StartContainer, around: Surroundings) -> Furniture:
        """The files the kubelet itself puts into a container."""
        place = self._place
        directory = volumes.pod_directory(place.root, pod.metadata.uid)
        name, attempt = action.container.name, action.restart_count

        def work() -> Furniture:
            host_file = _text("/etc/hosts") if pod.spec.host_network else ""
            host = hosts.parse_resolver(_text(place.resolv_conf))
            resolver = hosts.resolver(pod, host, place.cluster_dns, place.cluster_domain)
            files = {
                "etc-hosts": hosts.hosts_file(pod, around.pod_ips, place.cluster_domain, host_file),
                "resolv.conf": hosts.resolver_file(resolver),
                "hostname": hosts.kernel_hostname(pod, place.cluster_domain) + "\n",
            }
            for file, text in files.items():
                _write_in_place(directory / file, text)
            termination = directory / "containers" / name / str(attempt)
            termination.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            termination.touch()
            termination.chmod(0o666)
            return Furniture(
                volumes=self._paths.get(pod.metadata.uid, {}),
                hosts=str(directory / "etc-hosts"),
                resolver=str(directory / "resolv.conf"),
                hostname="" if pod.spec.host_network else str(directory / "hostname"),
                termination=str(termination),
                memory=place.memory,
            )

        return await self._blocking(f"files of pod {pod.metadata.key}", work)

    async def stop(self, pod: Pod | None, action: StopContainer, grace: float, pod_ip: str) -> None:
        """preStop hook, signal, SIGKILL; all of it within the grace. An orphan's hook is not known any more."""
        if pod is not None:
            self._told.container(pod, action.name, "Normal", "Killing", action.message)
            grace = await self._pre_stop(pod, action, grace, pod_ip)
        await self._runtime.stop_container(action.id, grace)

    async def _pre_stop(self, pod: Pod, action: StopContainer, grace: float, pod_ip: str) -> float:
        """Run the hook, once for each container; the seconds of grace it leaves."""
        everyone = (*pod.spec.init_containers, *pod.spec.containers)
        container = next((c for c in everyone if c.name == action.name), None)
        hook = container.lifecycle.pre_stop if container and container.lifecycle else None
        if container is None or hook is None or action.id in self._bidden_farewell:
            return grace
        self._bidden_farewell.add(action.id)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(grace):
                await self._hooks.run(hook, container, action.id, pod_ip, lambda: self._fell_back(pod, action.name))
        except (HookFailed, TimeoutError) as error:
            why = str(error) or f"it took longer than the grace period of {grace:g} s"
            log.warning("pod %s container %s: preStop: %s", pod.metadata.key, action.name, why)
            self._told.container(pod, action.name, "Warning", "FailedPreStopHook", "PreStopHook failed")
        return max(LEAST_GRACE, grace - (time.monotonic() - begun))

    async def tidy(self, action: object) -> None:
        match action:
            case StopSandbox():
                await self._runtime.stop_sandbox(action.id)
            case RemoveSandbox():
                await self._runtime.remove_sandbox(action.id)
            case RemoveContainer():
                await self._runtime.remove_container(action.id)
                self._bidden_farewell.discard(action.id)
            case _:
                raise AssertionError(f"{action!r} is no tidying")

    # --- afterwards ---------------------------------------------------------------------------------------------------

    async def settle(self, uid: str, pod: Pod | None) -> None:
        """Take down volumes and cgroups; raises OSError (tried again) while something is in the way."""

        def work() -> None:
            volumes.tear_down(self._place.root, uid)
            for qos in (resources.GUARANTEED, resources.BURSTABLE, resources.BEST_EFFORT):
                tree.remove(self._trees, f"{resources.tier(self._place.cgroup_root, qos)}/pod{uid}")

        await self._blocking(f"cleaning up pod {pod.metadata.key if pod else uid}", work)
        self._paths.pop(uid, None)
        self._tokens.forget(uid)

    async def erase(self, uid: str) -> None:
        """The logs of a pod nobody can ask about any more."""

        def work() -> None:
            for directory in self._log_directories():
                if uid_of(directory.name) == uid:
                    shutil.rmtree(directory, ignore_errors=True)

        await self._blocking(f"logs of pod {uid}", work)

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


def log_directory(root: str, namespace: str, name: str, uid: str) -> str:
    return os.path.join(root, f"{namespace}_{name}_{uid}")


def uid_of(log_directory_name: str) -> str:
    """`namespace_name_uid`, none of which has an underscore; empty for a name that is not of ours."""
    parts = log_directory_name.split("_")
    return parts[2] if len(parts) == 3 and all(parts) else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _write_in_place(path: Path, text: str) -> None:
    """Bind mounts hold on to the inode: an existing file is rewritten, never replaced."""
    if not path.exists() or path.read_text(errors="replace") != text:
        path.write_text(text)
        path.chmod(0o644)
