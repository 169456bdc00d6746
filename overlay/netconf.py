"""net-conf.json, read and checked: flannel's description of the network, whether it lies in a file or under etcd's `config` key.

    {"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48",
     "SubnetLen": 24, "SubnetMin": "10.244.16.0", "SubnetMax": "10.244.31.0", "EnableNFTables": false,
     "Backend": {"Type": "vxlan", "VNI": 1, "DirectRouting": true}}

What flannel leaves to chance is refused here in words: a key that nobody knows, a number out of its range, a subnet that does
not fit. What it takes is taken: keys and types in any case (Go reads JSON so), a range by any of its addresses, the keys that
its nodes with Windows read from the same document; `Network.notes` tells of the last two. A file without a Backend means vxlan
(flannel's code says udp there, its documentation vxlan). Pure.
"""

import binascii
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface
from typing import Any, Final

import msgspec

from linux.iptables.rules import Family
from overlay.documents import decoded
from overlay.model import Address, Backend, Range

DEFAULT_VNI: Final = 1
DEFAULT_PORT: Final = 8472
"""Linux' own choice, and so flannel's; IANA's 4789 came later."""
EXAMPLE: Final = '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
DEFAULT_WIREGUARD_PORTS: Final = (51820, 51821)
_LEAST_MTU: Final = {Family.V4: 576, Family.V6: 1280}
_DEAREST: Final = 80
"""Bytes that the dearest encapsulation takes; what is left must still be an MTU."""


class Unfit(ValueError):
    """The document cannot be used. The message names the key and the remedy."""


@dataclass(frozen=True, slots=True)
class VxlanSettings:
    """`mtu` is the underlay's, less which the overhead comes; None: the interface's own."""

    vni: int = DEFAULT_VNI
    port: int = DEFAULT_PORT
    mtu: int | None = None
    direct_routing: bool = False
    learning: bool = False
    gbp: bool = False


@dataclass(frozen=True, slots=True)
class HostGwSettings:
    """Nothing to set."""


@dataclass(frozen=True, slots=True)
class WireGuardSettings:
    """`mode`: `separate` devices for the families, or one that is reached over `ipv4`, `ipv6` or (`auto`) IPv4 where there
    is any. `keepalive` in seconds, 0: none. `psk` is base64 or empty."""

    port: int = DEFAULT_WIREGUARD_PORTS[0]
    port_v6: int = DEFAULT_WIREGUARD_PORTS[1]
    mode: str = "separate"
    psk: str = ""
    keepalive: int = 0
    mtu: int | None = None


BackendSettings = VxlanSettings | HostGwSettings | WireGuardSettings


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the document says of the subnets that etcd's manager hands out; None where it leaves that open."""

    length: int | None = None
    least: Address | None = None
    most: Address | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """Subnets are of `length` bits and lie from `least` to `most`, both included."""

    length: int
    least: Address
    most: Address


@dataclass(frozen=True, slots=True)
class Network:
    """Of a family that is not enabled the range is None. `notes`: what of the document is not as its author may think."""

    ipv4: IPv4Network | None
    ipv6: IPv6Network | None = None
    backend: BackendSettings = VxlanSettings()
    nftables: bool = False
    sizes: Sizes = Sizes()
    sizes_v6: Sizes = Sizes()
    notes: tuple[str, ...] = ()

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(family for family in Family if self.pods(family) is not None)

    @property
    def kind(self) -> Backend:
        match self.backend:
            case VxlanSettings():
                return Backend.VXLAN
            case HostGwSettings():
                return Backend.HOST_GW
            case WireGuardSettings():
                return Backend.WIREGUARD

    def pods(self, family: Family) -> Range | None:
        """The range of all pods."""
        return self.ipv4 if family is Family.V4 else self.ipv6

    def allocation(self, family: Family) -> Allocation:
        """Which subnets a manager may hand out, by flannel's rules: a /24 (/64) each, less where the network is small;
        never the first subnet unless SubnetMin says so. Raises Unfit."""
        pods, sizes = self.pods(family), self.sizes if family is Family.V4 else self.sizes_v6
        prefix = "" if family is Family.V4 else "IPv6"
        if pods is None:
            raise Unfit(f"{prefix}Network: IPv{int(family)} is not enabled")
        length = _length(pods, sizes, prefix)
        size = 1 << (pods.max_prefixlen - length)
        least = sizes.least or pods.network_address + size
        most = sizes.most or pods.network_address + (pods.num_addresses - size)
        for key, value in (("SubnetMin", least), ("SubnetMax", most)):
            if value not in pods:
                raise Unfit(f"{prefix}{key}: {value} lies outside {prefix}Network {pods}; give one inside")
            if int(value) % size:
                raise Unfit(f"{prefix}{key}: {value} is not the first address of a /{length}; see {prefix}SubnetLen")
        if int(least) > int(most):
            raise Unfit(f"{prefix}SubnetMin: {least} lies behind {prefix}SubnetMax {most}")
        return Allocation(length, least, most)


def parse(text: bytes | str, where: str) -> Network:
    """The network that a document describes; raises Unfit, its message beginning with `where`."""
    try:
        document = decoded(text, object)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unfit(f"{where}: {error}; it must be JSON such as {EXAMPLE}") from error
    if not isinstance(document, dict):
        raise Unfit(f"{where}: expected an object such as {EXAMPLE}")
    try:
        return _network(document)
    except Unfit as error:
        raise Unfit(f"{where}: {error}") from error


KEYS = {
    *("Network", "IPv6Network", "EnableIPv4", "EnableIPv6", "EnableNFTables", "Backend"),
    *("SubnetLen", "SubnetMin", "SubnetMax", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax"),
}
BACKEND_KEYS = {
    Backend.VXLAN: {"VNI", "Port", "MTU", "DirectRouting", "Learning", "GBP"},
    Backend.HOST_GW: set[str](),
    Backend.WIREGUARD: {"ListenPort", "ListenPortV6", "Mode", "PSK", "PersistentKeepaliveInterval", "MTU"},
}
_WINDOWS = ("MacPrefix", "Name", "DNSServerList")
"""Keys of a Backend that flannel reads on Windows alone."""


def _network(said: dict[str, Any]) -> Network:
    document = _known(said, KEYS, "")
    four, six = _flag(document, "EnableIPv4", default=True), _flag(document, "EnableIPv6", default=False)
    if not four and not six:
        raise Unfit("EnableIPv4, EnableIPv6: both families are switched off; enable one")
    ipv4 = _range(document, "Network", IPv4Network, "10.244.0.0/16") if four else None
    ipv6 = _range(document, "IPv6Network", IPv6Network, "fd00:244::/48") if six else None
    backend, passed_over = _backend(document.get("Backend"), Family.V6 if six else Family.V4)
    masked = [
        f"{key}: {document[key]} is read as {found}"
        for key, found in (("Network", ipv4), ("IPv6Network", ipv6))
        if found is not None and int(found.network_address) != int(ip_interface(str(document[key])).ip)
    ]
    return Network(
        ipv4=ipv4,
        ipv6=ipv6,
        backend=backend,
        nftables=_flag(document, "EnableNFTables", default=False),
        sizes=_sizes(document, "", 4),
        sizes_v6=_sizes(document, "IPv6", 6),
        notes=(
            *masked,
            *(f"Backend.{key}: flannel reads it on Windows alone; it has no effect here" for key in passed_over),
        ),
    )


def _backend(said: Any, family: Family) -> tuple[BackendSettings, Sequence[str]]:
    """And the keys that are Windows' alone."""
    if said is None:
        return VxlanSettings(), ()
    if not isinstance(said, dict):
        raise Unfit(f'Backend: expected an object such as {{"Type": "vxlan"}}, found {said!r}')
    kind = _backend_type(next((value for key, value in said.items() if key.lower() == "type"), None))
    found = _known(said, {"Type", *BACKEND_KEYS[kind]}, "Backend.", beside=_WINDOWS)
    return _settings(kind, found, family), [key for key in _WINDOWS if key in found]


def _settings(kind: Backend, value: dict[str, Any], family: Family) -> BackendSettings:
    match kind:
        case Backend.VXLAN:
            return VxlanSettings(
                vni=_number(value, "VNI", 1, 2**24 - 1) or DEFAULT_VNI,
                port=_number(value, "Port", 0, 65535) or DEFAULT_PORT,
                mtu=_mtu(value, family),
                direct_routing=_flag(value, "DirectRouting", default=False, prefix="Backend."),
                learning=_flag(value, "Learning", default=False, prefix="Backend."),
                gbp=_flag(value, "GBP", default=False, prefix="Backend."),
            )
        case Backend.HOST_GW:
            return HostGwSettings()
        case Backend.WIREGUARD:
            return _wireguard(value, family)


def _backend_type(value: Any) -> Backend:
    try:
        return Backend(str(value).lower())
    except ValueError:
        near = difflib.get_close_matches(str(value).lower(), list(Backend), 1)
        hint = f"did you mean {near[0]}?" if near else f"the backends here are {', '.join(Backend)}"
        raise Unfit(f"Backend.Type: {value!r} is not built in; {hint}") from None


def _wireguard(value: dict[str, Any], family: Family) -> WireGuardSettings:
    mode = value.get("Mode") or "separate"
    if mode not in ("separate", "auto", "ipv4", "ipv6"):
        raise Unfit(f"Backend.Mode: {mode!r} is none of separate, auto, ipv4, ipv6")
    psk = value.get("PSK") or ""
    if not isinstance(psk, str) or (psk and not _is_key(psk)):
        raise Unfit("Backend.PSK: it is not a base64 key of 32 bytes; `wg genpsk` makes one")
    port = _number(value, "ListenPort", 0, 65535) or DEFAULT_WIREGUARD_PORTS[0]
    port_v6 = _number(value, "ListenPortV6", 0, 65535) or DEFAULT_WIREGUARD_PORTS[1]
    if mode == "separate" and port == port_v6:
        raise Unfit(f"Backend.ListenPortV6: {port_v6} is ListenPort too; two devices need two ports")
    keepalive = _number(value, "PersistentKeepaliveInterval", 0, 65535) or 0
    return WireGuardSettings(port, port_v6, mode, psk, keepalive, _mtu(value, family))


def _is_key(text: str) -> bool:
    try:
        return len(binascii.a2b_base64(text.encode(), strict_mode=True)) == 32
    except (binascii.Error, ValueError):
        return False


def _known(said: Mapping[str, Any], keys: set[str], prefix: str, beside: Sequence[str] = ()) -> dict[str, Any]:
    """The document with its keys as they are spelt here; those `beside` are taken too, and never suggested."""
    spelt = {key.lower(): key for key in (*keys, *beside)}
    found: dict[str, Any] = {}
    for key, value in said.items():
        name = spelt.get(key.lower())
        if name is None:
            near = difflib.get_close_matches(key, sorted(keys), 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"the keys here are {', '.join(sorted(keys))}"
            raise Unfit(f"{prefix}{key}: unknown key; {hint}")
        if name in found:
            raise Unfit(f"{prefix}{name}: it is there twice, once spelt {key}; remove one")
        found[name] = value
    return found


def _range(document: Mapping[str, Any], key: str, kind: type[Any], example: str) -> Any:
    try:
        return kind(str(document.get(key) or ""), strict=False)
    except ValueError as error:
        raise Unfit(f"{key}: {error}; give the range of all pods, e.g. {example}") from error


def _sizes(document: Mapping[str, Any], prefix: str, version: int) -> Sizes:
    least, most = (_address(document, f"{prefix}{key}", version) for key in ("SubnetMin", "SubnetMax"))
    return Sizes(_number(document, f"{prefix}SubnetLen", 0, 32 if version == 4 else 128, ""), least, most)


def _address(document: Mapping[str, Any], key: str, version: int) -> Address | None:
    text = document.get(key)
    if text in (None, ""):
        return None
    try:
        found = ip_address(str(text))
    except ValueError as error:
        raise Unfit(f"{key}: {error}") from error
    if found.version != version:
        raise Unfit(f"{key}: {text!r} is not an IPv{version} address")
    return found


def _length(pods: Range, sizes: Sizes, prefix: str) -> int:
    bits, usual = pods.max_prefixlen, 24 if pods.version == 4 else 64
    if not sizes.length:
        if pods.prefixlen > bits - 4:
            raise Unfit(f"{prefix}Network: {pods} is too small to hand out subnets of it; give a /{bits - 4} at least")
        return usual if pods.prefixlen <= usual - 2 else pods.prefixlen + 2
    if sizes.length > bits - 2:
        raise Unfit(f"{prefix}SubnetLen: a /{sizes.length} has no room for pods; give at most {bits - 2}")
    if sizes.length < pods.prefixlen + 2:
        raise Unfit(
            f"{prefix}SubnetLen: {pods} must hold at least four subnets of /{sizes.length}; give {pods.prefixlen + 2} or more"
        )
    return sizes.length


def _flag(document: Mapping[str, Any], key: str, *, default: bool, prefix: str = "") -> bool:
    value = document.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Unfit(f"{prefix}{key}: {value!r} is neither true nor false")
    return value


def _number(document: Mapping[str, Any], key: str, least: int, most: int, prefix: str = "Backend.") -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Unfit(f"{prefix}{key}: {value!r} is not a number from {least} to {most}")
    return value or None


def _mtu(backend: Mapping[str, Any], family: Family) -> int | None:
    mtu = _number(backend, "MTU", 0, 65535)
    least = _LEAST_MTU[family]
    if mtu and mtu - _DEAREST < least:
        raise Unfit(f"Backend.MTU: {mtu} leaves pods less than {least} bytes; give the underlay's MTU")
    return mtu
