"""The kubelet's configuration: KubeletConfiguration (kubelet.config.k8s.io/v1beta1) and upstream's flags.

Units and defaults are upstream's, and so is the rule that a zero or an empty text in the file means the default
(kubeadm writes every duration as `0s`). Every key here is read somewhere. What upstream's kubelet has and this one does
not is in `kubelet.foreign`, with what to do about it: refused in words, never ignored.

    defaults < --config < --config-dir/*.conf (sorted, JSON merge patches) < flags
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from kube import quantity, settings
from kube.errors import UsageError
from kube.settings import Duration, Option
from kubelet.foreign import FOREIGN

API_VERSION = "kubelet.config.k8s.io/v1beta1"
KIND = "KubeletConfiguration"

EVICTION_HARD = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
"""Upstream's thresholds, in force as long as the file names none of its own."""
SIGNALS = (*EVICTION_HARD, "pid.available")


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class X509(msgspec.Struct, frozen=True, kw_only=True):
    client_ca_file: Annotated[
        str, Option("--client-ca-file", "CA whose client certificates may use the API on --port", key="clientCAFile")
    ] = ""


class AuthenticationWebhook(msgspec.Struct, frozen=True, kw_only=True):
    enabled: Annotated[bool, Option("--authentication-token-webhook", "ask the API server about bearer tokens")] = True
    cache_ttl: Annotated[Duration, Option(None, key="cacheTTL")] = 120.0


class Anonymous(msgspec.Struct, frozen=True, kw_only=True):
    enabled: Annotated[bool, Option("--anonymous-auth", "take who shows nothing as system:anonymous")] = False


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    x509: X509 = X509()
    webhook: AuthenticationWebhook = AuthenticationWebhook()
    anonymous: Anonymous = Anonymous()


class AuthorizationWebhook(msgspec.Struct, frozen=True, kw_only=True):
    cache_authorized_ttl: Annotated[Duration, Option(None, key="cacheAuthorizedTTL")] = 300.0
    cache_unauthorized_ttl: Annotated[Duration, Option(None, key="cacheUnauthorizedTTL")] = 30.0


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    mode: Annotated[
        Literal["AlwaysAllow", "Webhook"],
        Option("--authorization-mode", "Webhook asks the API server what a user may do"),
    ] = "Webhook"
    webhook: AuthorizationWebhook = AuthorizationWebhook()


class CrashLoopBackOff(msgspec.Struct, frozen=True, kw_only=True):
    max_container_restart_period: Duration = 300.0


class Logging(msgspec.Struct, frozen=True, kw_only=True):
    verbosity: Annotated[int, Option("--v", "how much is logged: from 4 on everything")] = 0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    # who this node is, by flag only
    kubeconfig: Annotated[str, Option("--kubeconfig", "how to reach the API server", key=None)]
    bootstrap_kubeconfig: Annotated[
        str, Option("--bootstrap-kubeconfig", "how to ask for a first certificate; writes --kubeconfig", key=None)
    ] = ""
    cert_dir: Annotated[
        str, Option("--cert-dir", "where signed certificates are kept; empty means pki in --root-dir", key=None)
    ] = ""
    hostname_override: Annotated[
        str, Option("--hostname-override", "name of this node; empty means the machine's hostname", key=None)
    ] = ""
    node_ip: Annotated[
        str,
        Option("--node-ip", "this node's address, or two of two families; empty: of the route to the API", key=None),
    ] = ""
    node_labels: Annotated[dict[str, str], Option("--node-labels", "labels to register the node with", key=None)] = {}
    cloud_provider: Annotated[
        Literal["", "external"], Option("--cloud-provider", "external: a controller will initialize the node", key=None)
    ] = ""
    provider_id: Annotated[str, Option("--provider-id", "the machine's name with its provider", key="providerID")] = ""
    root_dir: Annotated[str, Option("--root-dir", "where pods' volumes and files live", key=None)] = "/var/lib/kubelet"
    cni_conf_dir: Annotated[str, Option("--cni-conf-dir", "where the network configuration is", key=None)] = (
        "/etc/cni/net.d"
    )
    cni_bin_dir: Annotated[
        tuple[str, ...], Option("--cni-bin-dir", "where network plugins are looked for", key=None)
    ] = ("/opt/wherry/cni/bin", "/opt/cni/bin", "/usr/lib/cni")
    cni_cache_dir: Annotated[str, Option("--cni-cache-dir", "where network results are kept", key=None)] = (
        "/var/lib/cni/cache"
    )
    pod_infra_container_image: Annotated[
        str, Option("--pod-infra-container-image", "image of the pause container (Docker); built here", key=None)
    ] = "wherry.local/pause:1"
    image_credential_provider_config: Annotated[
        str, Option("--image-credential-provider-config", "which plugins give credentials of registries", key=None)
    ] = ""
    image_credential_provider_bin_dir: Annotated[
        str, Option("--image-credential-provider-bin-dir", "where those plugins are", key=None)
    ] = ""

    # pods that do not come from the API
    static_pod_path: Annotated[
        str, Option("--pod-manifest-path", "a file or directory of Pods to run without an API server")
    ] = ""
    static_pod_url: Annotated[str, Option("--manifest-url", "where Pods to run are fetched", key="staticPodURL")] = ""
    static_pod_url_header: Annotated[dict[str, tuple[str, ...]], Option(None, key="staticPodURLHeader")] = {}
    file_check_frequency: Annotated[
        Duration, Option("--file-check-frequency", "how often --pod-manifest-path is read, whatever is heard of it")
    ] = 20.0
    http_check_frequency: Duration = 20.0

    # the runtime
    container_runtime_endpoint: Annotated[
        str, Option("--container-runtime-endpoint", "docker:///path/to/docker.sock or unix:///path/to/cri.sock")
    ] = "docker:///var/run/docker.sock"
    runtime_request_timeout: Annotated[
        Duration, Option("--runtime-request-timeout", "for the runtime's answers, pulls and streams apart")
    ] = 120.0
    serialize_image_pulls: Annotated[bool, Option("--serialize-image-pulls", "pull one image at a time")] = True
    max_parallel_image_pulls: int | None = None
    registry_pull_qps: Annotated[
        int, Option("--registry-qps", "pulls a second; 0: no limit", key="registryPullQPS")
    ] = 5
    registry_burst: Annotated[int, Option("--registry-burst", "pulls at once above that")] = 10
    image_minimum_gc_age: Annotated[
        Duration, Option("--minimum-image-ttl-duration", "no unused image goes before", key="imageMinimumGCAge")
    ] = 120.0
    image_maximum_gc_age: Annotated[Duration, Option(None, key="imageMaximumGCAge")] = 0.0
    image_gc_high_threshold_percent: Annotated[
        int,
        Option("--image-gc-high-threshold", "how full the disk is when images go", key="imageGCHighThresholdPercent"),
    ] = 85
    image_gc_low_threshold_percent: Annotated[
        int, Option("--image-gc-low-threshold", "and down to what", key="imageGCLowThresholdPercent")
    ] = 80

    # what it serves
    address: Annotated[str, Option("--address", "where the kubelet's API listens")] = "0.0.0.0"
    port: Annotated[int, Option("--port", "port of the kubelet's API, over TLS")] = 10250
    read_only_port: Annotated[int, Option("--read-only-port", "port without TLS or identity; 0 turns it off")] = 0
    healthz_bind_address: Annotated[str, Option("--healthz-bind-address", "where /healthz listens")] = "127.0.0.1"
    healthz_port: Annotated[int, Option("--healthz-port", "port of /healthz; 0 turns it off")] = 10248
    tls_cert_file: Annotated[
        str, Option("--tls-cert-file", "certificate of the kubelet's API; empty means self-signed")
    ] = ""
    tls_private_key_file: Annotated[str, Option("--tls-private-key-file", "its key")] = ""
    tls_cipher_suites: Annotated[tuple[str, ...], Option("--tls-cipher-suites", "ciphers below TLS 1.3")] = ()
    tls_min_version: Annotated[str, Option("--tls-min-version", "VersionTLS12 or VersionTLS13")] = ""
    rotate_certificates: Annotated[
        bool, Option("--rotate-certificates", "renew the client certificate before it ends")
    ] = False
    server_tls_bootstrap: Annotated[bool, Option(None, key="serverTLSBootstrap")] = False
    authentication: Authentication = Authentication()
    authorization: Authorization = Authorization()
    streaming_connection_idle_timeout: Annotated[
        Duration, Option("--streaming-connection-idle-timeout", "how long a silent exec or port-forward is kept")
    ] = 14400.0
    enable_debugging_handlers: bool = True
    enable_system_log_handler: bool = True
    enable_system_log_query: bool = False
    volume_stats_agg_period: Duration = 60.0
    event_record_qps: Annotated[int, Option("--event-qps", "Events a second; 0: no limit", key="eventRecordQPS")] = 50
    event_burst: Annotated[int, Option("--event-burst", "Events at once above that")] = 100
    logging: Logging = Logging()

    # the Node
    register_node: Annotated[bool, Option("--register-node", "create the Node object")] = True
    register_with_taints: Annotated[
        tuple[Taint | str, ...], Option("--register-with-taints", "taints to register with, key=value:effect")
    ] = ()
    node_status_update_frequency: Annotated[
        Duration, Option("--node-status-update-frequency", "how often the node's status is looked at")
    ] = 10.0
    node_status_report_frequency: Duration = 300.0
    node_status_max_images: Annotated[
        int, Option("--node-status-max-images", "how many images the status names; -1: all")
    ] = 50
    node_lease_duration_seconds: int = 40
    max_pods: Annotated[int, Option("--max-pods", "how many pods fit on this node")] = 110
    pods_per_core: Annotated[int, Option("--pods-per-core", "pods a core, within --max-pods; 0: no limit")] = 0
    kube_reserved: Annotated[dict[str, str], Option("--kube-reserved", "what Kubernetes' own daemons need")] = {}
    system_reserved: Annotated[dict[str, str], Option("--system-reserved", "what the system needs")] = {}
    enforce_node_allocatable: Annotated[
        tuple[str, ...],
        Option("--enforce-node-allocatable", "pods: hold them together to what is not reserved; or none"),
    ] = ("pods",)
    eviction_hard: Annotated[
        dict[str, str], Option("--eviction-hard", "thresholds of the node's pressures, like memory.available<100Mi")
    ] = msgspec.field(default_factory=lambda: dict(EVICTION_HARD))
    merge_default_eviction_settings: bool = False
    eviction_pressure_transition_period: Duration = 300.0
    local_storage_capacity_isolation: bool = True
    fail_swap_on: Annotated[bool, Option("--fail-swap-on", "refuse to start while there is swap")] = True
    fail_cgroup_v1: Annotated[bool, Option(None, key="failCgroupV1")] = False
    protect_kernel_defaults: Annotated[
        bool, Option("--protect-kernel-defaults", "refuse to start where kernel parameters are not as needed")
    ] = False
    oom_score_adj: Annotated[int, Option("--oom-score-adj", "the kubelet's own", key="oomScoreAdj")] = -999
    max_open_files: int = 1_000_000

    # pods
    sync_frequency: Annotated[
        Duration, Option("--sync-frequency", "how often a pod is looked at when nothing happens")
    ] = 60.0
    pod_logs_dir: Annotated[str, Option("--pod-logs-dir", "where containers' logs are")] = "/var/log/pods"
    container_log_max_size: Annotated[str, Option("--container-log-max-size", "of a log, until it is rotated")] = "10Mi"
    container_log_max_files: Annotated[
        int, Option("--container-log-max-files", "of a container, the rotated ones too")
    ] = 5
    container_log_max_workers: int = 1
    container_log_monitor_interval: Duration = 10.0
    cgroup_root: Annotated[str, Option("--cgroup-root", "the group below which kubepods lives")] = "/"
    pod_pids_limit: Annotated[int, Option("--pod-max-pids", "processes of a pod; -1: no limit")] = -1
    cpu_cfs_quota: Annotated[bool, Option("--cpu-cfs-quota", "hold containers to limits.cpu", key="cpuCFSQuota")] = True
    cpu_cfs_quota_period: Annotated[Duration, Option(None, key="cpuCFSQuotaPeriod")] = 0.1
    seccomp_default: Annotated[bool, Option("--seccomp-default", "RuntimeDefault where a pod names no profile")] = False
    allowed_unsafe_sysctls: Annotated[
        tuple[str, ...], Option("--allowed-unsafe-sysctls", "sysctls beyond the safe ones; net.ipv4.* takes all below")
    ] = ()
    cluster_dns: Annotated[
        tuple[str, ...], Option("--cluster-dns", "DNS servers of ClusterFirst pods", key="clusterDNS")
    ] = ()
    cluster_domain: Annotated[str, Option("--cluster-domain", "the cluster's DNS domain")] = "cluster.local"
    resolv_conf: Annotated[str, Option("--resolv-conf", "what pods inherit their resolver from")] = "/etc/resolv.conf"
    crash_loop_back_off: CrashLoopBackOff = CrashLoopBackOff()

    @property
    def node_ips(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.node_ip.split(",") if part.strip())

    @property
    def thresholds(self) -> dict[str, str]:
        """The hard eviction thresholds in force, by signal."""
        return {**EVICTION_HARD, **self.eviction_hard} if self.merge_default_eviction_settings else self.eviction_hard


_ZERO_COUNTS = frozenset(
    {
        "healthz_port", "read_only_port", "registry_pull_qps", "event_record_qps", "image_gc_high_threshold_percent",
        "image_gc_low_threshold_percent", "pods_per_core", "node_status_max_images", "oom_score_adj", "resolv_conf",
        "max_parallel_image_pulls", "verbosity",
    }
)  # fmt: skip
"""Fields of which a zero is a wish of its own (pointers, upstream)."""


def shown(config: Config) -> dict[str, Any]:
    """The whole KubeletConfiguration in force, as /configz has it: also what could not be asked for otherwise. What the web
    server of static pods is shown to be let in is not for everybody who may see this."""
    fixed = {key: other.as_is[0] for key, other in FOREIGN.items() if other.as_is and "." not in key}
    found = {**fixed, **settings.render(config), "kind": KIND, "apiVersion": API_VERSION}
    found["staticPodURL"] = without_userinfo(config.static_pod_url)
    found["staticPodURLHeader"] = {
        name: ["<masked>"] * len(each) for name, each in config.static_pod_url_header.items()
    }
    return found


def without_userinfo(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return scheme + slashes + authority.rpartition("@")[2] + slash + path


def load(argv: Sequence[str]) -> Config:
    """Raises UsageError naming the flag or key and the remedy."""
    config = settings.load(
        Config,
        argv,
        prog="wherry-kubelet",
        description="Run the pods that are bound to this node.",
        api_version=API_VERSION,
        document_kind=KIND,
        drop_ins=True,
        foreign=FOREIGN,
    )
    config = settings.with_defaults(config, keep=_ZERO_COUNTS)
    check(config)
    return config


_TAINT = re.compile(r"[^=:,\s]+(=[^=:,\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_RESERVABLE = ("cpu", "memory", "ephemeral-storage", "pid")


def check(config: Config) -> None:
    """What types cannot say."""
    _check_node(config)
    _check_paths(config)
    _check_amounts(config)
    if not config.kubeconfig:
        raise UsageError(
            "--kubeconfig is empty; name a kubeconfig file, or where --bootstrap-kubeconfig shall write one"
        )
    if config.container_log_max_files < 2:
        raise UsageError(
            f"containerLogMaxFiles: {config.container_log_max_files}: at least 2, the one that is written too"
        )
    longest = config.crash_loop_back_off.max_container_restart_period
    if not 1 <= longest <= 300:
        raise UsageError(f"crashLoopBackOff.maxContainerRestartPeriod: {longest:g}s: between 1s and 300s")
    high, low = config.image_gc_high_threshold_percent, config.image_gc_low_threshold_percent
    if not 0 <= low < high <= 100:
        raise UsageError(
            f"imageGCLowThresholdPercent {low}, imageGCHighThresholdPercent {high}: both from 0 to 100, the low one lower"
        )
    if 0 < config.image_maximum_gc_age <= config.image_minimum_gc_age:
        raise UsageError("imageMaximumGCAge: must be longer than imageMinimumGCAge, or 0 for no limit")
    if config.tls_min_version not in ("", "VersionTLS12", "VersionTLS13"):  # `server.tls.VERSIONS`
        raise UsageError(f"tlsMinVersion: {config.tls_min_version!r}: write VersionTLS12 or VersionTLS13")
    parallel = config.max_parallel_image_pulls
    if parallel is not None and (parallel < 1 or (parallel > 1 and config.serialize_image_pulls)):
        raise UsageError(
            f"maxParallelImagePulls: {parallel}: at least 1, and more than 1 only with serializeImagePulls: false"
        )


def _check_node(config: Config) -> None:
    try:
        families = [ipaddress.ip_address(part).version for part in config.node_ips]
    except ValueError as error:
        raise UsageError(f"--node-ip: {config.node_ip!r} is not an IP address") from error
    if len(families) > 2 or len(set(families)) < len(families):
        raise UsageError(f"--node-ip: {config.node_ip!r}: one address, or two of which one is IPv4 and one IPv6")
    for taint in config.register_with_taints:
        if isinstance(taint, str) and not _TAINT.fullmatch(taint):
            raise UsageError(
                f"--register-with-taints: {taint!r}: write key=value:effect with effect NoSchedule, PreferNoSchedule "
                "or NoExecute"
            )
    check_labels(config.node_labels)
    name = config.hostname_override.strip().lower()
    if name and (len(name) > 253 or not _NAME.fullmatch(name)):
        raise UsageError(
            f"--hostname-override: {config.hostname_override!r}: letters, digits, '-' and '.', as a host name"
        )
    if config.max_pods < 1:
        raise UsageError(f"--max-pods: {config.max_pods}: a node carries at least one pod")
    if config.node_lease_duration_seconds < 4:
        raise UsageError(f"nodeLeaseDurationSeconds: {config.node_lease_duration_seconds}: at least 4, default 40")


_OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
    }
)  # fmt: skip
_OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


def check_labels(labels: dict[str, str]) -> None:
    """A node may give itself only some labels in Kubernetes' own domains (NodeRestriction refuses the others)."""
    for key in labels:
        domain = key.partition("/")[0] if "/" in key else ""
        reserved = any(domain == own or domain.endswith(f".{own}") for own in ("kubernetes.io", "k8s.io"))
        allowed = any(domain == own or domain.endswith(f".{own}") for own in _OWN_DOMAINS)
        if reserved and not allowed and key not in _OWN_LABELS:
            raise UsageError(
                f"--node-labels: {key}: a node may not give itself this label of Kubernetes' own; use node.kubernetes.io/, "
                "a domain of yours, or kubectl label node"
            )


def _check_paths(config: Config) -> None:
    for flag, path in (("--root-dir", config.root_dir), ("podLogsDir", config.pod_logs_dir)):
        if not path.startswith("/"):
            raise UsageError(f"{flag}: {path!r}: an absolute path is needed, containers' mounts come from there")
    if config.static_pod_path and not config.static_pod_path.startswith("/"):
        raise UsageError(f"staticPodPath: {config.static_pod_path!r}: write an absolute path")
    if config.static_pod_url and not config.static_pod_url.startswith(("http://", "https://")):
        raise UsageError(f"staticPodURL: {config.static_pod_url!r}: write http://... or https://...")
    if not config.cgroup_root.startswith("/") or ".." in config.cgroup_root.split("/"):
        raise UsageError(f"--cgroup-root: {config.cgroup_root!r}: write it from the root of the cgroup tree, like /")


def _check_amounts(config: Config) -> None:
    for key, amounts in (("kubeReserved", config.kube_reserved), ("systemReserved", config.system_reserved)):
        for name, amount in amounts.items():
            if name not in _RESERVABLE:
                raise UsageError(f"{key}.{name}: unknown resource; known are {', '.join(_RESERVABLE)}")
            _quantity(f"{key}.{name}", amount)
    for signal, amount in config.eviction_hard.items():
        if signal not in SIGNALS:
            raise UsageError(f"evictionHard.{signal}: unknown signal; known are {', '.join(SIGNALS)}")
        _threshold(f"evictionHard.{signal}", amount)
    for level in config.enforce_node_allocatable:
        if level not in ("pods", "none"):
            raise UsageError(
                f"enforceNodeAllocatable: {level!r}: daemons are not moved between cgroups; write [pods] or [none], and let "
                "their systemd units limit them"
            )
    _quantity("containerLogMaxSize", config.container_log_max_size)
    if not 0.001 <= config.cpu_cfs_quota_period <= 1:
        raise UsageError(f"cpuCFSQuotaPeriod: {config.cpu_cfs_quota_period:g}s: between 1ms and 1s")


def _quantity(where: str, amount: str) -> None:
    try:
        found = quantity.parse(amount)
    except ValueError as error:
        raise UsageError(f"{where}: {amount!r} is no quantity; write it like 100m, 256Mi or 10Gi") from error
    if found < 0:
        raise UsageError(f"{where}: {amount!r} is negative")


def _threshold(where: str, amount: str) -> None:
    """A quantity, or a share in percent."""
    if not amount.endswith("%"):
        _quantity(where, amount)
    elif not re.fullmatch(r"\d+(\.\d+)?", amount[:-1]) or not 0 <= float(amount[:-1]) <= 100:
        raise UsageError(f"{where}: {amount!r}: write a share from 0% to 100%")
