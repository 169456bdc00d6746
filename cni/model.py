"""The values of one call: the range of addresses, what was asked, and what one pod's attachment consists of.

IPv4 addresses are numbers here: an allocation is arithmetic, and ``ipaddress`` costs a quarter of the plugin's start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from cni.codec import Json
    from cni.spec import Route

_ALL = 0xFFFFFFFF


class Subnet:
    """An IPv4 range: the network's number and the length of its prefix. Its first address is the gateway's."""

    __slots__ = ("length", "network")

    def __init__(self, network: int, length: int) -> None:
        self.network: Final = network
        self.length: Final = length

    @property
    def gateway(self) -> int:
        return self.network + 1

    @property
    def broadcast(self) -> int:
        return self.network | (_ALL >> self.length)

    def __contains__(self, address: int) -> bool:
        return self.network <= address <= self.broadcast

    def __str__(self) -> str:
        return f"{address_text(self.network)}/{self.length}"


class Lease:
    """What this node may hand out: from the configuration itself, or from the file that the overlay writes."""

    __slots__ = ("mtu", "network", "subnet")

    def __init__(self, subnet: Subnet, mtu: int = 0, network: Subnet | None = None) -> None:
        self.subnet: Final = subnet
        self.mtu: Final = mtu
        self.network: Final = network


class Config:
    """The network as configured. ``subnet`` is None when ``subnet_file`` has to be asked; ``ledger`` is the directory of
    its reservations, which Go's host-local would use too."""

    __slots__ = (
        "bridge",
        "default_route",
        "dns",
        "gateway",
        "hairpin",
        "ledger",
        "mtu",
        "previous",
        "routes",
        "subnet",
        "subnet_file",
        "version",
    )

    def __init__(
        self,
        *,
        version: str,
        bridge: str,
        mtu: int,
        gateway: bool,
        default_route: bool,
        hairpin: bool,
        ledger: str,
        subnet: Subnet | None,
        subnet_file: str,
        routes: Sequence[Route],
        dns: Mapping[str, Json],
        previous: Mapping[str, Json] | None,
    ) -> None:
        self.version: Final = version
        self.bridge: Final = bridge
        self.mtu: Final = mtu
        self.gateway: Final = gateway
        self.default_route: Final = default_route
        self.hairpin: Final = hairpin
        self.ledger: Final = ledger
        self.subnet: Final = subnet
        self.subnet_file: Final = subnet_file
        self.routes: Final = tuple(routes)
        self.dns: Final = dns
        self.previous: Final = previous


class Attachment:
    """One pod on the bridge: everything the kernel has to be told. ``gateway`` is 0 where the bridge is none."""

    __slots__ = ("address", "bridge", "gateway", "hairpin", "host", "ifname", "length", "mac", "mtu", "routes")

    def __init__(
        self,
        *,
        bridge: str,
        host: str,
        ifname: str,
        address: int,
        length: int,
        mac: bytes,
        mtu: int,
        gateway: int,
        hairpin: bool,
        routes: Sequence[Route],
    ) -> None:
        self.bridge: Final = bridge
        self.host: Final = host
        self.ifname: Final = ifname
        self.address: Final = address
        self.length: Final = length
        self.mac: Final = mac
        self.mtu: Final = mtu
        self.gateway: Final = gateway
        self.hairpin: Final = hairpin
        self.routes: Final = tuple(routes)


class Seen:
    """What CHECK found of an attachment; None and empty for what is not there."""

    __slots__ = ("addresses", "container_up", "gateways", "hairpin", "host_up", "master", "reserved", "routes")

    def __init__(
        self,
        *,
        reserved: Sequence[int],
        gateways: Sequence[str],
        master: str | None,
        host_up: bool,
        hairpin: bool,
        container_up: bool | None,
        addresses: Sequence[str],
        routes: Sequence[tuple[str, str]],
    ) -> None:
        self.reserved: Final = reserved
        self.gateways: Final = gateways
        self.master: Final = master
        self.host_up: Final = host_up
        self.hairpin: Final = hairpin
        self.container_up: Final = container_up
        self.addresses: Final = addresses
        self.routes: Final = routes


def address_text(address: int) -> str:
    return ".".join(map(str, address.to_bytes(4, "big")))


def parse_address(text: str) -> int:
    """The number of a dotted quad; ValueError for anything else (no octal, no short forms, no IPv6)."""
    parts = text.split(".")
    if len(parts) != 4 or not all(_is_octet(part) for part in parts):
        raise ValueError(f"{text!r} is not an IPv4 address")
    return int.from_bytes(bytes(map(int, parts)), "big")


def parse_interface(text: str) -> tuple[int, int]:
    """(address, prefix length) of "10.244.1.1/24"."""
    address, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit() or len(length) > 2 or int(length) > 32:
        raise ValueError(f"{text!r} is not an IPv4 address with a prefix length, such as 10.244.1.0/24")
    return parse_address(address), int(length)


def parse_subnet(text: str) -> Subnet:
    """A range written with its host bits zero; ValueError says what else it is."""
    address, length = parse_interface(text)
    subnet = subnet_of(address, length)
    if subnet.network != address:
        raise ValueError(f"{text!r} has host bits set: the range is {subnet}")
    return subnet


def subnet_of(address: int, length: int) -> Subnet:
    """The range that this address lies in."""
    return Subnet(address & ~(_ALL >> length), length)


def _is_octet(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 3 and int(part) < 256 and (part == "0" or part[0] != "0")
