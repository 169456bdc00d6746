"""Core v1: the Pod and its parts, as far as daemons read them. See `kube.meta` for what is and is not in these types."""

from datetime import datetime

import msgspec

from kube.meta import Condition, LabelSelector, Object, Typed
from kube.sources import EnvFromSource, EnvVar, Volume


class ObjectReference(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


class LocalObjectReference(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""


class ContainerPort(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = "TCP"


class ResourceRequirements(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Quantities by resource name."""

    limits: dict[str, str] = {}
    requests: dict[str, str] = {}


class VolumeMount(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False
    mount_propagation: str | None = None
    recursive_read_only: str | None = None


class HTTPHeader(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    value: str = ""


class ExecAction(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    command: tuple[str, ...] = ()


class HTTPGetAction(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str = "/"
    port: int | str = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocketAction(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    port: int | str = 0
    host: str = ""


class GRPCAction(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    port: int = 0
    service: str | None = None


class SleepAction(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    seconds: int = 0


class Probe(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Seconds and counts; defaults are upstream's."""

    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str | None = None


class Capabilities(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: str = ""
    localhost_profile: str | None = None


class AppArmorProfile(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: str = ""
    localhost_profile: str | None = None


class SecurityContext(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    proc_mount: str | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None


class Sysctl(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    value: str = ""


class PodSecurityContext(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    fs_group_change_policy: str | None = None
    supplemental_groups_policy: str | None = None
    sysctls: tuple[Sysctl, ...] = ()
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None


class RestartRuleOnExitCodes(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    operator: str = ""
    values: tuple[int, ...] = ()


class ContainerRestartRule(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`action` (Restart, or a later version's) when the exit codes match; rules go before restartPolicy."""

    action: str = ""
    exit_codes: RestartRuleOnExitCodes | None = None


class ContainerResizePolicy(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    resource_name: str = ""
    restart_policy: str = "NotRequired"


class Container(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env_from: tuple[EnvFromSource, ...] = ()
    env: tuple[EnvVar, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    resize_policy: tuple[ContainerResizePolicy, ...] = ()
    restart_policy: str | None = None
    restart_policy_rules: tuple[ContainerRestartRule, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = "IfNotPresent"
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False


class EphemeralContainer(Container, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A guest of a running pod (kubectl debug), in the PID namespace of its target where one is named."""

    target_container_name: str = ""


class Toleration(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class NodeSelectorRequirement(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


class NodeSelectorTerm(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    match_expressions: tuple[NodeSelectorRequirement, ...] = ()
    match_fields: tuple[NodeSelectorRequirement, ...] = ()


class NodeSelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class PreferredSchedulingTerm(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    weight: int = 0
    preference: NodeSelectorTerm = NodeSelectorTerm()


class NodeAffinity(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: tuple[PreferredSchedulingTerm, ...] = ()


class Affinity(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    node_affinity: NodeAffinity | None = None


class TopologySpreadConstraint(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None


class HostAlias(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ip: str = ""
    hostnames: tuple[str, ...] = ()


class PodDNSConfigOption(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    value: str | None = None


class PodDNSConfig(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[PodDNSConfigOption, ...] = ()


class PodReadinessGate(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    condition_type: str = ""


class PodOS(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""


class PodSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    volumes: tuple[Volume, ...] = ()
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[EphemeralContainer, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    node_selector: dict[str, str] = {}
    service_account_name: str = ""
    node_name: str = ""
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    share_process_namespace: bool | None = None
    security_context: PodSecurityContext | None = None
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    hostname: str = ""
    subdomain: str = ""
    hostname_override: str = ""
    affinity: Affinity | None = None
    scheduler_name: str = "default-scheduler"
    tolerations: tuple[Toleration, ...] = ()
    host_aliases: tuple[HostAlias, ...] = ()
    priority_class_name: str = ""
    priority: int | None = None
    readiness_gates: tuple[PodReadinessGate, ...] = ()
    enable_service_links: bool | None = None
    overhead: dict[str, str] = {}
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    set_hostname_as_fqdn: bool | None = msgspec.field(default=None, name="setHostnameAsFQDN")
    os: PodOS | None = None
    runtime_class_name: str | None = None
    resources: ResourceRequirements | None = None


class ContainerStateWaiting(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    started_at: datetime | None = None


class ContainerStateTerminated(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """At most one of the three; none means waiting."""

    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class VolumeMountStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    mount_path: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None


class LinuxContainerUser(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    uid: int = 0
    gid: int = 0
    supplemental_groups: tuple[int, ...] = ()


class ContainerUser(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    linux: LinuxContainerUser | None = None


class ContainerStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str = msgspec.field(default="", name="containerID")
    started: bool | None = None
    allocated_resources: dict[str, str] = {}
    resources: ResourceRequirements | None = None
    volume_mounts: tuple[VolumeMountStatus, ...] = ()
    user: ContainerUser | None = None


class PodIP(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ip: str = ""


class HostIP(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ip: str = ""


class PodStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    observed_generation: int | None = None
    phase: str = ""
    conditions: tuple[Condition, ...] = ()
    message: str = ""
    reason: str = ""
    nominated_node_name: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_ips: tuple[HostIP, ...] = msgspec.field(default=(), name="hostIPs")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = msgspec.field(default=(), name="podIPs")
    start_time: datetime | None = None
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    ephemeral_container_statuses: tuple[ContainerStatus, ...] = ()
    qos_class: str = ""


class Pod(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
