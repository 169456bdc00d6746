"""What the overlay reads at the door: its flags or an OverlayConfiguration, and flannel's net-conf.json.

The defaults are flannel's. The interface that carries the overlay is, unless one is named, the one with the route to the
API server: every node has that route, and to the same underlay as the other nodes.
"""

import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated

import msgspec

from kube import settings
from kube.errors import UsageError
from kube.settings import Duration, Option

DEFAULT_VNI = 1
DEFAULT_PORT = 8472
"""Linux' own choice, and so flannel's; IANA's 4789 came later."""
VXLAN_OVERHEAD = 50
"""Bytes that an IPv4 underlay adds to a frame's payload: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14."""
_LEAST_MTU = 576


class Config(msgspec.Struct, frozen=True, kw_only=True):
    kubeconfig: Annotated[str, Option("--kubeconfig", "how to reach the API server")] = ""
    net_config_path: Annotated[str, Option("--net-config-path", "the network: flannel's net-conf.json")] = (
        "/etc/kube-flannel/net-conf.json"
    )
    hostname_override: Annotated[
        str, Option("--hostname-override", "this node's name; else $NODE_NAME, else the host's name in lower case")
    ] = ""
    iface: Annotated[str, Option("--iface", "interface, by name or address, that carries the overlay")] = ""
    iface_can_reach: Annotated[
        str, Option("--iface-can-reach", "carry the overlay on the interface with the route to this address")
    ] = ""
    public_ip: Annotated[
        str, Option("--public-ip", "address at which other nodes reach this one, when not the interface's own")
    ] = ""
    subnet_file: Annotated[str, Option("--subnet-file", "where CNI plugins read this node's subnet and MTU")] = (
        "/run/flannel/subnet.env"
    )
    ip_masq: Annotated[
        bool, Option("--ip-masq", "give packets that leave the network this node's address, and forward for pods")
    ] = False
    iptables_resync: Annotated[
        Duration, Option("--iptables-resync", "how often the masquerade rules are compared with the kernel's")
    ] = 5.0
    resync: Annotated[
        Duration,
        Option("--resync", "how often device, routes and entries are compared even when nothing was announced"),
    ] = 30.0
    healthz_bind_address: Annotated[
        str, Option("--healthz-bind-address", "host:port of /healthz, /readyz and /metrics")
    ] = "0.0.0.0:10262"
    kube_annotation_prefix: Annotated[
        str, Option("--kube-annotation-prefix", "prefix of the annotations by which nodes find each other")
    ] = "flannel.alpha.coreos.com"
    cleanup: Annotated[
        bool, Option("--cleanup", "remove device, routes, rules and subnet file of the overlay, and exit", key=None)
    ] = False


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """net-conf.json, checked. `underlay_mtu` is None when the underlay's own MTU counts."""

    pods: IPv4Network
    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORT
    underlay_mtu: int | None = None

    @property
    def device(self) -> str:
        return f"flannel.{self.vni}"

    def mtu(self, interface_mtu: int) -> int:
        """The MTU inside, given the underlay interface's."""
        return (self.underlay_mtu or interface_mtu) - VXLAN_OVERHEAD


def load(argv: Sequence[str]) -> Config:
    """The configuration; raises UsageError."""
    config = settings.load(
        Config,
        argv,
        prog="wherry-overlay",
        description="One network for all pods of a cluster: VXLAN between nodes, in flannel's own words.",
        api_version="wherry.io/v1alpha1",
        document_kind="OverlayConfiguration",
    )
    if not config.kubeconfig and not config.cleanup:
        raise UsageError("--kubeconfig is required: it says where the API server is")
    if config.iface and config.iface_can_reach:
        raise UsageError("--iface and --iface-can-reach both choose the interface: give one of them")
    for flag, text in (("--iface-can-reach", config.iface_can_reach), ("--public-ip", config.public_ip)):
        _address(flag, text)
    for flag, seconds in (("--iptables-resync", config.iptables_resync), ("--resync", config.resync)):
        if seconds < 1:
            raise UsageError(f"{flag}: {settings.format_duration(seconds)} is too often; give at least 1s")
    annotation_prefix(config.kube_annotation_prefix)
    return msgspec.structs.replace(config, hostname_override=config.hostname_override or _node_name())


def network(path: str) -> Network:
    """Read net-conf.json; raises UsageError naming the key and the remedy."""
    where = f"--net-config-path {path}"
    try:
        document = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}; write flannel's net-conf.json there") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {error}; it must be JSON such as {_EXAMPLE}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{where}: expected an object such as {_EXAMPLE}")
    return _network(document, where)


def annotation_prefix(prefix: str) -> str:
    """The prefix with the separator that flannel puts after it: `a.b` -> `a.b/`, `a.b/c` -> `a.b/c-`."""
    if prefix.count("/") > 1 or not prefix.strip("/"):
        raise UsageError(f"--kube-annotation-prefix: {prefix!r} must be a DNS name with at most one slash")
    if "/" not in prefix:
        return f"{prefix}/"
    return prefix if prefix.endswith(("/", "-")) else f"{prefix}-"


_EXAMPLE = '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
_ELSEWHERE = {
    "EnableIPv6": "the overlay carries IPv4 only",
    "IPv6Network": "the overlay carries IPv4 only",
    "EnableNFTables": "masquerading is written through iptables, which on most machines is nftables underneath",
    **dict.fromkeys(("SubnetLen", "SubnetMin", "SubnetMax"), "a node's subnet is its podCIDR, which the API assigns"),
}
_BACKEND_ELSEWHERE = {
    "DirectRouting": "every peer is reached through VXLAN",
    "Learning": "who lives where is known from the API, never learned",
    "GBP": "group policy is not carried",
    "Name": "the device's name is flannel.<VNI>",
    "MacPrefix": "MAC addresses are random",
}


def _network(document: dict[str, object], where: str) -> Network:
    _known(document, ("Network", "EnableIPv4", "Backend"), _ELSEWHERE, where)
    if document.get("EnableIPv4", True) is not True:
        raise UsageError(f"{where}: EnableIPv4: the overlay carries IPv4 only; leave the key out")
    try:
        pods = IPv4Network(str(document.get("Network", "")))
    except ValueError as error:
        raise UsageError(f"{where}: Network: {error}; give the range of all pods, e.g. 10.244.0.0/16") from error
    backend = document.get("Backend", {"Type": "vxlan"})
    if not isinstance(backend, dict):
        raise UsageError(f'{where}: Backend: expected an object such as {{"Type": "vxlan"}}')
    kind = backend.get("Type")
    if kind != "vxlan":
        raise UsageError(f"{where}: Backend.Type: {kind!r} is not built in; the one backend there is is vxlan")
    _known(backend, ("Type", "VNI", "Port", "MTU"), _BACKEND_ELSEWHERE, f"{where}: Backend")
    mtu = _number(backend, "MTU", 0, 65535, where)
    if mtu and mtu - VXLAN_OVERHEAD < _LEAST_MTU:
        raise UsageError(
            f"{where}: Backend.MTU: {mtu} leaves pods less than {_LEAST_MTU} bytes; give the underlay's MTU"
        )
    return Network(
        pods=pods,
        vni=_number(backend, "VNI", 1, 2**24 - 1, where) or DEFAULT_VNI,
        port=_number(backend, "Port", 0, 65535, where) or DEFAULT_PORT,
        underlay_mtu=mtu,
    )


def _known(document: dict[str, object], keys: Sequence[str], elsewhere: dict[str, str], where: str) -> None:
    for key, value in document.items():
        if key in keys or (key in elsewhere and value in (False, None)):
            continue
        reason = elsewhere.get(key, f"unknown key; the keys here are {', '.join(keys)}")
        raise UsageError(f"{where}: {key}: {reason}; remove it")


def _number(document: dict[str, object], key: str, least: int, most: int, where: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{where}: Backend.{key}: {value!r} is not a number from {least} to {most}")
    return value or None


def _address(flag: str, text: str) -> None:
    if not text:
        return
    try:
        IPv4Address(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}; give an IPv4 address") from error


def _node_name() -> str:
    return os.environ.get("NODE_NAME") or socket.gethostname().lower()
