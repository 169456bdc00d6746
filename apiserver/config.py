"""The server's configuration: kube-apiserver's names, read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from kube import settings
from kube.settings import Duration, Option


class Config(msgspec.Struct, frozen=True, kw_only=True):
    bind_address: Annotated[str, Option("--bind-address", "address to listen on; empty: all")] = "0.0.0.0"
    secure_port: Annotated[int, Option("--secure-port", "port to listen on")] = 6443
    advertise_address: Annotated[
        str, Option("--advertise-address", "address of this server in the endpoints of Service kubernetes")
    ] = ""
    tls_cert_file: Annotated[str, Option("--tls-cert-file", "serving certificate, PEM")] = ""
    tls_private_key_file: Annotated[str, Option("--tls-private-key-file", "its key, PEM")] = ""
    client_ca_file: Annotated[str, Option("--client-ca-file", "CA that signs client certificates, PEM")] = ""
    data_dir: Annotated[str, Option("--data-dir", "directory of the embedded store")] = "/var/lib/wherry/server"
    etcd_servers: Annotated[
        tuple[str, ...], Option("--etcd-servers", "etcd endpoints; without any, the embedded store in --data-dir")
    ] = ()
    etcd_cafile: Annotated[str, Option("--etcd-cafile", "CA of etcd's serving certificates, PEM")] = ""
    etcd_certfile: Annotated[str, Option("--etcd-certfile", "client certificate shown to etcd, PEM")] = ""
    etcd_keyfile: Annotated[str, Option("--etcd-keyfile", "its key, PEM")] = ""
    etcd_prefix: Annotated[str, Option("--etcd-prefix", "what all keys in etcd start with")] = "/registry"
    etcd_compaction_interval: Annotated[
        Duration, Option("--etcd-compaction-interval", "how often old history in etcd is compacted; 0: never")
    ] = 300.0
    service_cluster_ip_range: Annotated[
        str, Option("--service-cluster-ip-range", "CIDR of Service addresses", key="serviceClusterIPRange")
    ] = "10.96.0.0/16"
    service_node_port_range: Annotated[
        str, Option("--service-node-port-range", "ports for NodePort Services, first-last")
    ] = "30000-32767"
    event_ttl: Annotated[Duration, Option("--event-ttl", "how long Events are kept", key="eventTTL")] = 3600.0
    default_not_ready_toleration_seconds: Annotated[
        int, Option("--default-not-ready-toleration-seconds", "toleration of not-ready that Pods without one get")
    ] = 300
    default_unreachable_toleration_seconds: Annotated[
        int, Option("--default-unreachable-toleration-seconds", "toleration of unreachable that Pods without one get")
    ] = 300
    enable_admission_plugins: Annotated[
        str, Option("--enable-admission-plugins", "admission plugins to run besides the default ones")
    ] = ""
    disable_admission_plugins: Annotated[
        str, Option("--disable-admission-plugins", "admission plugins to do without, separated by commas")
    ] = ""
    anonymous_auth: Annotated[
        bool, Option("--anonymous-auth", "whether requests without credentials are anonymous; false: they are refused")
    ] = True
    token_auth_file: Annotated[
        str, Option("--token-auth-file", 'CSV of static bearer tokens: token,user,uid,"group1,group2"')
    ] = ""
    service_account_issuer: Annotated[
        tuple[str, ...],
        Option("--service-account-issuer", "issuers of ServiceAccount tokens: the first one signs, all are believed"),
    ] = ("https://kubernetes.default.svc.cluster.local",)
    service_account_key_file: Annotated[
        tuple[str, ...],
        Option(
            "--service-account-key-file", "PEM files of keys that ServiceAccount tokens are believed by, more than ours"
        ),
    ] = ()
    service_account_signing_key_file: Annotated[
        str,
        Option(
            "--service-account-signing-key-file", "key that signs ServiceAccount tokens, PEM; empty: one in --data-dir"
        ),
    ] = ""
    service_account_jwks_uri: Annotated[
        str,
        Option(
            "--service-account-jwks-uri",
            "where /.well-known/openid-configuration says the keys are; empty: where it was asked",
            key="serviceAccountJWKSURI",
        ),
    ] = ""
    service_account_extend_token_expiration: Annotated[
        bool,
        Option(
            "--service-account-extend-token-expiration",
            "let the tokens of pods live a year, for clients that never read them again",
        ),
    ] = True
    service_account_max_token_expiration: Annotated[
        Duration, Option("--service-account-max-token-expiration", "longest life of a requested token; 0: any")
    ] = 0.0
    api_audiences: Annotated[
        tuple[str, ...],
        Option("--api-audiences", "audiences of this server; empty: the first issuer", key="apiAudiences"),
    ] = ()
    max_requests_inflight: Annotated[
        int, Option("--max-requests-inflight", "reading requests here at a time, running or waiting; 0: any number")
    ] = 400
    max_mutating_requests_inflight: Annotated[
        int,
        Option(
            "--max-mutating-requests-inflight", "writing requests here at a time, running or waiting; 0: any number"
        ),
    ] = 200
    shutdown_delay_duration: Annotated[
        Duration,
        Option("--shutdown-delay-duration", "how long to go on serving, not ready, after being told to end"),
    ] = 0.0
    default_watch_cache_size: Annotated[
        int, Option("--default-watch-cache-size", "events a resource keeps in memory for watches that resume")
    ] = 4096
    audit_policy_file: Annotated[
        str,
        Option(
            "--audit-policy-file", "Policy (audit.k8s.io/v1): which requests are written down, and how much of each"
        ),
    ] = ""
    audit_log_path: Annotated[str, Option("--audit-log-path", "file for audit events; -: standard output")] = ""
    audit_log_maxage: Annotated[int, Option("--audit-log-maxage", "days to keep old audit files; 0: any")] = 0
    audit_log_maxbackup: Annotated[int, Option("--audit-log-maxbackup", "old audit files to keep; 0: all")] = 0
    audit_log_maxsize: Annotated[int, Option("--audit-log-maxsize", "megabytes of an audit file; 0: 100")] = 0
    enable_metrics_api: Annotated[
        bool,
        Option(
            "--enable-metrics-api",
            "answer metrics.k8s.io (kubectl top) from the kubelets' /metrics/resource; false: the group is not there",
            key="enableMetricsAPI",
        ),
    ] = True
    kubelet_client_certificate: Annotated[
        str, Option("--kubelet-client-certificate", "client certificate shown to kubelets (logs, exec), PEM")
    ] = ""
    kubelet_client_key: Annotated[str, Option("--kubelet-client-key", "its key, PEM")] = ""
    kubelet_certificate_authority: Annotated[
        str, Option("--kubelet-certificate-authority", "CA of kubelets' serving certificates, PEM")
    ] = ""


def load(argv: Sequence[str]) -> Config:
    """Raises UsageError."""
    return settings.load(
        Config,
        argv,
        prog="wherry-apiserver",
        description="The Kubernetes API: REST and watch over an embedded store.",
        api_version="wherry.io/v1alpha1",
        document_kind="ApiServerConfiguration",
    )
