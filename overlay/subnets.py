"""What a subnet manager is: who has which subnet, said by the nodes themselves and kept somewhere that all of them read.

Two there are, as in flannel: the Kubernetes API, where the controllers give each Node its podCIDRs and the nodes say the rest
in annotations (`overlay.registry.kube`), and etcd, where each node takes a subnet and keeps a lease on it
(`overlay.registry.etcd`). One contract suite runs over both.

A manager only carries claims. Which of them can stand beside each other is judged by `overlay.wish`, ours among them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Never, Protocol

from linux.iptables.rules import Family
from overlay.model import Address, Backend, Lease, PublicKey, Vtep
from overlay.netconf import Network

Data = Vtep | PublicKey | None
"""What a backend's peers must know beside the address; None for host-gw."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the OTHER nodes claim, as far as it can be read; of the rest, by node, why it cannot."""

    leases: tuple[Lease, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Offer:
    """What this node can say of itself: its backend, and for each family the address of its underlay and the backend's
    data. A manager that has announced a Vtep of the same VNI before goes on with that one (a restart then changes nothing
    for the peers); a key is always the offered one."""

    backend: Backend
    addresses: Mapping[Family, Address]
    data: Mapping[Family, Data]


@dataclass(frozen=True, slots=True)
class Own:
    """This node's leases, one for each of the network's families; of a family that has none yet, why. A family without
    a subnet does not hold up the other."""

    leases: Mapping[Family, Lease]
    missing: Mapping[Family, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Announced:
    """`again`: seconds after which `announce` must be called again in any case, None: only when something changes.
    `until`: the time (seconds since 1970) at which the claim lapses unless it is renewed, None: never.
    `since`: when it was last said or renewed. `said`: what was written just now, in words; `mended`: which of that
    somebody else had changed."""

    again: float | None = None
    until: float | None = None
    since: float | None = None
    said: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()


class Subnets(Protocol):
    """`synced` is set when the first list is in; it stays set. What was read last stays when the registry goes away."""

    synced: asyncio.Event

    @property
    def where(self) -> str:
        """Where the registry is, for people."""
        ...

    @property
    def peers(self) -> tuple[str, ...]:
        """URLs or hosts of the registry; without other wishes the underlay is what leads there."""
        ...

    async def run(self, changed: Callable[[], None]) -> Never:
        """List and watch until cancelled; `changed()` is called for each change that may matter, ours included. What the
        registry refuses is logged and tried again; raises only UsageError."""
        ...

    async def network(self) -> Network:
        """The network's description, as it is now. Raises NotYet, UsageError."""
        ...

    def claims(self) -> Claims:
        """What is known now; awaits nothing."""
        ...

    def asked(self) -> Mapping[Family, Address]:
        """Where an administrator has written, in the registry, that this node is to be reached: it counts as --public-ip
        does, and chooses the interface (flannel's annotation node-public-ip; etcd knows none). Raises NotYet."""
        ...

    def hints(self) -> Sequence[Address]:
        """Addresses that the registry takes for this node's (its Node's InternalIPs). They choose the interface when the
        registry is on loopback, so that no route leads to it."""
        ...

    async def own(self, offer: Offer) -> Own:
        """What this node has; a manager that hands out subnets takes one here, and keeps it. Called in each pass: cheap
        when nothing has changed, and answered from memory while the registry is away. Raises NotYet when there is
        nothing for any family."""
        ...

    async def announce(self, own: Mapping[Family, Lease]) -> Announced:
        """Make the registry say what `own` says, once it is true here; the same again is cheap, and puts right what
        somebody else has changed. Raises Retry, ApiError."""
        ...
