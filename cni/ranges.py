"""host-local's ranges: which addresses a network may hand out, and in which order.

``ranges`` is a list of sets; a container gets one address of each set. A set is a list of ranges, all of one family, and each
range is a subnet with, as far as they are said, its first and last address and its gateway (otherwise the subnet's first).
The network's own address, the gateway's and IPv4's broadcast address are nobody's to hold.

Addresses go round: after the one that was handed out last comes the next, through all ranges of the set, so that a freed one
rests until the others had their turn.
"""

from __future__ import annotations

from cni.config import invalid, mapping, text, texts
from cni.model import Subnet, of_family, parse_subnet
from cni.spec import INVALID_CONFIGURATION, CniError, Route, read_result
from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Final

    from cni.call import Call
    from cni.codec import Json


class Range:
    """Addresses ``first`` to ``last`` of the subnet, but for the gateway."""

    __slots__ = ("first", "gateway", "last", "subnet")

    def __init__(self, subnet: Subnet, first: int, last: int, gateway: bytes) -> None:
        self.subnet: Final = subnet
        self.first: Final = first
        self.last: Final = last
        self.gateway: Final = gateway

    def __contains__(self, address: bytes) -> bool:
        return address in self.subnet and self.first <= int.from_bytes(address, "big") <= self.last

    def __str__(self) -> str:
        return f"{unpacked(self.subnet.packed(self.first))}-{unpacked(self.subnet.packed(self.last))}"

    def overlaps(self, other: Range) -> bool:
        same = self.subnet.bits == other.subnet.bits
        return same and self.first <= other.last and other.first <= self.last


def parse_ranges(config: Mapping[str, Json]) -> list[list[Range]]:
    """The sets, in the order that their cursors are numbered by: the runtime's, the one of the early style (``subnet`` in ipam
    itself), then ``ranges``."""
    ipam = mapping(config, "ipam")
    listed = [*_sets(mapping(config, "runtimeConfig"), "ipRanges")]
    if "subnet" in ipam:
        listed.append([ipam])
    listed += _sets(ipam, "ranges")
    if not listed:
        raise CniError(INVALID_CONFIGURATION, "ipam says no address range: give it ranges, or a subnet")
    sets = [_set(place, each) for place, each in enumerate(listed)]
    for place, one in enumerate(sets):
        for other, another in enumerate(sets[:place]):
            if any(a.overlaps(b) for a in one for b in another):
                raise CniError(INVALID_CONFIGURATION, f"ipam.ranges[{other}] overlaps with ipam.ranges[{place}]")
    return sets


def parse_requested(call: Call, config: Mapping[str, Json]) -> list[bytes]:
    """The addresses that somebody asks for: IP in CNI_ARGS, args.cni.ips, and the capability ips (which may have a prefix)."""
    asked = [call.args["IP"]] if call.args.get("IP") else []
    asked += texts(mapping(mapping(config, "args"), "cni"), "ips")
    asked += texts(mapping(config, "runtimeConfig"), "ips")
    found: list[bytes] = []
    for each in asked:
        try:
            address = packed(each.partition("/")[0])
        except ValueError as error:
            raise CniError(INVALID_CONFIGURATION, f"the requested address is none: {error}") from None
        if address not in found:
            found.append(address)
    return found


def parse_routes(config: Mapping[str, Json]) -> tuple[Route, ...]:
    ipam = mapping(config, "ipam")
    listed = ipam.get("routes") or []
    if not isinstance(listed, list):
        raise invalid("ipam.routes", listed, "must be a list")
    for place, each in enumerate(listed):
        if not isinstance(each, dict):
            raise invalid(f"ipam.routes[{place}]", each, "must be an object")
        try:
            of_family(parse_subnet(text(each, "dst", "")), text(each, "gw", ""))
        except ValueError as error:
            raise CniError(INVALID_CONFIGURATION, f"ipam.routes[{place}]: {error}") from None
    return read_result({"routes": listed}).routes


def candidates(ranges: Sequence[Range], last: bytes | None) -> Iterator[bytes]:
    """The set's addresses in the order in which they come up, once round; lazily, for ranges can be large."""
    begin = next((place for place, each in enumerate(ranges) if last is not None and last in each), None)
    if begin is None or last is None:
        for each in ranges:
            yield from _walk(each, each.first, each.last)
        return
    cursor = int.from_bytes(last, "big")
    yield from _walk(ranges[begin], cursor + 1, ranges[begin].last)
    for each in (*ranges[begin + 1 :], *ranges[:begin]):
        yield from _walk(each, each.first, each.last)
    yield from _walk(ranges[begin], ranges[begin].first, cursor)


def said(ranges: Sequence[Range]) -> str:
    return ",".join(map(str, ranges))


def _walk(each: Range, first: int, last: int) -> Iterator[bytes]:
    size = each.subnet.bits // 8
    for number in range(first, last + 1):
        address = number.to_bytes(size, "big")
        if address != each.gateway:
            yield address


def _sets(keys: Mapping[str, Json], key: str) -> list[list[Mapping[str, Json]]]:
    listed = keys.get(key) or []
    if isinstance(listed, list) and all(
        isinstance(each, list) and each and all(isinstance(one, dict) for one in each) for each in listed
    ):
        return [[one for one in each if isinstance(one, dict)] for each in listed if isinstance(each, list)]
    raise invalid(key, listed, 'must be a list of lists of ranges such as [[{"subnet": "10.244.1.0/24"}]]')


def _set(place: int, listed: Sequence[Mapping[str, Json]]) -> list[Range]:
    name = f"ipam.ranges[{place}]"
    try:
        found = [_range(each) for each in listed]
    except ValueError as error:
        raise CniError(INVALID_CONFIGURATION, f"{name}: {error}") from None
    for number, each in enumerate(found):
        if each.subnet.bits != found[0].subnet.bits:
            raise CniError(INVALID_CONFIGURATION, f"{name} mixes IPv4 and IPv6: give each family a set of its own")
        if any(each.overlaps(other) for other in found[:number]):
            raise CniError(INVALID_CONFIGURATION, f"{name}: {each.subnet} overlaps with another of its ranges")
    return found


def _range(said: Mapping[str, Json]) -> Range:
    subnet = parse_subnet(text(said, "subnet", ""))
    if subnet.length > subnet.bits - 2:
        raise ValueError(f"{subnet} is too small to give addresses from: a /{subnet.bits - 2} is the smallest")
    gateway = packed(text(said, "gateway", "")) if said.get("gateway") else subnet.packed(subnet.network + 1)
    if len(gateway) * 8 != subnet.bits:
        raise ValueError(f"gateway {unpacked(gateway)} is not of the family of {subnet}")
    first, last = subnet.network + 1, subnet.last - (subnet.bits == 32)
    bounds = []
    for key, default in (("rangeStart", first), ("rangeEnd", last)):
        bound = packed(text(said, key, "")) if said.get(key) else subnet.packed(default)
        if bound not in subnet:
            raise ValueError(f"{key} {unpacked(bound)} is not in {subnet}")
        bounds.append(int.from_bytes(bound, "big"))
    if bounds[0] > bounds[1]:
        raise ValueError(f"rangeStart is behind rangeEnd in {subnet}")
    return Range(subnet, bounds[0], bounds[1], gateway)
