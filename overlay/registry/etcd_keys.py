"""What lies in etcd, in flannel's format, and which subnet a node may take. Pure.

    <prefix>/config                                  net-conf.json
    <prefix>/subnets/10.5.34.0-24                    {"PublicIP":"192.168.0.11","PublicIPv6":null,
                                                      "BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"..."}}
    <prefix>/subnets/10.5.34.0-24&fc00:0:0:1::-64    the same for both families: PublicIPv6 and BackendV6Data too

A key hangs on a lease of 24 hours that its node renews; one without a lease is a reservation, which stays. The key has no
place for a node's name: who may take a key up again is known by its PublicIP.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from random import Random

import msgspec

from linux.iptables.rules import Family
from overlay.documents import decoded, shortened
from overlay.model import Address, Lease, Range
from overlay.netconf import Allocation, Network
from overlay.registry import data

CHOICE = 100
"""flannel takes one of the first so many free subnets: two nodes at once then seldom want the same."""
_KEY = re.compile(r"(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-fA-F\d:.]+)-(\d+))?")
_NOWHERE = IPv4Address(0)

Subnets = Mapping[Family, Range]


class UnreadableLease(ValueError):
    """No lease can be made of a key or its value; the message says what is wrong."""

    def __init__(self, words: str) -> None:
        super().__init__(shortened(words))


class OutOfSubnets(Exception):
    """All that may be handed out is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key below `subnets/`: its last part and value, the lease it hangs on (0: a reservation) and its revisions."""

    name: str
    value: bytes
    lease: int = 0
    created: int = 0
    modified: int = 0


class _Attributes(msgspec.Struct, frozen=True):
    """LeaseAttrs. What flannel's decoder passes over is passed over."""

    public_ip: str | None = msgspec.field(default=None, name="PublicIP")
    public_ipv6: str | None = msgspec.field(default=None, name="PublicIPv6")
    backend_type: str = msgspec.field(default="", name="BackendType")
    backend_data: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name="BackendData")
    backend_v6_data: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name="BackendV6Data")


def name_of(subnets: Subnets) -> str:
    """The key's last part."""
    parts = (f"{net.network_address}-{net.prefixlen}" for net in (subnets[Family.V4], subnets.get(Family.V6)) if net)
    return "&".join(parts)


def subnets_in(name: str) -> Subnets:
    """Raises UnreadableLease."""
    found = _KEY.fullmatch(name)
    if found is None:
        raise UnreadableLease(f"the key {name!r} is not like 10.5.34.0-24 or 10.5.34.0-24&fc00::-64")
    try:
        subnets: dict[Family, Range] = {Family.V4: IPv4Network(f"{found[1]}/{found[2]}")}
        if found[3]:
            subnets[Family.V6] = IPv6Network(f"{found[3]}/{found[4]}")
    except ValueError as error:
        raise UnreadableLease(f"the key {name!r}: {error}") from error
    return subnets


def public_ips(entry: Entry) -> Mapping[Family, Address]:
    """The addresses that an entry names, as far as they can be read."""
    try:
        found = decoded(entry.value, _Attributes)
        return _addresses(found)
    except (msgspec.DecodeError, ValueError):
        return {}


def leases(entry: Entry) -> tuple[Lease, ...]:
    """What the node claims, one lease a family. Raises UnreadableLease."""
    subnets = subnets_in(entry.name)
    try:
        found = decoded(entry.value, _Attributes)
        addresses = _addresses(found)
        kind = data.backend(found.backend_type)
        texts = {Family.V4: found.backend_data, Family.V6: found.backend_v6_data}
        made = tuple(
            Lease(
                node=entry.name,
                subnet=subnet,
                public_ip=addresses[family],
                backend=kind,
                data=data.parsed(kind, bytes(texts[family])),
                since=float(entry.created),
            )
            for family, subnet in subnets.items()
            if family in addresses
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise UnreadableLease(f"{entry.name}: {error}") from error
    if not made:
        raise UnreadableLease(f"{entry.name}: it names no PublicIP")
    return made


def value_of(own: Mapping[Family, Lease]) -> bytes:
    """Byte for byte what flannel writes: without blanks, PublicIPv6 null where there is none, data of host-gw left out."""
    four, six = own.get(Family.V4), own.get(Family.V6)
    some = four or six
    assert some is not None
    parts = [
        f'"PublicIP":"{four.public_ip if four else _NOWHERE}"',
        f'"PublicIPv6":"{six.public_ip}"' if six else '"PublicIPv6":null',
        f'"BackendType":"{some.backend.value}"',
    ]
    for key, lease in (("BackendData", four), ("BackendV6Data", six)):
        if lease is not None and lease.data is not None:
            parts.append(f'"{key}":{data.rendered(lease.data)}')
    return f"{{{','.join(parts)}}}".encode()


def fits(network: Network, subnets: Subnets) -> bool:
    """Whether a node of this network may have them: of every enabled family one, of the right length and inside the limits."""
    if set(subnets) != set(network.families):
        return False
    return all(_fits(network.allocation(family), subnet) for family, subnet in subnets.items())


def choose(network: Network, taken: Iterable[str], random: Random, liked: Sequence[Subnets] = ()) -> Subnets:
    """Of each family the first of those that are `liked` which is free and fits, else one of the first that are free. `taken` are
    the names of all entries; of one that cannot be read nothing is taken. Raises OutOfSubnets."""
    held = [subnets for name in taken if (subnets := _readable(name)) is not None]
    chosen: dict[Family, Range] = {}
    for family in network.families:
        allocation, busy = network.allocation(family), [one[family] for one in held if family in one]
        wanted = (one[family] for one in liked if family in one)
        good = (one for one in wanted if _fits(allocation, one) and not _any_overlap(one, busy))
        chosen[family] = next(good, None) or _chosen(family, allocation, busy, random)
    return chosen


def _any_overlap(subnet: Range, busy: Iterable[Range]) -> bool:
    return any(subnet.overlaps(one) for one in busy)


def _readable(name: str) -> Subnets | None:
    try:
        return subnets_in(name)
    except UnreadableLease:
        return None


def _addresses(found: _Attributes) -> dict[Family, Address]:
    addresses: dict[Family, Address] = {}
    if found.public_ip:
        four = IPv4Address(found.public_ip)
        if four != _NOWHERE:
            addresses[Family.V4] = four
    if found.public_ipv6:
        addresses[Family.V6] = IPv6Address(found.public_ipv6)
    return addresses


def _fits(allocation: Allocation, subnet: Range) -> bool:
    inside = int(allocation.least) <= int(subnet.network_address) <= int(allocation.most)
    return inside and subnet.prefixlen == allocation.length


def _chosen(family: Family, allocation: Allocation, held: Sequence[Range], random: Random) -> Range:
    """Walks over what is free from the least on; what is held is jumped over whole, so a full range is no million steps."""
    step = 1 << (family.bits - allocation.length)
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in held)

    def candidates() -> Iterable[int]:
        at, busy = int(allocation.least), iter(spans)
        first, last = next(busy, (None, 0))
        while at <= int(allocation.most):
            while first is not None and last < at:
                first, last = next(busy, (None, 0))
            if first is not None and first < at + step:
                at += ((last - at) // step + 1) * step
                continue
            yield at
            at += step

    found = list(islice(candidates(), CHOICE))
    if not found:
        raise OutOfSubnets(
            f"no /{allocation.length} is free from {allocation.least} to {allocation.most}: give the network more room"
            f" (Network, SubnetMin, SubnetMax), or delete leases in etcd of nodes that are gone"
        )
    place = (random.choice(found), allocation.length)
    return IPv4Network(place) if family is Family.V4 else IPv6Network(place)
