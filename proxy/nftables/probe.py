"""Which layout this kernel takes: the flat one, or a chain for each Service.

A table with a Service of every kind is rehearsed (`linux.nftables.features`): the kernel answers for each message, and the
transaction is undone before anybody could have met it. So what is asked is exactly what will be written, and nothing is left
behind. What lacks is then said in people's words.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from linux.iptables.backend import Unusable
from linux.iptables.rules import Family
from linux.nftables import features
from linux.nftables.connection import Connection, Refused
from proxy.model import Endpoint, PodNetwork, Policy, Protocol, Reach, ServicePort, Usable
from proxy.nftables import kernel
from proxy.nftables.fallback import Fallback
from proxy.nftables.layout import socket_family
from proxy.nftables.plan import Flat, Layout
from proxy.nftables.shadow import Seen, Shadow

_TABLE = "kube-proxy-rehearsal"  # a table that serves is not touched, not even in a transaction that comes to nothing

log = logging.getLogger(__name__)


def chosen(connection: Connection, family: Family, layouts: Sequence[Layout] = (Flat(), Fallback())) -> Layout:
    """The first that the kernel takes. Blocks for milliseconds (and while modules are loaded). Raises Unusable in words where
    it takes none."""
    lacks = ""
    try:
        for layout in layouts:
            refused = refusals(connection, family, layout)
            if not refused:
                if lacks:
                    log.warning(
                        "IPv%d: this kernel lacks what flat nftables maps need: %s. Each Service gets chains of its own"
                        " instead: slower to load, the same for packets",
                        family,
                        lacks,
                    )
                return layout
            lacks = _lacks(connection, family) or refused
    except Refused as error:
        raise Unusable(f"nf_tables of IPv{family} cannot be asked: {error}; use mode: iptables") from error
    raise Unusable(f"nf_tables of IPv{family} lacks what Services need: {lacks}; use mode: iptables")


def refusals(connection: Connection, family: Family, layout: Layout) -> str:
    """What the kernel says against it, in its words; empty if nothing."""
    seen = Seen("rehearsed")
    delta = Shadow(layout, _policy(family)).whole({"rehearsal/every-kind": every_kind(family)}, seen, None)
    failures = features.rehearse(connection, kernel.batch(delta, family, layout, _TABLE))
    return "; ".join(str(failure) for failure in failures[:3])


def _lacks(connection: Connection, family: Family) -> str:
    return "; ".join(features.lacking(connection, socket_family(family), features.ALL))


def _policy(family: Family) -> Policy:
    return Policy(family=family, pods=PodNetwork(_network(family)))


def every_kind(family: Family) -> tuple[ServicePort, ...]:
    """From the ranges for documentation; the table never comes to be."""
    here, there = (Endpoint.at(_address(family, number), 8080, local=number == 1) for number in (1, 2))
    plain = ServicePort(
        "rehearsal/every-kind:plain",
        Protocol.TCP,
        _address(family, 10),
        80,
        node_port=30080,
        external_ips=(_address(family, 11),),
        load_balancer_ips=(_address(family, 12),),
        source_ranges=(_network(family),),
        endpoints=Usable((here, there), (here,), any=True),
    )
    local = replace(
        plain,
        name="rehearsal/every-kind:local",
        protocol=Protocol.UDP,
        internal=Reach.LOCAL,
        external=Reach.LOCAL,
        affinity_seconds=10800,
    )
    lonely = replace(plain, name="rehearsal/every-kind:lonely", protocol=Protocol.SCTP, endpoints=Usable())
    return plain, local, lonely


def _address(family: Family, number: int) -> IPv4Address | IPv6Address:
    return ip_address(f"192.0.2.{number}" if family is Family.V4 else f"2001:db8::{number}")


def _network(family: Family) -> IPv4Network | IPv6Network:
    return ip_network("192.0.2.0/24" if family is Family.V4 else "2001:db8::/32")
