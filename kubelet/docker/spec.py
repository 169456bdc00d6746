"""Between our values and the Engine API's JSON, purely.

Everything a later kubelet must know stands in labels, under dockershim's names, which cAdvisor and others read:

    io.kubernetes.docker.type       podsandbox | container
    io.kubernetes.sandbox.id        of a container, the sandbox it joined
    io.kubernetes.container.logpath where the log symlink stands

Docker has no annotations, so ours stand among the labels under their own keys; a pod's own labels and annotations under
`label.` and `annotation.`, lest they overwrite identity. Names are `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`,
with POD for the sandbox: dockerd refuses a second one, which makes creation safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubelet.docker.pause import COMMAND, REAPING
from kubelet.runtime import (
    CONTAINER_NAME,
    NODE,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    RESTART_COUNT,
    ROOT,
    UNCONFINED,
    ContainerConfig,
    ContainerRecord,
    ContainerState,
    ContainerStatus,
    Image,
    LinuxResources,
    Mount,
    PodIdentity,
    SandboxConfig,
    SecurityContext,
)

TYPE = "io.kubernetes.docker.type"
SANDBOX, CONTAINER = "podsandbox", "container"
SANDBOX_ID = "io.kubernetes.sandbox.id"
LOG_PATH = "io.kubernetes.container.logpath"
ATTEMPT = "io.wherry.attempt"
NETWORK = "io.wherry.network"  # of a sandbox: pod | host
_OWN, _NOTES = "label.", "annotation."

SANDBOX_OOM_SCORE = -998
SANDBOX_SHARES = 2


@dataclass(frozen=True, slots=True)
class LogLimits:
    size: int = 10 * 1024 * 1024  # bytes a file
    files: int = 5

    def config(self) -> dict[str, Any]:
        return {"Type": "json-file", "Config": {"max-size": str(self.size), "max-file": str(self.files)}}


def sandbox_name(pod: PodIdentity, attempt: int) -> str:
    return f"k8s_POD_{pod.name}_{pod.namespace}_{pod.uid}_{attempt}"


def container_name(name: str, pod: PodIdentity, attempt: int) -> str:
    return f"k8s_{name}_{pod.name}_{pod.namespace}_{pod.uid}_{attempt}"


@dataclass(frozen=True, slots=True)
class Owner:
    """Which kubelet a container belongs to: its node's name, and its root directory on this machine."""

    node: str
    root: str = ""

    @property
    def labels(self) -> dict[str, str]:
        return {NODE: self.node} | ({ROOT: self.root} if self.root else {})

    @property
    def filters(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.labels.items()]


def _identity(pod: PodIdentity, owner: Owner, attempt: int) -> dict[str, str]:
    return {
        POD_NAME: pod.name,
        POD_NAMESPACE: pod.namespace,
        POD_UID: pod.uid,
        **owner.labels,
        ATTEMPT: str(attempt),
    }


def _own(labels: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, str]:
    return {f"{_OWN}{key}": value for key, value in labels.items()} | {
        f"{_NOTES}{key}": value for key, value in annotations.items()
    }


def annotations_of(labels: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(_NOTES): value for key, value in labels.items() if key.startswith(_NOTES)}


def sandbox_body(config: SandboxConfig, owner: Owner, image: str, oom_score: int) -> dict[str, Any]:
    labels = {
        **_own(config.labels, config.annotations),
        **_identity(config.pod, owner, config.attempt),
        CONTAINER_NAME: "POD",
        TYPE: SANDBOX,
        NETWORK: "host" if config.host_network else "pod",
    }
    host: dict[str, Any] = {
        "NetworkMode": "host" if config.host_network else "none",
        "IpcMode": "host" if config.host_ipc else "shareable",
        "PidMode": "host" if config.host_pid else "",
        "CgroupParent": config.cgroup_parent,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none"},
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],  # and Docker's own seccomp profile
        "GroupAdd": [str(group) for group in config.security.supplemental_groups],
        **_handler(config),
        "CpuShares": SANDBOX_SHARES,
        "OomScoreAdj": oom_score,
        "Sysctls": dict(config.sysctls),
    }
    body: dict[str, Any] = {
        "Image": image,
        "Labels": labels,
        "StopSignal": "SIGKILL",
        "HostConfig": host,
    }
    if config.security.run_as_user is not None:
        group = config.security.run_as_group
        body["User"] = f"{config.security.run_as_user}" + ("" if group is None else f":{group}")
    if image.startswith("wherry.local/pause"):
        body["Entrypoint"] = list(REAPING if config.share_pid else COMMAND)
    if not config.host_network:
        body["Hostname"] = config.hostname
    return body


def container_body(
    config: ContainerConfig, sandbox: SandboxConfig, sandbox_id: str, owner: Owner, logs: LogLimits, user: str
) -> dict[str, Any]:
    """`user` as "uid[:gid]"; the caller has asked the image where the configuration leaves it open, and has read the seccomp
    profile where it names a file."""
    labels = {
        **_own(config.labels, config.annotations),
        **{key: value for key, value in config.annotations.items() if key.startswith("io.kubernetes.")},
        **_identity(sandbox.pod, owner, config.attempt),
        CONTAINER_NAME: config.name,
        TYPE: CONTAINER,
        SANDBOX_ID: sandbox_id,
        LOG_PATH: f"{sandbox.log_directory}/{config.log_path}" if config.log_path else "",
        RESTART_COUNT: str(config.attempt),
    }
    body: dict[str, Any] = {
        "Image": config.image,
        "Env": [f"{name}={value}" for name, value in config.env],
        "WorkingDir": config.working_dir,
        "User": user,
        "Tty": config.tty,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Labels": labels,
        "Healthcheck": {"Test": ["NONE"]},  # probes are the kubelet's
        "HostConfig": {
            "NetworkMode": f"container:{sandbox_id}",
            "IpcMode": "host" if sandbox.host_ipc else f"container:{sandbox_id}",
            "PidMode": _pid_mode(config, sandbox, sandbox_id),
            "CgroupParent": sandbox.cgroup_parent,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": logs.config(),
            "Mounts": [_mount(mount) for mount in config.mounts],
            **_handler(sandbox),
            **_resources(config.resources),
            **_security(config.security),
        },
    }
    if config.command:
        body["Entrypoint"] = list(config.command)
    if config.args:
        body["Cmd"] = list(config.args)
    if config.stop_signal:
        body["StopSignal"] = config.stop_signal
    return body


def _pid_mode(config: ContainerConfig, sandbox: SandboxConfig, sandbox_id: str) -> str:
    if sandbox.host_pid:
        return "host"
    joined = config.target_id or (sandbox_id if sandbox.share_pid else "")
    return f"container:{joined}" if joined else ""


def _handler(sandbox: SandboxConfig) -> dict[str, Any]:
    return {"Runtime": sandbox.handler} if sandbox.handler else {}


def _mount(mount: Mount) -> dict[str, Any]:
    # A missing host path is refused; Docker's older "Binds" would make a root-owned folder of it.
    return {
        "Type": "bind",
        "Source": mount.host_path,
        "Target": mount.container_path,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": mount.propagation or "rprivate"},
    }


def _resources(resources: LinuxResources) -> dict[str, Any]:
    return {"OomScoreAdj": resources.oom_score_adj, **limits(resources)} | (
        {"PidsLimit": resources.pids_limit} if resources.pids_limit else {}
    )


def limits(resources: LinuxResources) -> dict[str, Any]:
    """What can be changed while it runs; what is zero is left out."""
    found: dict[str, Any] = {}
    if resources.cpu_shares:
        found["CpuShares"] = resources.cpu_shares
    if resources.cpu_quota:
        found["CpuQuota"] = resources.cpu_quota
        found["CpuPeriod"] = resources.cpu_period or 100_000
    if resources.memory_limit:
        found["Memory"] = resources.memory_limit
        found["MemorySwap"] = resources.memory_swap_limit or resources.memory_limit  # equal: no swap
    if resources.cpuset_cpus:
        found["CpusetCpus"] = resources.cpuset_cpus
    if resources.cpuset_mems:
        found["CpusetMems"] = resources.cpuset_mems
    return found


def unsupported(config: ContainerConfig) -> str:
    """What of it the Engine API cannot say, in words; "" when it can say everything."""
    if any(mount.recursive_read_only for mount in config.mounts):
        return "Docker cannot make a mount recursively read-only: drop recursiveReadOnly, or use a CRI runtime"
    if config.resources.hugepage_limits:
        return "Docker cannot limit huge pages: drop the hugepages limit, or use a CRI runtime"
    return ""


def _security(security: SecurityContext) -> dict[str, Any]:
    options = []
    if security.no_new_privileges:
        options.append("no-new-privileges")
    options += _seccomp(UNCONFINED if security.privileged else security.seccomp)
    return {
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.read_only_root,
        "CapAdd": list(security.add_capabilities),
        "CapDrop": list(security.drop_capabilities),
        "GroupAdd": [str(group) for group in security.supplemental_groups],
        "SecurityOpt": options,
    }


def _seccomp(profile: str) -> list[str]:
    """`profile`: Unconfined, RuntimeDefault, or a profile's JSON text."""
    match profile:
        case "RuntimeDefault":
            return []
        case "Unconfined":
            return ["seccomp=unconfined"]
        case text:
            return [f"seccomp={text}"]


# The engine's answers

_LISTED = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
    "removing": ContainerState.EXITED,
}


def pod_of(labels: Mapping[str, str]) -> PodIdentity:
    return PodIdentity(labels.get(POD_NAME, ""), labels.get(POD_NAMESPACE, ""), labels.get(POD_UID, ""))


def attempt_of(labels: Mapping[str, str]) -> int:
    text = labels.get(ATTEMPT, "")
    return int(text) if text.isdecimal() else 0


def listed_state(row: Mapping[str, Any]) -> ContainerState:
    return _LISTED.get(str(row["State"]), ContainerState.UNKNOWN)


def container_record(row: Mapping[str, Any]) -> ContainerRecord:
    labels = row["Labels"]
    return ContainerRecord(
        id=row["Id"],
        sandbox_id=labels.get(SANDBOX_ID, ""),
        name=labels.get(CONTAINER_NAME, ""),
        attempt=attempt_of(labels),
        image=row["Image"],
        image_id=row["ImageID"],
        state=listed_state(row),
        created_at=datetime.fromtimestamp(row["Created"], UTC),
        annotations=annotations_of(labels),
    )


def moment(text: str) -> datetime | None:
    """A Docker timestamp; its zero time, year 1, is None."""
    if not text or text.startswith("0001-"):
        return None
    whole, dot, rest = text.partition(".")
    if not dot:
        return datetime.fromisoformat(text)
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return datetime.fromisoformat(f"{whole}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}")


def container_status(document: Mapping[str, Any], image: Image | None) -> ContainerStatus:
    """Of an inspect. A container that could not be started counts as exited, as dockershim had it: Docker leaves it
    `created` with an exit code and its error, and a kubelet that saw `created` would start it again for ever."""
    state, labels = document["State"], document["Config"]["Labels"]
    created, started = moment(document["Created"]), moment(state["StartedAt"])
    finished, code = moment(state["FinishedAt"]), int(state["ExitCode"])
    if started is not None and finished is not None:
        finished = max(finished, started)  # Docker notes the end of a very short run before its start
    found, reason = ContainerState.CREATED, ""
    if state["Running"] or state.get("Paused"):
        found = ContainerState.RUNNING
    elif started is not None or code != 0 or state.get("Error"):
        found = ContainerState.EXITED
        match (state.get("OOMKilled", False), started, code):
            case (True, _, _):
                reason = "OOMKilled"
            case (_, None, _):
                reason = "ContainerCannotRun"
            case (_, _, 0):
                reason = "Completed"
            case _:
                reason = "Error"
    identity = str(document["Image"])
    exited = found is ContainerState.EXITED
    return ContainerStatus(
        id=document["Id"],
        sandbox_id=labels.get(SANDBOX_ID, ""),
        pod=pod_of(labels),
        name=labels.get(CONTAINER_NAME, ""),
        attempt=attempt_of(labels),
        state=found,
        created_at=created or datetime.fromtimestamp(0, UTC),
        started_at=started or (created if exited else None),
        finished_at=(finished or created) if exited else None,
        exit_code=(code or 128 if started is None else code) if exited else 0,
        reason=reason,
        message=str(state.get("Error", "")),
        image=image.tags[0] if image is not None and image.tags else str(document["Config"]["Image"]),
        image_id=image.digests[0] if image is not None and image.digests else identity,
        mounts=tuple(
            Mount(
                host_path=mount.get("Source", ""),
                container_path=mount["Destination"],
                read_only=not mount.get("RW", True),
                propagation=mount.get("Propagation", ""),
            )
            for mount in document.get("Mounts", ())
        ),
        # The file itself: our link to it lies where a pod may mount the node's logs.
        log_path=document.get("LogPath", "") or labels.get(LOG_PATH, ""),
        pid=int(state.get("Pid", 0)),
        tty=bool(document["Config"].get("Tty", False)),
        annotations=annotations_of(labels),
        resources=_limits_of(document.get("HostConfig") or {}),
        cgroup=_cgroup_of(document) if found is ContainerState.RUNNING else "",
    )


def _cgroup_of(document: Mapping[str, Any]) -> str:
    """As the cgroupfs driver places it, which is the only one that `DockerRuntime.status` lets pass."""
    parent = (document.get("HostConfig") or {}).get("CgroupParent") or "/docker"
    return f"{parent}/{document['Id']}"


def _limits_of(host: Mapping[str, Any]) -> LinuxResources:
    def number(key: str) -> int:
        return int(host.get(key) or 0)

    memory, swap = number("Memory"), number("MemorySwap")
    return LinuxResources(
        cpu_shares=number("CpuShares"),
        cpu_period=number("CpuPeriod"),
        cpu_quota=number("CpuQuota"),
        memory_limit=memory,
        memory_swap_limit=0 if swap == memory else swap,
        oom_score_adj=number("OomScoreAdj"),
        pids_limit=number("PidsLimit"),
        cpuset_cpus=str(host.get("CpusetCpus") or ""),
        cpuset_mems=str(host.get("CpusetMems") or ""),
    )


def image_of(document: Mapping[str, Any], pinned: str = "") -> Image:
    """Of an inspect or a list row; Docker writes absent names as `<none>`. `pinned` is the tag that may not be collected."""
    return Image(
        id=document["Id"],
        tags=tuple(tag for tag in document.get("RepoTags") or () if "<none>" not in tag),
        digests=tuple(digest for digest in document.get("RepoDigests") or () if "<none>" not in digest),
        size=int(document.get("Size") or 0),
        user=str((document.get("Config") or {}).get("User") or ""),
        pinned=bool(pinned) and pinned in (document.get("RepoTags") or ()),
    )
