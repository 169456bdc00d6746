"""How a container is started: image, environment and files; create, start, postStart hook. What it fails at becomes its
waiting reason. A deed that was half done by a kubelet that died is done again by the next one."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from kube.errors import Invalid, Retry
from kube.pods import Pod
from kubelet import containers, hosts, volumes
from kubelet.containers import Furniture
from kubelet.departure import Departure
from kubelet.environment import Missing, Surroundings, environment
from kubelet.hooks import HookFailed, Hooks
from kubelet.images.credentials import missing_secrets, pull_secrets
from kubelet.images.presence import ImageRefused
from kubelet.means import Means, StartFailed
from kubelet.model import Seen, StartContainer, StopContainer
from kubelet.runtime import ContainerStatus, Image, NotFound, RuntimeRefused, SandboxConfig
from kubelet.stops import Stops

log = logging.getLogger(__name__)

# Seconds until another try. ErrImagePull is shown for a moment; the look after it finds the back-off and says so.
_RETRY_AFTER = {"ErrImagePull": 2.0, "InvalidImageName": 300.0}


@dataclass(frozen=True, slots=True)
class Started:
    id: str
    status: ContainerStatus | None  # right after, where that is still news


class Starts:
    def __init__(self, means: Means, hooks: Hooks, stops: Stops) -> None:
        self._means = means
        self._hooks = hooks
        self._stops = stops

    async def start(
        self, pod: Pod, action: StartContainer, seen: Seen, sandbox: SandboxConfig, departure: Departure
    ) -> Started:
        """Raises StartFailed with what the status shall say, and Departed."""
        name, told = action.container.name, self._means.told
        around = await self._means.around(pod, seen, volumes.references_of_containers(pod))
        image = await self._image(pod, action, around, departure)
        try:
            variables = environment(pod, action.container, around)
            furniture = await self._furniture(pod, action, around)
            target = _target(action, seen)
            config = containers.container_config(pod, action, image, variables, furniture, target)
            os.makedirs(os.path.join(sandbox.log_directory, name), mode=0o755, exist_ok=True)
        except (Missing, Invalid, OSError, ValueError) as error:  # a full disk, for one; a zero byte in a path
            told.container(pod, name, "Warning", "Failed", f"Error: {error}")
            raise StartFailed("CreateContainerConfigError", str(error)) from error
        try:
            identity = await self._means.runtime.create_container(action.sandbox_id, config, sandbox)
        except NotFound as error:  # the sandbox or the image went meanwhile: look again
            raise Retry(f"container {name} of pod {pod.metadata.key}: {error.message}") from error
        except RuntimeRefused as error:
            told.container(pod, name, "Warning", "Failed", f"Error: {error.message}")
            raise StartFailed("CreateContainerError", error.message) from error
        told.container(pod, name, "Normal", "Created", f"Created container: {name}")
        try:
            status = await self._means.runtime.start_container(identity)
        except NotFound as error:
            raise Retry(f"container {name} of pod {pod.metadata.key}: {error.message}") from error
        except RuntimeRefused as error:
            told.container(pod, name, "Warning", "Failed", f"Error: {error.message}")
            # The runtime has a dead container now: the next try, and the back-off after it, are those of a crash.
            raise StartFailed("RunContainerError", error.message, 1.0) from error
        told.container(pod, name, "Normal", "Started", f"Started container {name}")
        pod_ip = str(around.pod_ips[0]) if around.pod_ips else ""
        waited = await self._post_start(pod, action, identity, pod_ip, departure)
        return Started(identity, None if waited else status)

    async def _image(self, pod: Pod, action: StartContainer, around: Surroundings, departure: Departure) -> Image:
        container = action.container

        def tell(kind: str, reason: str, message: str) -> None:
            self._means.told.container(pod, container.name, kind, reason, message)

        auths = pull_secrets(pod, around.secrets, container.image)
        if missing := missing_secrets(pod, around.secrets):
            self._means.told.pod(pod, "Warning", "FailedToRetrieveImagePullSecret", _without(missing))
        try:
            async with departure.cuts():
                return await self._means.images.ensure(
                    pod.metadata.uid, container.image, container.image_pull_policy, auths, tell
                )
        except ImageRefused as error:
            tell("Warning", "Failed", f"Error: {error.reason}")
            wait = _RETRY_AFTER.get(error.reason, error.retry_after or 10.0)
            raise StartFailed(error.reason, error.message, wait) from error

    async def _post_start(
        self, pod: Pod, action: StartContainer, identity: str, pod_ip: str, departure: Departure
    ) -> bool:
        """The container runs: the next one waits until this hook is done. Whether there is one."""
        container = action.container
        hook = container.lifecycle.post_start if container.lifecycle else None
        if hook is None:
            return False

        def fell_back(at: str) -> None:
            self._stops.fell_back(pod, container.name, at)

        try:
            async with departure.cuts():
                await self._hooks.run(hook, container, identity, pod_ip, fell_back)
        except HookFailed as error:
            log.warning("pod %s container %s: postStart: %s", pod.metadata.key, container.name, error)
            self._means.told.container(pod, container.name, "Warning", "FailedPostStartHook", "PostStartHook failed")
            grace = pod.spec.termination_grace_period_seconds
            stop = StopContainer(identity, container.name, "FailedPostStartHook")
            async with departure.cuts():
                await self._stops.part(pod, stop, 30.0 if grace is None else float(grace), pod_ip, set())
            raise StartFailed("PostStartHookError", str(error), 0.0) from error
        return True

    async def _furniture(self, pod: Pod, action: StartContainer, around: Surroundings) -> Furniture:
        """The files the kubelet itself puts into a container."""
        place = self._means.place
        directory = volumes.pod_directory(place.root, pod.metadata.uid)
        name, attempt = action.container.name, action.restart_count

        def work() -> Furniture:
            host_file = _text("/etc/hosts") if pod.spec.host_network else ""
            resolver = resolver_of(pod, place.resolv_conf, place.cluster_dns, place.cluster_domain)
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
                volumes=self._means.volumes.get(pod.metadata.uid, {}),
                hosts=str(directory / "etc-hosts"),
                resolver=str(directory / "resolv.conf"),
                hostname="" if pod.spec.host_network else str(directory / "hostname"),
                termination=str(termination),
                memory=place.memory,
                policy=place.policy,
            )

        return await self._means.blocking(f"files of pod {pod.metadata.key}", work)


def _without(secrets: list[str]) -> str:
    names = ", ".join(secrets)
    return f"Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."


def _target(action: StartContainer, seen: Seen) -> str:
    """The id of the container whose processes an ephemeral one shall see."""
    if not action.target:
        return ""
    found = seen.latest(action.target)
    if found is None:
        raise Invalid(f"unable to find target container {action.target}")
    return found.id


def resolver_of(pod: Pod, resolv_conf: str, cluster_dns: tuple[str, ...], cluster_domain: str) -> hosts.Resolver:
    return hosts.resolver(pod, hosts.parse_resolver(_text(resolv_conf)), cluster_dns, cluster_domain)


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
