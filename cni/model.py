"""The values of one call: ranges of addresses, what a bridge is asked to be, and what was found of an attachment.

An address is its packed bytes, 4 or 16, which say the family by their length; arithmetic happens on the number they spell.
``ipaddress`` costs a quarter of the plugin's start.
"""

from __future__ import annotations

from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from cni.codec import Json
    from cni.spec import Route


class Subnet:
    """A range with a prefix: the network's number, the prefix' length, and how many bits an address has (32 or 128)."""

    __slots__ = ("bits", "length", "network")

    def __init__(self, network: int, length: int, bits: int = 32) -> None:
        self.network: Final = network
        self.length: Final = length
        self.bits: Final = bits

    @property
    def last(self) -> int:
        """The highest number in it: IPv4's broadcast address."""
        return self.network | ((1 << (self.bits - self.length)) - 1)

    def packed(self, number: int) -> bytes:
        return number.to_bytes(self.bits // 8, "big")

    def __contains__(self, address: bytes) -> bool:
        return len(address) * 8 == self.bits and self.network <= int.from_bytes(address, "big") <= self.last

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subnet) and (self.bits, self.network, self.length) == (
            other.bits,
            other.network,
            other.length,
        )

    def __hash__(self) -> int:
        return hash((self.bits, self.network, self.length))

    def __str__(self) -> str:
        return f"{unpacked(self.packed(self.network))}/{self.length}"


class Bridge:
    """A network of type ``bridge`` as configured; ``ipam`` is the type of the plugin that gives addresses, "" where none does."""

    __slots__ = (
        "backend",
        "dad",
        "default_route",
        "dns",
        "down",
        "force",
        "gateway",
        "hairpin",
        "ipam",
        "isolated",
        "mac",
        "masquerade",
        "mtu",
        "name",
        "network",
        "promiscuous",
        "trunk",
        "untagged",
        "vlan",
    )

    def __init__(
        self,
        *,
        network: str,
        name: str,
        gateway: bool,
        default_route: bool,
        force: bool,
        masquerade: bool,
        backend: str,
        mtu: int,
        hairpin: bool,
        promiscuous: bool,
        vlan: int,
        trunk: Sequence[int],
        untagged: bool,
        dad: bool,
        down: bool,
        isolated: bool,
        mac: bytes,
        ipam: str,
        dns: Mapping[str, Json],
    ) -> None:
        self.network: Final = network
        self.name: Final = name
        self.gateway: Final = gateway
        self.default_route: Final = default_route
        self.force: Final = force
        self.masquerade: Final = masquerade
        self.backend: Final = backend
        self.mtu: Final = mtu
        self.hairpin: Final = hairpin
        self.promiscuous: Final = promiscuous
        self.vlan: Final = vlan
        self.trunk: Final = tuple(trunk)
        self.untagged: Final = untagged  # the ports keep the bridge's default VLAN
        self.dad: Final = dad
        self.down: Final = down  # the container's end stays down
        self.isolated: Final = isolated
        self.mac: Final = mac
        self.ipam: Final = ipam
        self.dns: Final = dns


class Seen:
    """What CHECK found of an attachment; None and empty for what is not there. ``routes`` are (destination, gateway, table)."""

    __slots__ = (
        "addresses",
        "bridge_mac",
        "container_mac",
        "container_up",
        "gateways",
        "hairpin",
        "host_up",
        "isolated",
        "master",
        "routes",
    )

    def __init__(
        self,
        *,
        bridge_mac: str | None,
        gateways: Sequence[str],
        master: str | None,
        host_up: bool,
        hairpin: bool,
        isolated: bool,
        container_up: bool | None,
        container_mac: str,
        addresses: Sequence[str],
        routes: Sequence[tuple[str, str, int]],
    ) -> None:
        self.bridge_mac: Final = bridge_mac
        self.gateways: Final = gateways
        self.master: Final = master
        self.host_up: Final = host_up
        self.hairpin: Final = hairpin
        self.isolated: Final = isolated
        self.container_up: Final = container_up
        self.container_mac: Final = container_mac
        self.addresses: Final = addresses
        self.routes: Final = routes


class SubnetEnv:
    """What flannel's subnet.env says: the whole pod networks, this node's ranges, the MTU that fits, and whether the overlay
    masquerades (None where it does not say)."""

    __slots__ = ("masquerades", "mtu", "networks", "subnets")

    def __init__(
        self, networks: Sequence[Subnet], subnets: Sequence[Subnet], mtu: int, masquerades: bool | None
    ) -> None:
        self.networks: Final = tuple(networks)
        self.subnets: Final = tuple(subnets)
        self.mtu: Final = mtu
        self.masquerades: Final = masquerades


def parse_interface(text: str) -> tuple[bytes, int]:
    """(address, prefix length) of "10.244.1.1/24" or "fd00::1/64"; ValueError for anything else."""
    number, slash, length = text.partition("/")
    address = packed(number)
    if not slash or not length.isascii() or not length.isdigit() or len(length) > 3 or int(length) > len(address) * 8:
        raise ValueError(f"{text!r} is not an address with a prefix length, such as 10.244.1.0/24")
    return address, int(length)


def parse_subnet(text: str) -> Subnet:
    """A range written with its host bits zero; ValueError says what else it is."""
    address, length = parse_interface(text)
    subnet = subnet_of(address, length)
    if subnet.packed(subnet.network) != address:
        raise ValueError(f"{text!r} has host bits set: the range is {subnet}")
    return subnet


def subnet_of(address: bytes, length: int) -> Subnet:
    """The range that this address lies in."""
    bits = len(address) * 8
    host = (1 << (bits - length)) - 1
    return Subnet(int.from_bytes(address, "big") & ~host, length, bits)


def parse_subnet_env(text: str) -> SubnetEnv:
    """flannel's file; ValueError names the line that is wrong or missing. A list of networks has commas between them."""
    said = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals:
            said[key] = value.strip("\"'")
    try:
        networks = [
            parse_subnet(each)
            for key in ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK")
            for each in filter(None, said.get(key, "").split(","))
        ]
        subnets = [
            subnet_of(*parse_interface(said[key])) for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if said.get(key)
        ]
        mtu = int(said.get("FLANNEL_MTU") or 0)
    except ValueError as error:
        raise ValueError(f"it does not say a subnet: {error}") from None
    if not subnets:
        raise ValueError("it does not say a subnet: FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET are missing")
    if mtu and not 576 <= mtu <= 65535:
        raise ValueError(f"FLANNEL_MTU={mtu} is none: it must be 576 to 65535")
    masquerades = said.get("FLANNEL_IPMASQ")
    return SubnetEnv(networks, subnets, mtu, None if masquerades is None else masquerades == "true")


def of_family(subnet: Subnet, address: str) -> None:
    """ValueError when the address (or "", which never is wrong) is not of the subnet's family."""
    if address and len(packed(address)) * 8 != subnet.bits:
        raise ValueError(f"{address!r} is not an {'IPv4' if subnet.bits == 32 else 'IPv6'} address")


class Layout:
    """What a pod's addresses come to: its ``addresses`` with their gateways filled in, the ``gateways`` that the bridge has to
    have (address, prefix length), and the ``routes`` of the result."""

    __slots__ = ("addresses", "gateways", "routes")

    def __init__(
        self,
        addresses: Sequence[tuple[bytes, int, bytes]],
        gateways: Sequence[tuple[bytes, int]],
        routes: Sequence[Route],
    ) -> None:
        self.addresses: Final = tuple(addresses)
        self.gateways: Final = tuple(gateways)
        self.routes: Final = tuple(routes)
