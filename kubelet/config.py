"""The kubelet's configuration: the part of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) that is read, and
upstream's flags.
 Units and defaults are upstream's. What this kubelet does not do yet has no key: an unknown key is refused, never
ignored.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from kube import settings
from kube.errors import UsageError
from kube.settings import Duration, Option

API_VERSION = "kubelet.config.k8s.io/v1beta1"
KIND = "KubeletConfiguration"


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class X509(msgspec.Struct, frozen=True, kw_only=True):
    client_ca_file: Annotated[
        str, Option("--client-ca-file", "CA whose client certificates may use the API on --port", key="clientCAFile")
    ] = ""


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    x509: X509 = X509()


class CrashLoopBackOff(msgspec.Struct, frozen=True, kw_only=True):
    max_container_restart_period: Duration = 300.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "how to reach the API server", key=None)]
    hostname_override: Annotated[
        str, Option("--hostname-override", "name of this node; empty means the machine's hostname", key=None)
    ] = ""
    node_ip: Annotated[
        str, Option("--node-ip", "this node's address; empty means that of the route to the API server", key=None)
    ] = ""
    node_labels: Annotated[dict[str, str], Option("--node-labels", "labels to register the node with", key=None)] = {}
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
        str, Option("--pod-infra-container-image", "image of the pause container; the default is built here", key=None)
    ] = "wherry.local/pause:1"
    container_runtime_endpoint: Annotated[
        str, Option("--container-runtime-endpoint", "docker:///path/to/docker.sock")
    ] = "docker:///var/run/docker.sock"

    address: Annotated[str, Option("--address", "where the kubelet's API listens")] = "0.0.0.0"
    port: Annotated[int, Option("--port", "port of the kubelet's API, over TLS")] = 10250
    healthz_bind_address: Annotated[str, Option("--healthz-bind-address", "where /healthz listens")] = "127.0.0.1"
    healthz_port: Annotated[int, Option("--healthz-port", "port of /healthz; 0 turns it off")] = 10248
    tls_cert_file: Annotated[
        str, Option("--tls-cert-file", "certificate of the kubelet's API; empty means self-signed")
    ] = ""
    tls_private_key_file: Annotated[str, Option("--tls-private-key-file", "its key")] = ""
    authentication: Authentication = Authentication()

    register_node: Annotated[bool, Option("--register-node", "create the Node object")] = True
    register_with_taints: Annotated[
        tuple[Taint | str, ...], Option("--register-with-taints", "taints to register with, key=value:effect")
    ] = ()
    node_status_update_frequency: Duration = 10.0
    node_status_report_frequency: Duration = 300.0
    node_lease_duration_seconds: int = 40
    sync_frequency: Annotated[
        Duration, Option("--sync-frequency", "how often a pod is looked at when nothing happens")
    ] = 60.0
    runtime_request_timeout: Duration = 120.0
    max_pods: Annotated[int, Option("--max-pods", "how many pods fit on this node")] = 110
    pod_logs_dir: Annotated[str, Option("--pod-logs-dir", "where containers' logs are")] = "/var/log/pods"
    container_log_max_size: str = "10Mi"
    container_log_max_files: int = 5
    cgroup_root: Annotated[str, Option("--cgroup-root", "the group below which kubepods lives")] = "/"
    cgroup_driver: Annotated[Literal["cgroupfs"], Option("--cgroup-driver", "cgroupfs is what there is")] = "cgroupfs"
    kube_reserved: dict[str, str] = {}
    system_reserved: dict[str, str] = {}
    cluster_dns: Annotated[
        tuple[str, ...], Option("--cluster-dns", "DNS servers of ClusterFirst pods", key="clusterDNS")
    ] = ()
    cluster_domain: Annotated[str, Option("--cluster-domain", "the cluster's DNS domain")] = "cluster.local"
    resolv_conf: Annotated[str, Option("--resolv-conf", "what pods inherit their resolver from")] = "/etc/resolv.conf"
    crash_loop_back_off: CrashLoopBackOff = CrashLoopBackOff()


def load(argv: Sequence[str]) -> Config:
    """Raises UsageError naming the flag or key and the remedy."""
    config = settings.load(
        Config,
        argv,
        prog="wherry-kubelet",
        description="Run the pods that are bound to this node.",
        api_version=API_VERSION,
        document_kind=KIND,
    )
    check(config)
    return config


_TAINT = re.compile(r"[^=:,\s]+(=[^=:,\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)")


def check(config: Config) -> None:
    """What types cannot say."""
    if config.node_ip:
        try:
            ipaddress.ip_address(config.node_ip)
        except ValueError as error:
            raise UsageError(f"--node-ip: {config.node_ip!r} is not an IP address") from error
    for taint in config.register_with_taints:
        if isinstance(taint, str) and not _TAINT.fullmatch(taint):
            raise UsageError(
                f"--register-with-taints: {taint!r}: write key=value:effect with effect NoSchedule, PreferNoSchedule "
                "or NoExecute"
            )
    for flag, path in (("--root-dir", config.root_dir), ("podLogsDir", config.pod_logs_dir)):
        if not path.startswith("/"):
            raise UsageError(f"{flag}: {path!r}: an absolute path is needed, containers' mounts come from there")
    if not config.cgroup_root.startswith("/") or ".." in config.cgroup_root.split("/"):
        raise UsageError(f"--cgroup-root: {config.cgroup_root!r}: write it from the root of the cgroup tree, like /")
    if config.max_pods < 1:
        raise UsageError(f"--max-pods: {config.max_pods}: a node carries at least one pod")
    if config.node_lease_duration_seconds < 4:
        raise UsageError(f"nodeLeaseDurationSeconds: {config.node_lease_duration_seconds}: at least 4, default 40")
    longest = config.crash_loop_back_off.max_container_restart_period
    if not 1 <= longest <= 300:
        raise UsageError(f"crashLoopBackOff.maxContainerRestartPeriod: {longest:g}s: between 1s and 300s")
