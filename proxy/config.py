"""The proxy's configuration: what we read of KubeProxyConfiguration, and kube-proxy's flags of the same meaning.

Values that upstream writes into dumped configurations to mean "the default" (empty strings, `0s`) mean it here too.
One default differs: `localhostNodePorts` is off. Upstream's `true` needs the sysctl route_localnet, which lets the
network reach what listens on loopback (CVE-2020-8558); asking for it is refused rather than ignored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Annotated

import msgspec

from kube import settings
from kube.errors import UsageError
from kube.settings import Duration, Option

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
PRIMARY = "primary"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientConnection(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "kubeconfig file with the way to the API server")] = ""


class IPTables(msgspec.Struct, frozen=True, kw_only=True):
    masquerade_bit: Annotated[
        int, Option("--iptables-masquerade-bit", "bit of the packet mark (0 to 31) that asks for SNAT")
    ] = 14
    masquerade_all: Annotated[bool, Option("--masquerade-all", "SNAT everything sent to a cluster IP")] = False
    localhost_node_ports: Annotated[
        bool, Option("--iptables-localhost-nodeports", "serve NodePorts on loopback; only false is supported")
    ] = False
    sync_period: Annotated[
        Duration, Option("--iptables-sync-period", "how often rules are compared with the kernel's")
    ] = 30.0
    min_sync_period: Annotated[
        Duration, Option("--iptables-min-sync-period", "least time between two passes over the rules")
    ] = 1.0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    client_connection: ClientConnection = ClientConnection()
    hostname_override: Annotated[str, Option("--hostname-override", "this node's name; empty: the host name")] = ""
    mode: Annotated[str, Option("--proxy-mode", "how rules are written; only iptables is supported")] = "iptables"
    cluster_cidr: Annotated[
        str, Option("--cluster-cidr", "the pods' range; what comes from elsewhere is masqueraded", key="clusterCIDR")
    ] = ""
    detect_local_mode: Annotated[
        str, Option("--detect-local-mode", "how pods are told from others; only ClusterCIDR is supported")
    ] = "ClusterCIDR"
    bind_address: Annotated[str, Option("--bind-address", "this node's IP address; nothing is bound to it")] = "0.0.0.0"
    node_port_addresses: Annotated[
        tuple[str, ...],
        Option("--nodeport-addresses", "serve NodePorts only on local addresses in these CIDRs, or on `primary`"),
    ] = ()
    healthz_bind_address: Annotated[
        str, Option("--healthz-bind-address", "address of /healthz and /livez; empty: none")
    ] = "0.0.0.0:10256"
    metrics_bind_address: Annotated[
        str, Option("--metrics-bind-address", "address of /metrics, /proxyMode and /configz; empty: none")
    ] = "127.0.0.1:10249"
    iptables: IPTables = IPTables()
    cleanup: Annotated[bool, Option("--cleanup", "delete the proxy's rules and exit", key=None)] = False

    @property
    def cluster_networks(self) -> tuple[Network, ...]:
        """clusterCIDR, at most one network a family."""
        return tuple(_network(text, "clusterCIDR") for text in self.cluster_cidr.split(",") if text)

    @property
    def node_port_networks(self) -> tuple[Network, ...]:
        """nodePortAddresses without `primary`; empty means every address."""
        return tuple(_network(text, "nodePortAddresses") for text in self.node_port_addresses if text != PRIMARY)

    @property
    def node_ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """bindAddress where it names one address."""
        try:
            address = ipaddress.ip_address(self.bind_address)
        except ValueError as error:
            raise UsageError(f"bindAddress: {self.bind_address!r} is not an IP address; write this node's") from error
        return None if address.is_unspecified else address


def load(argv: Sequence[str]) -> Config:
    """The configuration from flags and `--config FILE`. Raises UsageError that names the field and the remedy."""
    config = settings.load(
        Config,
        argv,
        prog="wherry-proxy",
        description="The node's service proxy: writes the NAT rules that make Services work.",
        api_version=API_VERSION,
        document_kind=KIND,
    )
    return _checked(_with_defaults(config))


def _with_defaults(config: Config) -> Config:
    """Upstream's spellings of "the default", spelt out."""
    rules = config.iptables
    rules = msgspec.structs.replace(
        rules,
        sync_period=rules.sync_period or IPTables().sync_period,
        min_sync_period=rules.min_sync_period or IPTables().min_sync_period,
    )
    return msgspec.structs.replace(
        config,
        mode=config.mode or "iptables",
        detect_local_mode=config.detect_local_mode or "ClusterCIDR",
        bind_address=config.bind_address or "0.0.0.0",
        iptables=rules,
    )


def _checked(config: Config) -> Config:
    if config.mode != "iptables":
        raise UsageError(f"mode (--proxy-mode): {config.mode!r} is not supported; set iptables")
    if config.detect_local_mode != "ClusterCIDR":
        raise UsageError(
            f"detectLocalMode: {config.detect_local_mode!r} is not supported; set ClusterCIDR and a clusterCIDR"
        )
    if config.iptables.localhost_node_ports:
        raise UsageError(
            "iptables.localhostNodePorts: true is not supported (it needs route_localnet, which opens loopback to the"
            " network); set false and use a node address"
        )
    if not 0 <= config.iptables.masquerade_bit <= 31:
        raise UsageError(f"iptables.masqueradeBit: {config.iptables.masquerade_bit} is not a bit; write 0 to 31")
    families = [network.version for network in config.cluster_networks]
    if len(families) != len(set(families)):
        raise UsageError(f"clusterCIDR: {config.cluster_cidr!r} names a family twice; write one range a family")
    if config.node_port_networks and PRIMARY in config.node_port_addresses:
        raise UsageError("nodePortAddresses: 'primary' stands alone; drop it or the CIDRs")
    _ = config.node_ip  # parsed, so that a bad one is refused here
    if not config.cleanup and not config.client_connection.kubeconfig:
        raise UsageError("clientConnection.kubeconfig (--kubeconfig) is required; name the proxy's kubeconfig file")
    return config


def _network(text: str, key: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise UsageError(f"{key}: {text!r} is not a CIDR; write it like 10.244.0.0/16") from error
