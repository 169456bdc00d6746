"""A packet, the node it meets, and how it may end: what every tracer of rules speaks of.

`follow` leads a packet through the kernel's hooks, whoever hung chains there (iptables' tables, nftables' base chains):

    from outside   PREROUTING -> to the node: INPUT
                              -> to others:   FORWARD -> POSTROUTING
    from the node  OUTPUT -> POSTROUTING -> to the node again, over loopback: PREROUTING -> INPUT

At a hook chains run in the order of their priorities. Chains of type nat are special, and so they are here: whatever their
priorities, they all run where the kernel keeps NAT (-100 for destinations, 100 for sources), among themselves in order of
priority; only a connection's first packet meets them; the first of them that translates is the last that is asked; and what
comes back over loopback already has its translation. ACCEPT ends one chain, not the way: a later one may still say no.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

_MOST_WALKS = 200_000


class Unknown(Exception):
    """A rule says something that the tracer does not know: it must not guess."""


class Hook(enum.StrEnum):
    PREROUTING = "PREROUTING"
    INPUT = "INPUT"
    FORWARD = "FORWARD"
    OUTPUT = "OUTPUT"
    POSTROUTING = "POSTROUTING"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. `local` is whether the node itself sent it; `state` is conntrack's. `in_interface`
    is where it came in, and means nothing when it is local."""

    source: Address
    destination: Address
    port: int
    protocol: str = "tcp"
    local: bool = False
    mark: int = 0
    state: str = "NEW"
    in_interface: str = "eth0"
    out_interface: str = "eth0"
    source_port: int = 40000


@dataclass(frozen=True, slots=True)
class Node:
    """The addresses of the node that the packet is on; loopback is the node's in any case. `device`: the interface through
    which it would send to an address; without it the packet's own word holds."""

    addresses: frozenset[Address]
    device: Callable[[Address], str] | None = None

    def holds(self, address: Address) -> bool:
        return address.is_loopback or address in self.addresses

    def kind(self, address: Address) -> str:
        """As iptables' addrtype calls it. Broadcast addresses of subnets are not told from unicast ones."""
        if self.holds(address):
            return "LOCAL"
        if address.is_multicast:
            return "MULTICAST"
        if address.is_unspecified:
            return "UNSPEC"
        return "BROADCAST" if address == IPv4Address("255.255.255.255") else "UNICAST"


class Step(NamedTuple):
    """A chain on the way, and what the rule (or the element of a map) said that led into it."""

    table: str
    chain: str
    said: str = ""


class Walk(NamedTuple):
    """A packet under way; made by the thousand in a trace. `original` is as it was sent; `share` is how likely this
    way is; `doubts` are rules that were not understood and are taken both ways; `why` is what the last rule said that
    decided anything."""

    packet: Packet
    original: Packet
    rewritten: bool = False
    masqueraded: bool = False
    share: float = 1.0
    steps: tuple[Step, ...] = ()
    doubts: tuple[str, ...] = ()
    why: str = ""
    destination_done: bool = False
    source_done: bool = False

    def entering(self, table: str, chain: str, said: str = "") -> Walk:
        return self._replace(steps=(*self.steps, Step(table, chain, said)))

    def sent_to(self, address: Address, port: int) -> Walk:
        """With the destination chosen by NAT."""
        packet = replace(self.packet, destination=address, port=port)
        return self._replace(packet=packet, rewritten=True)

    def marked(self, mark: int) -> Walk:
        return self._replace(packet=replace(self.packet, mark=mark))

    def likely(self, share: float) -> Walk:
        return self._replace(share=self.share * share)

    def doubting(self, what: str) -> Walk:
        return self if what in self.doubts else self._replace(doubts=(*self.doubts, what))


@dataclass(frozen=True, slots=True)
class Ending:
    """One way it may end. `verdict`: ACCEPT, DROP or REJECT; `rewritten`: NAT chose the destination; `masqueraded`: the
    source becomes the node's; `delivered_here`: the node itself gets it."""

    verdict: str
    destination: Address
    port: int
    rewritten: bool
    masqueraded: bool
    share: float = 1.0
    delivered_here: bool = False
    steps: tuple[Step, ...] = ()
    doubts: tuple[str, ...] = ()
    why: str = ""

    @property
    def chains(self) -> tuple[str, ...]:
        return tuple(f"{step.table}/{step.chain}" for step in self.steps)


Ways = Iterator[tuple[str, Walk]]
"""(verdict, walk) pairs. An empty verdict: nothing was decided, the packet goes on."""


@dataclass(frozen=True, slots=True)
class Base:
    """A chain that hangs at a hook. `run` gives ACCEPT, DROP or REJECT, or nothing decided."""

    hook: Hook
    priority: int
    run: Callable[[Walk], Ways]
    nat: bool = False

    @property
    def order(self) -> tuple[int, int]:
        if not self.nat:
            return self.priority, 0
        return (-100 if self.hook in (Hook.PREROUTING, Hook.OUTPUT) else 100), self.priority


def follow(bases: Iterable[Base], packet: Packet, node: Node) -> frozenset[Ending]:
    """Every way the packet may end; the shares of all add up to 1. Raises Unknown."""
    shares: dict[Ending, float] = {}
    for ending in _Way(bases, node).endings(Walk(packet, packet)):
        alike = replace(ending, share=0.0)  # several throws of a die may end the same way
        shares[alike] = shares.get(alike, 0.0) + ending.share
    return frozenset(replace(ending, share=share) for ending, share in shares.items())


class _Way:
    def __init__(self, bases: Iterable[Base], node: Node) -> None:
        self._at: dict[Hook, list[Base]] = {hook: [] for hook in Hook}
        for base in sorted(bases, key=lambda each: each.order):
            self._at[base.hook].append(base)
        self._node = node
        self._walks = 0

    def endings(self, start: Walk) -> Iterator[Ending]:
        hooks = [Hook.OUTPUT, Hook.POSTROUTING] if start.packet.local else [Hook.PREROUTING]
        for verdict, walk in self._hooks(hooks, start):
            here = self._node.holds(walk.packet.destination)
            if verdict:
                yield _ending(verdict, walk)
            elif start.packet.local and not here:
                yield _ending("ACCEPT", walk)
            elif start.packet.local:
                looped = replace(walk.packet, local=False, in_interface="lo")
                yield from self._last([Hook.PREROUTING, Hook.INPUT], walk._replace(packet=looped), here)
            else:
                yield from self._last([Hook.INPUT] if here else [Hook.FORWARD, Hook.POSTROUTING], walk, here)

    def _last(self, hooks: list[Hook], walk: Walk, here: bool) -> Iterator[Ending]:
        for verdict, after in self._hooks(hooks, walk):
            yield _ending(verdict or "ACCEPT", after, here)

    def _hooks(self, hooks: list[Hook], walk: Walk) -> Ways:
        """Through all of these hooks; a verdict that is not empty is final."""
        if not hooks:
            yield "", walk
            return
        leaves = self._outgoing(hooks[0], walk)
        seen = walk
        if leaves != walk.packet.out_interface:
            seen = walk._replace(packet=replace(walk.packet, out_interface=leaves))
        for verdict, after in self._bases(hooks[0], self._at[hooks[0]], seen):
            if verdict:
                yield verdict, after
            else:
                yield from self._hooks(hooks[1:], after)

    def _outgoing(self, hook: Hook, walk: Walk) -> str:
        """The interface through which it would leave; none before the route is chosen."""
        if hook in (Hook.PREROUTING, Hook.INPUT):
            return ""
        if self._node.holds(walk.packet.destination):
            return "lo"
        if self._node.device is not None:
            return self._node.device(walk.packet.destination)
        return walk.original.out_interface

    def _bases(self, hook: Hook, bases: list[Base], walk: Walk) -> Ways:
        self._walks += 1
        if self._walks > _MOST_WALKS:
            raise Unknown(f"more than {_MOST_WALKS} ways: the rules leave too much to chance to be followed")
        if not bases:
            yield "", _translated(hook, walk)
            return
        base, rest = bases[0], bases[1:]
        if base.nat and (walk.packet.state != "NEW" or _is_translated(hook, walk)):
            yield from self._bases(hook, rest, walk)
            return
        for verdict, after in base.run(walk):
            if verdict in ("DROP", "REJECT"):
                yield verdict, after
                continue
            chosen = base.nat and (after.rewritten, after.masqueraded) != (walk.rewritten, walk.masqueraded)
            yield from self._bases(hook, rest, _translated(hook, after) if chosen else after)


def _is_translated(hook: Hook, walk: Walk) -> bool:
    return walk.destination_done if hook in (Hook.PREROUTING, Hook.OUTPUT) else walk.source_done


def _translated(hook: Hook, walk: Walk) -> Walk:
    """After the hook where NAT was, or could have been, chosen."""
    match hook:
        case Hook.PREROUTING | Hook.OUTPUT:
            return walk if walk.destination_done else walk._replace(destination_done=True)
        case Hook.INPUT | Hook.POSTROUTING:
            return walk if walk.source_done else walk._replace(source_done=True)
        case Hook.FORWARD:
            return walk


def _ending(verdict: str, walk: Walk, here: bool = False) -> Ending:
    packet = walk.packet
    return Ending(
        verdict,
        packet.destination,
        packet.port,
        walk.rewritten,
        walk.masqueraded,
        walk.share,
        here and verdict == "ACCEPT",
        walk.steps,
        walk.doubts,
        walk.why,
    )
