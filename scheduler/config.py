"""The scheduler's configuration: the part of KubeSchedulerConfiguration that is honoured, and kube-scheduler's flags."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from kube.settings import Duration, Option
from kube.settings import load as load_settings


class ClientConnection(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "kubeconfig file for the API server")] = ""


class LeaderElection(msgspec.Struct, frozen=True, kw_only=True):
    """Of several schedulers one is at work; the others stand by."""

    leader_elect: Annotated[bool, Option("--leader-elect", "work only while holding the Lease")] = True
    resource_namespace: Annotated[str, Option("--leader-elect-resource-namespace", "namespace of the Lease")] = (
        "kube-system"
    )
    resource_name: Annotated[str, Option("--leader-elect-resource-name", "name of the Lease")] = "kube-scheduler"
    lease_duration: Annotated[
        Duration, Option("--leader-elect-lease-duration", "how long a silent leader is left its Lease")
    ] = 15.0
    renew_deadline: Annotated[
        Duration, Option("--leader-elect-renew-deadline", "a leader that cannot renew for this long ends")
    ] = 10.0
    retry_period: Annotated[Duration, Option("--leader-elect-retry-period", "between two attempts")] = 2.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    client_connection: ClientConnection = ClientConnection()
    leader_election: LeaderElection = LeaderElection()
    bind_address: Annotated[str, Option("--bind-address", "where health and metrics listen", key=None)] = "0.0.0.0"
    secure_port: Annotated[int, Option("--secure-port", "HTTPS port of health and metrics", key=None)] = 10259
    tls_cert_file: Annotated[
        str, Option("--tls-cert-file", "serving certificate (PEM); self-signed when none is given", key=None)
    ] = ""
    tls_private_key_file: Annotated[str, Option("--tls-private-key-file", "its key (PEM)", key=None)] = ""


def load(argv: Sequence[str]) -> Config:
    return load_settings(
        Config,
        argv,
        prog="wherry-scheduler",
        description="Assigns pods to nodes.",
        api_version="kubescheduler.config.k8s.io/v1",
        document_kind="KubeSchedulerConfiguration",
    )
