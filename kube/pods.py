"""Core v1: the Pod and its parts, as far as daemons read them. See `kube.meta` for what is and is not in these types."""

from datetime import datetime

import msgspec

from kube.meta import Condition, LabelSelector, Object, Typed


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


class KeySelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A key of a ConfigMap or Secret in the pod's namespace."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class ObjectFieldSelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    api_version: str = "v1"
    field_path: str = ""


class ResourceFieldSelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    container_name: str = ""
    resource: str = ""
    divisor: str = ""


class EnvVarSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    prefix: str = ""
    config_map_ref: EnvSource | None = None
    secret_ref: EnvSource | None = None


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
    sysctls: tuple[Sysctl, ...] = ()
    seccomp_profile: SeccompProfile | None = None


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
    restart_policy: str | None = None
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


class KeyToPath(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str = ""
    path: str = ""
    mode: int | None = None


class EmptyDirVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    medium: str = ""
    size_limit: str | None = None


class HostPathVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str = ""
    type: str | None = None


class ConfigMapVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class SecretVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class DownwardAPIVolumeFile(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str = ""
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    items: tuple[DownwardAPIVolumeFile, ...] = ()
    default_mode: int | None = None


class SecretProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class ConfigMapProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class ServiceAccountTokenProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    audience: str = ""
    expiration_seconds: int | None = None
    path: str = ""


class VolumeProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    secret: SecretProjection | None = None
    config_map: ConfigMapProjection | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None


class ProjectedVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    sources: tuple[VolumeProjection, ...] = ()
    default_mode: int | None = None


class PersistentVolumeClaimVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    claim_name: str = ""
    read_only: bool = False


class EphemeralVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A claim of the pod's own, `POD-VOLUME`; its template is the API server's matter."""


class Volume(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The source is the one field that is set."""

    name: str = ""
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolumeSource | None = None
    persistent_volume_claim: PersistentVolumeClaimVolumeSource | None = None
    ephemeral: EphemeralVolumeSource | None = None


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


class PodSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    volumes: tuple[Volume, ...] = ()
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
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
    qos_class: str = ""


class Pod(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
