"""The proxy's configuration: KubeProxyConfiguration v1alpha1, and kube-proxy's flags of the same meaning.

As upstream reads its files, a zero or an empty text there means the default (kubeadm writes them all out), but for the
numbers whose zero has a meaning of its own: bits, scores, and limits of conntrack, where it means "leave as it is". A flag
means what it says. What upstream has and this proxy has not is in `proxy.foreign`, with what to do about it.

Two defaults differ, both on the side of telling. `iptables.localhostNodePorts` is off: it needs the sysctl route_localnet,
with which the network can reach what listens on loopback (CVE-2020-8558), and in nftables mode upstream has none either.
`bindAddressHardFail` is on: a health port that another proxy has taken would answer for this one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from kube import settings
from kube.errors import UsageError
from kube.settings import Duration, Option
from proxy.foreign import FOREIGN

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
PRIMARY = "primary"
_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ZEROS = (
    "masquerade_bit", "oom_score_adj", "max_per_core", "min", "tcp_established_timeout", "tcp_close_wait_timeout",
    "udp_timeout", "udp_stream_timeout", "healthz_bind_address", "metrics_bind_address",
)  # fmt: skip
_VERBOSITY = re.compile(r"^-v(=.*)?$")
"""klog's flag, with one dash as everybody writes it."""
_SHARED_FLAGS = {
    "--iptables-masquerade-bit": "masquerade_bit",
    "--masquerade-all": "masquerade_all",
    "--iptables-sync-period": "sync_period",
    "--iptables-min-sync-period": "min_sync_period",
}
"""Upstream's flags that mean the mode which runs, whatever their name says."""


class ClientConnection(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "kubeconfig file with the way to the API server")] = ""
    qps: Annotated[float, Option("--kube-api-qps", "Events written per second at most; negative: any number")] = 5.0
    burst: Annotated[int, Option("--kube-api-burst", "Events that may be written at once above that")] = 10


class IPTables(msgspec.Struct, frozen=True, kw_only=True):
    masquerade_bit: Annotated[
        int, Option("--iptables-masquerade-bit", "bit of the packet mark (0 to 31) that asks for SNAT")
    ] = 14
    masquerade_all: Annotated[bool, Option("--masquerade-all", "SNAT everything sent to a cluster IP")] = False
    localhost_node_ports: Annotated[
        bool, Option("--iptables-localhost-nodeports", "serve NodePorts on loopback too (IPv4; sets route_localnet)")
    ] = False
    sync_period: Annotated[
        Duration, Option("--iptables-sync-period", "how long a change, or what was refused, may wait for another try")
    ] = 30.0
    min_sync_period: Annotated[
        Duration, Option("--iptables-min-sync-period", "longest pause between two passes of a busy proxy")
    ] = 1.0


class NFTables(msgspec.Struct, frozen=True, kw_only=True):
    """Without flags of its own: upstream's flags mean the mode that runs."""

    masquerade_bit: int = 14
    masquerade_all: bool = False
    sync_period: Duration = 30.0
    min_sync_period: Duration = 1.0


class DetectLocal(msgspec.Struct, frozen=True, kw_only=True):
    bridge_interface: Annotated[str, Option("--pod-bridge-interface", "the bridge of this node's pods")] = ""
    interface_name_prefix: Annotated[
        str, Option("--pod-interface-name-prefix", "how the names of pods' interfaces on this node begin")
    ] = ""


class Conntrack(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the kernel's table of flows; 0 leaves each as it is."""

    max_per_core: Annotated[int, Option("--conntrack-max-per-core", "flows to track per processor")] = 32768
    min: Annotated[int, Option("--conntrack-min", "flows to track at least, whatever max-per-core gives")] = 131072
    tcp_established_timeout: Annotated[
        Duration, Option("--conntrack-tcp-timeout-established", "how long an idle TCP connection is kept")
    ] = 86400.0
    tcp_close_wait_timeout: Annotated[
        Duration, Option("--conntrack-tcp-timeout-close-wait", "how long a half-closed TCP connection is kept")
    ] = 3600.0
    tcp_be_liberal: Annotated[
        bool, Option("--conntrack-tcp-be-liberal", "take TCP packets outside the window for part of their connection")
    ] = False
    udp_timeout: Annotated[Duration, Option("--conntrack-udp-timeout", "how long an unanswered UDP flow is kept")] = 0.0
    udp_stream_timeout: Annotated[
        Duration, Option("--conntrack-udp-timeout-stream", "how long an answered UDP flow is kept")
    ] = 0.0


class Logging(msgspec.Struct, frozen=True, kw_only=True):
    verbosity: Annotated[int, Option("--v", "how much is logged: from 4 on everything (also -v N)")] = 0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    client_connection: ClientConnection = ClientConnection()
    logging: Logging = Logging()
    hostname_override: Annotated[str, Option("--hostname-override", "this node's name; empty: the host name")] = ""
    mode: Annotated[
        Literal["", "iptables", "nftables"], Option("--proxy-mode", "how rules are written: iptables or nftables")
    ] = "iptables"
    cluster_cidr: Annotated[
        str, Option("--cluster-cidr", "the pods' range; what comes from elsewhere is masqueraded", key="clusterCIDR")
    ] = ""
    detect_local_mode: Annotated[
        Literal["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"],
        Option("--detect-local-mode", "how pods are told from others"),
    ] = "ClusterCIDR"
    detect_local: DetectLocal = DetectLocal()
    bind_address: Annotated[str, Option("--bind-address", "this node's IP address; nothing is bound to it")] = "0.0.0.0"
    bind_address_hard_fail: Annotated[
        bool, Option("--bind-address-hard-fail", "end when a health or metrics address is taken; else try again")
    ] = True
    node_port_addresses: Annotated[
        tuple[str, ...],
        Option("--nodeport-addresses", "serve NodePorts only on local addresses in these CIDRs, or on `primary`"),
    ] = ()
    healthz_bind_address: Annotated[
        str, Option("--healthz-bind-address", "address of /healthz and /livez; an empty flag: none")
    ] = "0.0.0.0:10256"
    metrics_bind_address: Annotated[
        str, Option("--metrics-bind-address", "address of /metrics, /proxyMode and /configz; an empty flag: none")
    ] = "127.0.0.1:10249"
    oom_score_adj: Annotated[int, Option("--oom-score-adj", "this process's OOM score, -1000 to 1000")] = -999
    iptables: IPTables = IPTables()
    nftables: NFTables = NFTables()
    conntrack: Conntrack = Conntrack()
    master: Annotated[str, Option("--master", "URL of the API server; wins over the kubeconfig's", key=None)] = ""
    cleanup: Annotated[bool, Option("--cleanup", "delete the proxy's rules of all modes and end", key=None)] = False
    init_only: Annotated[
        bool, Option("--init-only", "set what needs all privileges (sysctls, limits) and end", key=None)
    ] = False
    write_config_to: Annotated[
        str, Option("--write-config-to", "write the configuration in effect to this file and end", key=None)
    ] = ""
    config_file: Annotated[str, Option(None, key=None)] = ""
    """Where this was read from, to end when the file changes: set by `load`."""

    @property
    def rules(self) -> IPTables | NFTables:
        """The section of the mode that runs."""
        return self.nftables if self.mode == "nftables" else self.iptables

    @property
    def cluster_networks(self) -> tuple[Network, ...]:
        """clusterCIDR, at most one network a family."""
        return tuple(_network(text, "clusterCIDR") for text in self.cluster_cidr.split(",") if text)

    @property
    def node_port_networks(self) -> tuple[Network, ...]:
        """nodePortAddresses without `primary`; empty means every address."""
        return tuple(_network(text, "nodePortAddresses") for text in self.node_port_addresses if text != PRIMARY)

    @property
    def serves_loopback(self) -> bool:
        """NodePorts on 127.0.0.0/8: asked for, known in this mode, and not shut out by nodePortAddresses."""
        if self.mode == "nftables" or not self.iptables.localhost_node_ports or PRIMARY in self.node_port_addresses:
            return False
        mine = [each for each in self.node_port_networks if isinstance(each, ipaddress.IPv4Network)]
        return not mine or any(each.overlaps(_LOOPBACK) for each in mine)

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
    argv = [_VERBOSITY.sub(r"--v\1", arg) for arg in argv]
    config = settings.load(
        Config,
        argv,
        prog="wherry-proxy",
        description="The node's service proxy: writes the NAT rules that make Services work.",
        api_version=API_VERSION,
        document_kind=KIND,
        foreign=FOREIGN,
    )
    return _checked(_with_defaults(config, argv))


def _with_defaults(config: Config, argv: Sequence[str]) -> Config:
    """Upstream's spellings of "the default", spelt out, and flags that mean the mode."""
    config = settings.with_defaults(config, keep=_ZEROS)
    given = {arg.partition("=")[0] for arg in argv}
    shared = {field: getattr(config.iptables, field) for flag, field in _SHARED_FLAGS.items() if flag in given}
    doors = {
        name: getattr(config, name) or ("" if flag in given else getattr(Config(), name))
        for flag, name in (
            ("--healthz-bind-address", "healthz_bind_address"),
            ("--metrics-bind-address", "metrics_bind_address"),
        )
    }
    addresses = config.node_port_addresses or ((PRIMARY,) if config.mode == "nftables" else ())
    return msgspec.structs.replace(
        config,
        nftables=msgspec.structs.replace(config.nftables, **shared),
        node_port_addresses=addresses,
        config_file=_config_file(argv),
        **doors,
    )


def _config_file(argv: Sequence[str]) -> str:
    for before, arg in zip(("", *argv), argv, strict=False):
        if arg.startswith("--config="):
            return arg.partition("=")[2]
        if before == "--config":
            return arg
    return ""


def _checked(config: Config) -> Config:
    _check_numbers(config)
    detect, mode = config.detect_local, config.detect_local_mode
    for wanted, key, value in (
        ("BridgeInterface", "bridgeInterface", detect.bridge_interface),
        ("InterfaceNamePrefix", "interfaceNamePrefix", detect.interface_name_prefix),
    ):
        if mode == wanted and not value:
            raise UsageError(f"detectLocal.{key} is empty: detectLocalMode {mode} needs it; name it")
        if len(value) > 15:
            raise UsageError(f"detectLocal.{key}: {value!r}: interface names have at most 15 characters; shorten it")
    families = [network.version for network in config.cluster_networks]
    if len(families) != len(set(families)):
        raise UsageError(f"clusterCIDR: {config.cluster_cidr!r} names a family twice; write one range a family")
    if config.node_port_networks and PRIMARY in config.node_port_addresses:
        raise UsageError("nodePortAddresses: 'primary' stands alone; drop it or the CIDRs")
    _ = config.node_ip  # parsed, so that a bad one is refused here
    if config.master and not config.master.startswith(("http://", "https://")):
        raise UsageError(f"--master: {config.master!r} is not https://host:port; write it so or remove it")
    apart = config.cleanup or config.init_only or config.write_config_to
    if not apart and not config.client_connection.kubeconfig and not config.master:
        raise UsageError("clientConnection.kubeconfig (--kubeconfig) is required; name the proxy's kubeconfig file")
    return config


def _check_numbers(config: Config) -> None:
    for section, rules in (("iptables", config.iptables), ("nftables", config.nftables)):
        if not 0 <= rules.masquerade_bit <= 31:
            raise UsageError(f"{section}.masqueradeBit: {rules.masquerade_bit} is not a bit; write 0 to 31")
        if rules.min_sync_period > rules.sync_period:
            raise UsageError(
                f"{section}.minSyncPeriod: {settings.format_duration(rules.min_sync_period)} is longer than"
                f" syncPeriod, {settings.format_duration(rules.sync_period)}; write at most that"
            )
    if not -1000 <= config.oom_score_adj <= 1000:
        raise UsageError(f"oomScoreAdj: {config.oom_score_adj}: scores are -1000 to 1000")
    for key, value in (("maxPerCore", config.conntrack.max_per_core), ("min", config.conntrack.min)):
        if value < 0:
            raise UsageError(
                f"conntrack.{key}: {value} is negative; write how many flows, or 0 to leave the limit alone"
            )
    if config.client_connection.burst < 0:
        raise UsageError(f"clientConnection.burst: {config.client_connection.burst} is negative; write 1 or more")


def _network(text: str, key: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise UsageError(f"{key}: {text!r} is not a CIDR; write it like 10.244.0.0/16") from error
