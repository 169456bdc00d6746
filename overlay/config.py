"""What the overlay reads at the door: flannel's flags and environment, or an OverlayConfiguration.

Names and defaults are flannel's. Two defaults differ. A kubeconfig alone chooses the Kubernetes API as the registry, as
--kube-subnet-mgr does; without either it is etcd. Health and metrics are served unless they are switched off.

The interface that carries the overlay is, unless one is named, the one with the route to the registry: every node has that
route, and to the same underlay as the other nodes, while the interface of the default route, flannel's choice, is the
same NAT on every machine of a Vagrantfile.
"""

import os
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

import msgspec

from kube import settings
from kube.errors import UsageError
from kube.settings import Duration, Option
from overlay import flags

_LEASE_MINUTES = 24 * 60
_PLAIN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:]+):\d+")
_PREFIX = re.compile(r"/\w+([./-]\w+)*")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "how to reach the API server (also --kubeconfig-file)")] = ""
    kube_subnet_mgr: Annotated[
        bool | None,
        Option("--kube-subnet-mgr", "subnets are the Nodes' podCIDRs; else etcd's. Without it a kubeconfig decides"),
    ] = None
    kube_api_url: Annotated[str, Option("--kube-api-url", "URL of the API server; wins over the kubeconfig's")] = ""
    kube_annotation_prefix: Annotated[
        str, Option("--kube-annotation-prefix", "prefix of the annotations by which nodes find each other")
    ] = "flannel.alpha.coreos.com"
    set_node_network_unavailable: Annotated[
        bool,
        Option("--set-node-network-unavailable", "say NetworkUnavailable=False on the Node once the network is up"),
    ] = True
    net_config_path: Annotated[
        str, Option("--net-config-path", "the network: flannel's net-conf.json (etcd has it under its key `config`)")
    ] = "/etc/kube-flannel/net-conf.json"
    hostname_override: Annotated[
        str,
        Option(
            "--hostname-override",
            "this node's name; else $NODE_NAME, else the node of $POD_NAME in $POD_NAMESPACE, else the host's name",
        ),
    ] = ""

    etcd_endpoints: Annotated[tuple[str, ...], Option("--etcd-endpoints", "where etcd (v3) is")] = (
        "http://127.0.0.1:4001",
        "http://127.0.0.1:2379",
    )
    etcd_prefix: Annotated[str, Option("--etcd-prefix", "below which key the network is")] = "/coreos.com/network"
    etcd_keyfile: Annotated[str, Option("--etcd-keyfile", "client key for etcd")] = ""
    etcd_certfile: Annotated[str, Option("--etcd-certfile", "client certificate for etcd")] = ""
    etcd_cafile: Annotated[str, Option("--etcd-cafile", "authority that signed etcd's certificate")] = ""
    etcd_username: Annotated[str, Option("--etcd-username", "user of etcd")] = ""
    etcd_password: Annotated[str, Option("--etcd-password", "that user's password", key=None)] = ""
    subnet_lease_renew_margin: Annotated[
        int, Option("--subnet-lease-renew-margin", "minutes before its end at which the lease in etcd is renewed")
    ] = 60

    iface: Annotated[
        tuple[str, ...],
        Option(
            "--iface",
            "interface, by name or address, that carries the overlay; of several the first there is",
            whole=True,
        ),
    ] = ()
    iface_regex: Annotated[
        tuple[str, ...],
        Option("--iface-regex", "the same by a pattern for addresses or names, after --iface", whole=True),
    ] = ()
    iface_can_reach: Annotated[
        str, Option("--iface-can-reach", "carry the overlay on the interface with the route to this address")
    ] = ""
    public_ip: Annotated[
        str, Option("--public-ip", "address at which other nodes reach this one, when not the interface's own")
    ] = ""
    public_ipv6: Annotated[str, Option("--public-ipv6", "the same for IPv6")] = ""

    subnet_file: Annotated[str, Option("--subnet-file", "where CNI plugins read this node's subnet and MTU")] = (
        "/run/flannel/subnet.env"
    )
    ip_masq: Annotated[bool, Option("--ip-masq", "give packets that leave the network this node's address")] = False
    ip_masq_fully_random_disable: Annotated[
        bool, Option("--ip-masq-fully-random-disable", "masquerade without --random-fully")
    ] = False
    iptables_forward_rules: Annotated[
        bool, Option("--iptables-forward-rules", "accept the network's packets in FORWARD")
    ] = True
    iptables_resync: Annotated[
        Duration, Option("--iptables-resync", "how often the rules are compared with the kernel's, unasked")
    ] = 5.0
    ip_blackhole_route: Annotated[
        bool, Option("--ip-blackhole-route", "drop packets to addresses of this node's subnet that no pod has")
    ] = False
    resync: Annotated[
        Duration,
        Option("--resync", "how often device, routes and entries are compared even when nothing was announced"),
    ] = 30.0

    healthz_bind_address: Annotated[
        str, Option("--healthz-bind-address", "host:port of /healthz, /readyz and /metrics; 0: none")
    ] = "0.0.0.0:10262"
    healthz_ip: Annotated[str, Option("--healthz-ip", "flannel's name for the host in --healthz-bind-address")] = ""
    healthz_port: Annotated[
        int | None, Option("--healthz-port", "flannel's name for the port in --healthz-bind-address; 0: none")
    ] = None
    cleanup: Annotated[
        bool, Option("--cleanup", "remove devices, routes, rules and subnet file of the overlay, and exit", key=None)
    ] = False

    @property
    def kube(self) -> bool:
        """The registry is the Kubernetes API; else it is etcd."""
        if self.kube_subnet_mgr is None:
            return bool(self.kubeconfig or self.kube_api_url)
        return self.kube_subnet_mgr

    @property
    def door(self) -> str:
        """host:port of health and metrics; empty: none."""
        if self.healthz_port is None and not self.healthz_ip:
            return "" if self.healthz_bind_address in ("", "0") else self.healthz_bind_address
        host, _, port = self.healthz_bind_address.rpartition(":")
        number = int(port or 0) if self.healthz_port is None else self.healthz_port
        address = self.healthz_ip or host.strip("[]") or "0.0.0.0"
        return (f"[{address}]:{number}" if ":" in address else f"{address}:{number}") if number else ""

    @property
    def public_v4(self) -> IPv4Address | None:
        return IPv4Address(self.public_ip) if self.public_ip else None

    @property
    def public_v6(self) -> IPv6Address | None:
        return IPv6Address(self.public_ipv6) if self.public_ipv6 else None

    @property
    def reach(self) -> IPv4Address | IPv6Address | None:
        return ip_address(self.iface_can_reach) if self.iface_can_reach else None


def load(argv: Sequence[str]) -> Config:
    """The configuration; raises UsageError."""
    known, truths = settings.flags(Config), settings.flags(Config, bool)
    given = flags.spelt(argv, truths)
    said = flags.spelt(list(flags.from_environment(os.environ, known, given)), truths)
    config = settings.load(
        Config,
        [*said, *given],
        prog="wherry-overlay",
        description="One network for all pods of a cluster, in flannel's own words.",
        api_version="wherry.io/v1alpha1",
        document_kind="OverlayConfiguration",
    )
    both = config.kubeconfig and any(arg.startswith("--etcd-endpoints") for arg in (*said, *given))
    if both and config.kube_subnet_mgr is None:
        raise UsageError(
            "--kubeconfig and --etcd-endpoints name two registries: say which by --kube-subnet-mgr=true or =false"
        )
    return config if config.cleanup else _checked(_with_schemes(config))


def _with_schemes(config: Config) -> Config:
    """etcd's own clients take `host:port` too; encrypted where there are certificates to do it with."""
    scheme = "https" if config.etcd_cafile or config.etcd_certfile else "http"
    endpoints = tuple(f"{scheme}://{one}" if _PLAIN.fullmatch(one) else one for one in config.etcd_endpoints)
    return msgspec.structs.replace(config, etcd_endpoints=endpoints)


def _checked(config: Config) -> Config:
    if (config.iface or config.iface_regex) and config.iface_can_reach:
        raise UsageError("--iface and --iface-can-reach both choose the interface: give one of them")
    for flag, text, version in (("--public-ip", config.public_ip, 4), ("--public-ipv6", config.public_ipv6, 6)):
        _check_address(flag, text, version)
    _check_address("--iface-can-reach", config.iface_can_reach)
    for pattern in config.iface_regex:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--iface-regex: {pattern!r} is no pattern: {error}") from error
    for flag, seconds in (("--iptables-resync", config.iptables_resync), ("--resync", config.resync)):
        if seconds < 1:
            raise UsageError(f"{flag}: {settings.format_duration(seconds)} is too often; give at least 1s")
    if config.healthz_port is not None and not 0 <= config.healthz_port <= 65535:
        raise UsageError(f"--healthz-port: {config.healthz_port} is not a port; ports are 0 to 65535")
    if config.kube:
        annotation_prefix(config.kube_annotation_prefix)
    else:
        _check_etcd(config)
    return config


def _check_etcd(config: Config) -> None:
    if not config.etcd_endpoints:
        raise UsageError("--etcd-endpoints: there is none; name one, or the API server by --kubeconfig")
    for endpoint in config.etcd_endpoints:
        if not endpoint.startswith(("http://", "https://")):
            raise UsageError(f"--etcd-endpoints: {endpoint!r} is not http://host:port or https://host:port")
    if not _PREFIX.fullmatch(config.etcd_prefix.rstrip("/")):
        raise UsageError(f"--etcd-prefix: {config.etcd_prefix!r} is not a path such as /coreos.com/network")
    if bool(config.etcd_certfile) != bool(config.etcd_keyfile):
        raise UsageError("--etcd-certfile and --etcd-keyfile belong together: give both or neither")
    if bool(config.etcd_username) != bool(config.etcd_password):
        raise UsageError("--etcd-username and --etcd-password belong together: give both or neither")
    if not 0 < config.subnet_lease_renew_margin < _LEASE_MINUTES:
        raise UsageError(
            f"--subnet-lease-renew-margin: {config.subnet_lease_renew_margin} minutes; "
            f"a lease lasts {_LEASE_MINUTES}: give 1 to {_LEASE_MINUTES - 1}"
        )


def annotation_prefix(prefix: str) -> str:
    """The prefix with the separator that flannel puts after it: `a.b` -> `a.b/`, `a.b/c` -> `a.b/c-`."""
    if prefix.count("/") > 1 or not prefix.strip("/"):
        raise UsageError(f"--kube-annotation-prefix: {prefix!r} must be a DNS name with at most one slash")
    if "/" not in prefix:
        return f"{prefix}/"
    return prefix if prefix.endswith(("/", "-")) else f"{prefix}-"


def _check_address(flag: str, text: str, version: int = 0) -> None:
    if not text:
        return
    try:
        found = ip_address(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}; give an IP address") from error
    if version and found.version != version:
        raise UsageError(
            f"{flag}: {text} is not an IPv{version} address; {'--public-ipv6' if version == 4 else '--public-ip'} takes it"
        )
