"""The controllers' configuration, under kube-controller-manager's flag names.

Two defaults differ from upstream's, because a Wherry cluster cannot do without them: nodes get a podCIDR unless that is
switched off, and they are cut from 10.244.0.0/16.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from kube.settings import Duration, Option
from kube.settings import load as load_settings


class LeaderElection(msgspec.Struct, frozen=True, kw_only=True):
    """Of several copies one is at work; the others stand by."""

    leader_elect: Annotated[bool, Option("--leader-elect", "work only while holding the Lease")] = True
    resource_namespace: Annotated[str, Option("--leader-elect-resource-namespace", "namespace of the Lease")] = (
        "kube-system"
    )
    resource_name: Annotated[str, Option("--leader-elect-resource-name", "name of the Lease")] = (
        "kube-controller-manager"
    )
    lease_duration: Annotated[
        Duration, Option("--leader-elect-lease-duration", "how long a silent leader is left its Lease")
    ] = 15.0
    renew_deadline: Annotated[
        Duration, Option("--leader-elect-renew-deadline", "a leader that cannot renew for this long ends")
    ] = 10.0
    retry_period: Annotated[Duration, Option("--leader-elect-retry-period", "between two attempts")] = 2.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "kubeconfig file for the API server")]
    bind_address: Annotated[str, Option("--bind-address", "where health and metrics listen")] = "0.0.0.0"
    secure_port: Annotated[int, Option("--secure-port", "HTTPS port of health and metrics")] = 10257
    tls_cert_file: Annotated[
        str, Option("--tls-cert-file", "serving certificate (PEM); self-signed when none is given")
    ] = ""
    tls_private_key_file: Annotated[str, Option("--tls-private-key-file", "its key (PEM)")] = ""
    leader_election: LeaderElection = LeaderElection()
    allocate_node_cidrs: Annotated[
        bool, Option("--allocate-node-cidrs", "give each node a range for its pods", key="allocateNodeCIDRs")
    ] = True
    cluster_cidr: Annotated[
        tuple[str, ...],
        Option("--cluster-cidr", "the ranges that nodes' ranges are cut from, one a family", key="clusterCIDR"),
    ] = ("10.244.0.0/16",)
    node_cidr_mask_size: Annotated[
        int, Option("--node-cidr-mask-size", "prefix length of a node's IPv4 range", key="nodeCIDRMaskSize")
    ] = 24
    node_cidr_mask_size_ipv6: Annotated[
        int, Option("--node-cidr-mask-size-ipv6", "prefix length of a node's IPv6 range", key="nodeCIDRMaskSizeIPv6")
    ] = 64
    node_monitor_grace_period: Annotated[
        Duration, Option("--node-monitor-grace-period", "how long a node may be silent before it is unreachable")
    ] = 40.0
    node_startup_grace_period: Annotated[
        Duration, Option("--node-startup-grace-period", "the same for a node that has not reported yet")
    ] = 60.0
    root_ca_file: Annotated[
        str, Option("--root-ca-file", "CA bundle (PEM) to publish as kube-root-ca.crt in every namespace")
    ] = ""


def load(argv: Sequence[str]) -> Config:
    return load_settings(
        Config,
        argv,
        prog="wherry-controllers",
        description="Runs the cluster's reconcile loops.",
        api_version="wherry.io/v1alpha1",
        document_kind="ControllersConfiguration",
    )
