"""What the kubelet asks of a container runtime, and the values both sides speak.

The shape is CRI's, so that containerd and CRI-O fit one to one and Docker is the one that adapts; no type of any
runtime leaks above this file. A *sandbox* is a pod's shared namespaces (on Docker a pause container), a *container*
joins one. Identity lives in the runtime's labels and nowhere else: whoever restarts calls `list_pods` and knows
everything again.

Fates of a call (see kube.errors):

    the runtime does not answer in time        RuntimeUnavailable, a Retry: the outcome is unknown, look again
    the pod network cannot be made (yet)       NetworkUnavailable, a Retry
    the runtime says no to a pod's wish        RuntimeRefused, from run_sandbox, create, start, exec, attach, pull:
                                               its text belongs into the pod's status or an Event
    the runtime says no to anything else       RuntimeUnavailable: list, status, stop and remove have no author to blame
    it is not there                            NotFound from start, status, exec, attach; success for stop and remove

Every call has a timeout and may be cancelled at any point; calls about different pods may run at the same time, calls
about one pod come one by one. A cancelled `run_sandbox` or `create_container` may leave its thing behind: `list_pods`
shows it.

Who does what: the pod's cgroup, its volumes and /etc/hosts, /etc/resolv.conf and /etc/hostname are the kubelet's on every
runtime; the network is the runtime's where that calls CNI itself (CRI), else the backend's; the container's log is the
runtime's to write and, unless `rotates_logs`, the kubelet's to rotate (rename, then `reopen_log`).

Hints (`watch`) say only that a pod is worth another look. They may be late, doubled, or stop for a while (`hinting`
says so): the relist is the truth. A hint about an exit comes only after the runtime itself admits the exit, so that a
look taken then sees it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from kube.errors import Invalid, Retry

IPAddress = IPv4Address | IPv6Address

# Labels by which every sandbox and container of ours is known, upstream's names (pkg/kubelet/types/labels.go).
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
# Annotations (pkg/kubelet/kuberuntime/labels.go). Docker has none and keeps them among the labels.
CONTAINER_HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
TERMINATION_MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
POD_TERMINATION_GRACE_PERIOD = "io.kubernetes.pod.terminationGracePeriod"
# Ours: several kubelets may share one dockerd, nodes of one lab and of another with the same names; a kubelet's root
# directory is its own.
NODE = "io.wherry.node"
ROOT = "io.wherry.root"


# Called once an operation: its name (upstream's operation_type), seconds, whether it failed.
Observer = Callable[[str, float, bool], None]


def unobserved(operation: str, seconds: float, failed: bool) -> None: ...


class RuntimeUnavailable(Retry):
    """No answer from the runtime: away, hung, or over the time limit."""


class NetworkUnavailable(Retry):
    """The pod network refused: no configuration yet, a plugin said "try again", or a plugin failed."""


class RuntimeRefused(Exception):
    """The runtime answered and said no. `message` is its own text, fit for a pod's status."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotFound(RuntimeRefused):
    """No such sandbox, container or image."""


class HostNetworkRefused(Invalid):
    """hostNetwork on a runtime whose host is not this node; the message names the remedy."""


class ExecTimeout(RuntimeRefused):
    """The command outlived its timeout and was abandoned."""


class SandboxState(enum.StrEnum):
    READY = "ready"  # its process runs; without an address where its network was never given or was lost
    NOT_READY = "notready"  # stopped or dying: of no further use


class ContainerState(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    name: str
    namespace: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DNS:
    """What the pod's resolv.conf says."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """A hostPort: `host_ip` "" means every address of the node."""

    protocol: str = "TCP"  # TCP | UDP | SCTP
    container_port: int
    host_port: int
    host_ip: str = ""


# Values of `seccomp`; anything else is the absolute path of a profile on this machine (type Localhost).
UNCONFINED, RUNTIME_DEFAULT = "Unconfined", "RuntimeDefault"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSecurity:
    """Of the process that holds the sandbox; its seccomp profile is the runtime's own, whatever the containers' are."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    read_only_root: bool = False
    privileged: bool = False  # whether any of the pod's containers is: CRI refuses those in a sandbox that is not


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    pod: PodIdentity
    attempt: int = 0
    hostname: str = ""
    log_directory: str = ""  # absolute: <podLogsDir>/<ns>_<name>_<uid>
    cgroup_parent: str = ""  # absolute below the cgroup mount: /kubepods/burstable/pod<uid>
    host_network: bool = False
    host_pid: bool = False
    share_pid: bool = False  # containers join the sandbox's PID namespace
    host_ipc: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)  # the pod's own; identity is added
    annotations: Mapping[str, str] = field(default_factory=dict)
    dns: DNS = DNS()
    port_mappings: tuple[PortMapping, ...] = ()
    security: SandboxSecurity = SandboxSecurity()
    handler: str = ""  # a RuntimeClass' handler; "" = the runtime's default
    resources: LinuxResources | None = None  # of all containers: what a virtual machine is made for
    overhead: LinuxResources | None = None  # of its RuntimeClass, on top


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    host_path: str
    container_path: str
    read_only: bool = False
    propagation: str = ""  # "" = private; "rslave" (HostToContainer), "rshared" (Bidirectional)
    recursive_read_only: bool = False  # with read_only: the mounts below it too


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxResources:
    """Zero and "" mean: the runtime's default (cpu_shares, oom), or no limit (quota, memory, pids), or all (cpusets)."""

    cpu_shares: int = 0
    cpu_period: int = 0  # microseconds
    cpu_quota: int = 0  # microseconds per period
    memory_limit: int = 0  # bytes
    memory_swap_limit: int = 0  # bytes of memory and swap together; 0 = memory_limit: no swap
    oom_score_adj: int = 0
    pids_limit: int = 0
    cpuset_cpus: str = ""  # as in 0-3,6
    cpuset_mems: str = ""
    hugepage_limits: tuple[tuple[str, int], ...] = ()  # ("2MB", bytes)
    unified: Mapping[str, str] = field(default_factory=dict)  # files of cgroup v2 by name


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityContext:
    run_as_user: str = ""  # number or name; "" = the image's
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = False
    read_only_root: bool = False
    add_capabilities: tuple[str, ...] = ()  # without CAP_
    drop_capabilities: tuple[str, ...] = ()
    seccomp: str = UNCONFINED  # upstream's default profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    name: str
    attempt: int = 0  # = restartCount
    image: str  # an image id from `pull` or `image_status`
    user_image: str = ""  # as the pod's author wrote it
    command: tuple[str, ...] = ()  # ENTRYPOINT; () = the image's
    args: tuple[str, ...] = ()  # CMD; () = the image's, unless command is given
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()  # /etc/hosts, /etc/resolv.conf and /etc/hostname included
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""  # relative to SandboxConfig.log_directory: <ctr>/<n>.log
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""  # SIGTERM; "" = the image's
    target_id: str = ""  # the container whose PID namespace this one joins: an ephemeral container's target
    resources: LinuxResources = LinuxResources()
    security: SecurityContext = SecurityContext()


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRecord:
    id: str
    attempt: int
    state: SandboxState
    created_at: datetime
    ips: tuple[IPAddress, ...] = ()  # first one is the pod IP; none with the host's network
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    id: str
    sandbox_id: str
    name: str
    attempt: int
    image: str
    state: ContainerState
    created_at: datetime
    image_id: str = ""  # what it was made from, whatever its name means by now: an id, or repo@sha256:...
    annotations: Mapping[str, str] = field(default_factory=dict)  # at least those it was created with


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRecord:
    """All there is of one pod, dead ones too, newest first."""

    pod: PodIdentity
    sandboxes: tuple[SandboxRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatus:
    id: str
    pod: PodIdentity
    attempt: int
    state: SandboxState
    created_at: datetime
    ips: tuple[IPAddress, ...] = ()
    pid: int = 0  # of the process that holds the namespaces; 0 when stopped
    netns: str = ""  # /proc/PID/ns/net; "" when stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUser:
    """As whom the container's first process was started."""

    uid: int = 0
    gid: int = 0
    supplemental_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus:
    id: str
    sandbox_id: str
    pod: PodIdentity
    name: str
    attempt: int
    state: ContainerState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""  # when exited: Completed | Error | OOMKilled | ContainerCannotRun
    message: str = ""
    image: str = ""  # as the user wrote it, where the runtime still knows
    image_id: str = ""  # repo@sha256:... or, of an imported image, sha256:...
    mounts: tuple[Mount, ...] = ()
    log_path: str = ""  # absolute
    pid: int = 0
    tty: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    user: ContainerUser | None = None  # None where the runtime does not say
    resources: LinuxResources | None = None  # in force; None where the runtime does not say
    cgroup: str = ""  # absolute below the cgroup mount; "" when it is not running or not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0  # bytes
    user: str = ""  # USER of the image: "", "1000", "name", "1000:1000"
    pinned: bool = False  # never to be collected: the sandbox image, for one


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    username: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: bytes
    stderr: bytes  # both capped at 16 MiB, as in CRI


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Which ends to connect. With a tty stderr arrives on stdout."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class Channel(enum.IntEnum):
    STDOUT = 1
    STDERR = 2


class Stream(Protocol):
    """A running exec or attach. One reader, one writer; `close` is always called."""

    async def read(self) -> tuple[Channel, bytes] | None:
        """The next piece of output, None at its end."""

    async def write(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None:
        """Half-close: the command sees end of file, its output still flows."""

    async def resize(self, width: int, height: int) -> None: ...

    async def exit_code(self) -> int:
        """After the end of output. 0 for an attach."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeVersion:
    name: str
    version: str
    api_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeStatus:
    runtime_ready: bool
    runtime_message: str = ""
    network_ready: bool = False
    network_message: str = ""
    handlers: tuple[str, ...] = ()  # names for RuntimeClasses, "" the default one; () where the runtime does not say
    cgroup_driver: str = ""  # cgroupfs | systemd; "" where the runtime does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class FsUsage:
    """The filesystem that images are on."""

    mountpoint: str
    used_bytes: int = 0  # by images
    inodes_used: int = 0


@dataclass(frozen=True, slots=True)
class Hint:
    """Look at this pod again. `container_id` is a sandbox's or a container's."""

    pod_uid: str
    container_id: str = ""


EVERYTHING = Hint("")  # hints may have been missed: look at all pods


class Runtime(Protocol):
    @property
    def name(self) -> str:
        """docker, containerd, cri-o: the scheme of containerID. Certain once `list_pods` has answered."""

    @property
    def rotates_logs(self) -> bool:
        """Whether the runtime itself keeps logs small; `reopen_log` then refuses."""

    async def version(self) -> RuntimeVersion: ...

    async def status(self) -> RuntimeStatus:
        """Never raises and never takes long: a hung runtime is an answer."""

    async def run_sandbox(self, config: SandboxConfig) -> str:
        """Create, start and give a network. Returns the id of a READY sandbox or leaves none that is READY."""

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Give the network back and stop at once; its containers are to be stopped before. Idempotent."""

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Idempotent; a sandbox not stopped before is stopped; its containers go with it."""

    async def sandbox_status(self, sandbox_id: str) -> SandboxStatus: ...

    async def list_pods(self) -> list[PodRecord]:
        """Everything of this node, in all states, in one look."""

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig) -> str: ...

    async def start_container(self, container_id: str) -> ContainerStatus | None:
        """How it is right after; None when the runtime was asked and did not answer. Started it is in either case."""

    async def stop_container(self, container_id: str, timeout: float) -> None:
        """The image's STOPSIGNAL or SIGTERM, SIGKILL after `timeout` seconds; back when the runtime shows the exit.

        Idempotent. Cancel it and call again with a shorter timeout to shrink a grace period."""

    async def remove_container(self, container_id: str) -> None:
        """Idempotent; kills what still runs."""

    async def container_status(self, container_id: str) -> ContainerStatus: ...

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        """Change a created or running container's limits in place; zeros are left as they are. RuntimeRefused."""

    async def reopen_log(self, container_id: str) -> None:
        """The log was renamed: write on in a new file of the old name. RuntimeRefused when it does not run."""

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """ExecTimeout when the command outlives `timeout` (0 = the runtime's own limit)."""

    async def exec(self, container_id: str, command: Sequence[str], options: StreamOptions) -> Stream: ...

    async def attach(self, container_id: str, options: StreamOptions) -> Stream: ...

    async def watch(self, notify: Callable[[Hint], None]) -> None:
        """Runs until cancelled and calls `notify` in the loop; survives the runtime's death and return."""

    def hinting(self) -> bool:
        """Whether hints flow right now; while they do a relist may be rare."""

    async def pull(self, image: str, auth: RegistryAuth | None = None) -> str:
        """The image id. RuntimeRefused carries the registry's words."""

    async def image_status(self, image: str) -> Image | None: ...

    async def list_images(self) -> list[Image]: ...

    async def remove_image(self, image: str) -> None:
        """Idempotent."""

    async def image_fs(self) -> FsUsage: ...

    async def close(self) -> None:
        """Give back threads and sockets; containers stay as they are."""
