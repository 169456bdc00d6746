"""Which interface carries the overlay, and with which address of each family.

In this order: the interfaces named by --iface (name or address) and --iface-regex, of several the first that has an address of
the family; the one that has the public IP somebody named; the one with the route to --iface-can-reach; the one with the
route to the registry.

A registry on this very machine is reached through loopback, and its address may be one that moves between machines: then it is
the address that was taken last, one of those that the registry says are this node's, the interface's that has the
registry's address, or of the one with the default route. To a registry behind a Service's address no route says anything: what
the registry says is this node's comes first.

The interface with the route to the registry is the right one on machines that all have the same NAT as their first
interface (Vagrant): nobody reaches another through that, though it has the default route. A family in which the registry
has no address goes over the interface of the family in which it has.
"""

import asyncio
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from linux import links, routes
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay.model import DEVICE_ALIAS, Address, NotYet, Range, Underlay

_ANYWHERE: dict[Family, Address] = {
    Family.V4: IPv4Address("192.0.2.1"),  # TEST-NET-1 and the documentation prefix: only a default route leads there
    Family.V6: IPv6Address("2001:db8::1"),
}
_OTHER = {Family.V4: Family.V6, Family.V6: Family.V4}


@dataclass(frozen=True, slots=True)
class Choice:
    """What says which interface it is. `registry` are the addresses of the API server or of etcd, of a Service if `service`;
    `hints` those that the registry has for this node. Addresses in the network of the `pods` are taken where there are no
    others; the address that was taken `last` stays while it is there."""

    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    public: tuple[Address, ...] = ()
    reach: Address | None = None
    registry: tuple[Address, ...] = ()
    service: bool = False
    hints: tuple[Address, ...] = ()
    pods: tuple[Range, ...] = ()
    last: Mapping[Family, Address] = field(default_factory=dict)


async def addresses_of(servers: Sequence[str]) -> tuple[Address, ...]:
    """The registry's addresses, by name if need be, of those that can be found; raises NotYet when there is none."""
    found: list[Address] = []
    trouble: list[str] = []
    for server in servers:
        try:
            found += await _addresses_of(server)
        except NotYet as error:
            trouble.append(str(error))
    if not found:
        raise NotYet("; ".join(trouble))
    return tuple(dict.fromkeys(found))


async def _addresses_of(server: str) -> tuple[Address, ...]:
    host = urlsplit(server).hostname or server
    try:
        return (ip_address(host),)
    except ValueError:
        loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotYet(f"cannot find the address of {server}: {error}") from error
    return tuple(ip_address(str(one[4][0]).partition("%")[0]) for one in found)


def find(ip: Conversation, family: Family, choice: Choice) -> Underlay:
    """The underlay of one family as it is now; raises NotYet when there is none."""
    if choice.names or choice.patterns:
        return _named(ip, family, choice)
    for address in choice.public:
        if holder := _holder(ip, address):
            return _with_address(ip, holder, family, choice, address)
    if choice.reach is not None:
        return _towards(ip, family, choice, choice.reach, f"--iface-can-reach {choice.reach}")
    return _towards_registry(ip, family, choice)


def _named(ip: Conversation, family: Family, choice: Choice) -> Underlay:
    reasons: list[str] = []
    for link, address in _candidates(ip, choice, reasons):
        try:
            return _with_address(ip, link, family, choice, address)
        except NotYet as error:
            reasons.append(str(error))
    raise NotYet("; ".join(reasons))


def _candidates(ip: Conversation, choice: Choice, reasons: list[str]) -> Iterator[tuple[links.Link, Address | None]]:
    for name in choice.names:
        try:
            address: Address | None = ip_address(name)
        except ValueError:
            address = None
        link = links.link(ip, name) if address is None else _holder(ip, address)
        if link is not None:
            yield link, address
        elif address is None:
            reasons.append(f"--iface {name}: there is no such interface")
        else:
            reasons.append(f"--iface {name}: no interface but loopback has this address")
    for pattern in choice.patterns:
        matching = list(_matching(ip, re.compile(pattern)))
        yield from matching
        if not matching:
            reasons.append(f"--iface-regex {pattern}: no address and no name of an interface matches it")


def _matching(ip: Conversation, pattern: re.Pattern[str]) -> Iterator[tuple[links.Link, Address | None]]:
    """As flannel: addresses before names."""
    there = {link.index: link for link in links.links(ip) if not link.loopback}
    for family in Family:
        for one in links.all_addresses(ip, family):
            if one.device in there and pattern.search(str(one.interface.ip)):
                yield there[one.device], one.interface.ip
    for link in there.values():
        if pattern.search(link.name):
            yield link, None


def _towards_registry(ip: Conversation, family: Family, choice: Choice) -> Underlay:
    mine = [address for address in choice.registry if address.version == family]
    others = [address for address in choice.registry if address.version != family]
    if choice.service and (found := _hinted(ip, family, choice)):
        return found
    trouble: NotYet | None = None
    for address in (*mine, *others):
        if address.is_loopback:
            continue
        try:
            return _here(ip, family, choice, address) or _towards(
                ip, family, choice, address, f"the registry {address}"
            )
        except NotYet as error:
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    if found := _hinted(ip, family, choice):
        return found
    words = "anywhere (the registry is on loopback; --iface names the interface)"
    try:
        return _towards(ip, family, choice, _ANYWHERE[family], words)
    except NotYet:
        return _towards(ip, family, choice, _ANYWHERE[_OTHER[family]], words)


def _hinted(ip: Conversation, family: Family, choice: Choice) -> Underlay | None:
    for hint in sorted(choice.hints, key=lambda one: one.version != family):
        if holder := _holder(ip, hint):
            return _with_address(ip, holder, family, choice, hint)
    return None


def _here(ip: Conversation, family: Family, choice: Choice, registry: Address) -> Underlay | None:
    """For a registry that is on this machine now, perhaps for a while."""
    path = routes.path_to(ip, registry)
    if path is None or not path.local:
        return None
    last = choice.last.get(family)
    if last is not None and (holder := _holder(ip, last)):
        return _with_address(ip, holder, family, choice, last)
    if found := _hinted(ip, family, choice):
        return found
    alone = any(
        one.interface.ip == registry and one.interface.network.prefixlen == one.interface.max_prefixlen
        for one in links.all_addresses(ip, Family(registry.version))
    )  # a /32 beside others is an address that moves
    return _with_address(ip, holder, family, choice, None) if alone and (holder := _holder(ip, registry)) else None


def _towards(ip: Conversation, family: Family, choice: Choice, target: Address, what: str) -> Underlay:
    path = routes.path_to(ip, target)
    if path is None:
        raise NotYet(f"there is no route to {what}; add one or name the interface with --iface")
    if path.local:
        holder = _holder(ip, target)
        if holder is None:
            raise NotYet(f"{what}: no interface but loopback has this address; name one with --iface")
        return _with_address(ip, holder, family, choice, target)
    link = links.link_at(ip, path.device)
    if link is None:
        raise NotYet(f"the interface with the route to {what} has gone")
    return _with_address(ip, link, family, choice, path.source)


def _holder(ip: Conversation, address: Address) -> links.Link | None:
    """The interface that has the address; never loopback."""
    for one in links.all_addresses(ip, Family(address.version)):
        if one.interface.ip == address:
            link = links.link_at(ip, one.device)
            if link is not None and not link.loopback:
                return link
    return None


def _with_address(ip: Conversation, link: links.Link, family: Family, choice: Choice, best: Address | None) -> Underlay:
    """The interface with the address `best` if that is of the family and will stay, else with the one it had last, else with
    its own first one that others may reach."""
    if link.alias == DEVICE_ALIAS:
        raise NotYet(f"{link.name} is the overlay itself, and cannot carry it: name another interface with --iface")
    last = choice.last.get(family)
    there = links.addresses(ip, link.index, family)
    usable = [
        one
        for one in there
        if not (one.host_only or one.failed or one.interface.is_link_local)
        and (not one.untried or one.interface.ip == last)
    ]
    usable = [one for one in usable if not _of_pods(one.interface.ip, choice)] or [
        one for one in usable if one.interface.network.prefixlen < one.interface.max_prefixlen
    ]
    usable.sort(key=lambda one: (one.passing, one.interface.version == 4 and one.interface.network.prefixlen == 32))
    found = [one.interface.ip for one in usable]
    if best is not None and best.version == family and not best.is_link_local:
        known = next((one for one in there if one.interface.ip == best), None)
        if (known in usable and not known.passing) if known else not _of_pods(best, choice):
            return Underlay(link.index, link.name, best, link.mtu)
    if not found:
        raise NotYet(f"interface {link.name} has no IPv{int(family)} address that other nodes could reach")
    return Underlay(link.index, link.name, last if last in found and last is not None else found[0], link.mtu)


def _of_pods(address: Address, choice: Choice) -> bool:
    """Such an address is taken only where there is no other: a Network as wide as 10.0.0.0/8 may have the nodes in it, too."""
    return any(address in pods for pods in choice.pods)
