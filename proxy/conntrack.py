"""UDP flows that still go where a Service no longer leads.

NAT rules are asked once per flow; afterwards conntrack repeats its answer. A TCP connection to an endpoint that went away
ends by itself, but a UDP sender that keeps its source port (a resolver, a syslog client) keeps its flow alive by sending,
and would be sent to a dead address for ever. So after the rules are in, flows to a UDP Service whose answers would come from
somebody who is not its endpoint any more are deleted; their next packet meets the new rules. An endpoint that is terminating
but still serves keeps the flows it has.

Services without endpoints count too: otherwise a sender would stay bound to the last endpoint there was. Where a Service is
reached no longer (it is gone, or one of its addresses is), the flows to its former endpoints are deleted and no others.

Only what changed since the last cleaning is looked for, in one walk of the kernel's over its table.
(upstream: pkg/proxy/conntrack/cleanup.go)
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from linux import addresses as local
from linux import conntrack
from linux.iptables.rules import Family
from proxy.model import Address, Endpoint, Protocol, ServicePort

Reach = bytes | int
"""Where a UDP Service port is reached: an address and port (`linux.conntrack.endpoint`), or a NodePort of any address."""

_ABSENT = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP)
"""What a kernel without conntrack's netlink interface says."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """Which flows are stale. `rules`: who answers a stale flow, with True nobody of these, with False one of these. `local`:
    the addresses that have NodePorts. `due`: what it was made of."""

    rules: Mapping[Reach, tuple[bool, frozenset[bytes]]]
    local: frozenset[bytes]
    due: Mapping[Reach, tuple[Endpoint, ...]]

    def stale(self, to: bytes, answers: bytes) -> bool:
        rule = self.rules.get(to)
        if rule is None and to[:-2] in self.local:
            rule = self.rules.get(int.from_bytes(to[-2:], "big"))
        return rule is not None and (answers in rule[1]) is not rule[0]

    def narrowed(self) -> tuple[bytes | None, int | None]:
        """The one endpoint, else the one port, that all of these have: the kernel need send no others."""
        if len(self.rules) == 1 and isinstance(only := next(iter(self.rules)), bytes):
            return only, None
        ports = {int.from_bytes(reach[-2:], "big") if isinstance(reach, bytes) else reach for reach in self.rules}
        return None, ports.pop() if len(ports) == 1 else None


class Flows:
    """One family's flows in this network namespace, and what of them is due to be cleaned."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._known: dict[str, dict[Reach, tuple[Endpoint, ...]]] = {}
        # A cluster IP is its own Service's, whoever else names it; of others at one address the first in order has it.
        self._claims: dict[Reach, tuple[str, ...]] = {}  # a digit, 0 for a cluster IP, and the Service
        self._late: set[str] = set()
        self._due: dict[Reach, tuple[Endpoint, ...]] = {}  # with the former endpoints of what is reached no longer
        self._told = False

    @property
    def due(self) -> bool:
        return bool(self._due)

    def note(
        self,
        services: Mapping[str, tuple[ServicePort, ...]],
        changed: Collection[str] | None,
        refused: Iterable[str] = (),
    ) -> None:
        """The rules for `changed` (None: all) are in, except those of the service port names `refused`."""
        keys = set(changed) | self._late if changed is not None else services.keys() | self._known.keys()
        self._late = {name.partition(":")[0] for name in refused}
        for key in keys - self._late:
            ports = services.get(key, ())
            self._replace(key, reached(ports), cluster_ips(ports))

    def doubt(self) -> None:
        """The rules were gone for a while: what was sent then went past them, and its flows go on doing so."""
        for reach in self._claims:
            self._due.setdefault(reach, ())

    def _replace(self, key: str, new: dict[Reach, tuple[Endpoint, ...]], cluster: Collection[Reach]) -> None:
        old = self._known.get(key, {})
        if new == old:
            return
        for reach in old.keys() - new.keys():
            others = tuple(other for other in self._claims.pop(reach) if other[1:] != key)
            self._due[reach] = (*self._due.get(reach, ()), *old[reach])
            if others:
                self._claims[reach] = others
        for reach, ends in new.items():
            before = old.get(reach)
            rest = (other for other in self._claims.get(reach, ()) if other[1:] != key)
            self._claims[reach] = tuple(sorted((*rest, f"{0 if reach in cluster else 1}{key}")))
            # Nothing becomes stale by one more endpoint, unless there was none.
            if not before or not set(before) <= set(ends):
                self._due.setdefault(reach, ())
        self._known.pop(key, None)
        if new:
            self._known[key] = new

    async def clean(self, node_port_addresses: Sequence[Address] | None) -> int:
        """How many flows were deleted. NodePorts are looked for at these addresses; None is every local one. What the kernel
        refuses is logged and stays due; the rules are right without it."""
        question = self.take(node_port_addresses)
        try:
            with conntrack.Conntrack(self._family) as kernel:
                # In a thread: the kernel walks its whole table, however little it finds.
                return await asyncio.to_thread(_delete, kernel, question)
        except OSError as error:
            if error.errno in _ABSENT:
                if not self._told:
                    log.info("flows are left alone: this kernel has no conntrack over netlink (%s)", error)
                self._told = True
                return 0
            log.warning("deleting stale UDP flows: %s; again after the next change", error)
            self._put_back(question)
            return 0

    def take(self, node_port_addresses: Sequence[Address] | None) -> Question:
        """What of the table is stale, as far as that is due; then nothing is."""
        due, self._due = self._due, {}
        rules = {reach: self._rule(reach, former) for reach, former in due.items()}
        node_ports = any(isinstance(reach, int) for reach in rules)
        return Question(rules, self._packed(node_port_addresses) if node_ports else frozenset(), due)

    def _put_back(self, question: Question) -> None:
        for reach, former in question.due.items():
            self._due[reach] = (*former, *self._due.get(reach, ()))

    def _rule(self, reach: Reach, former: tuple[Endpoint, ...]) -> tuple[bool, frozenset[bytes]]:
        claims = self._claims.get(reach)
        ends = self._known[claims[0][1:]][reach] if claims else former
        return bool(claims), frozenset(end.packed for end in ends)

    def _packed(self, addresses: Sequence[Address] | None) -> frozenset[bytes]:
        mine = local.read() if addresses is None else addresses
        return frozenset(ip.packed for ip in mine if ip.version == self._family)


def reached(ports: Iterable[ServicePort]) -> dict[Reach, tuple[Endpoint, ...]]:
    """Where the UDP ones of these are reached, with those who may answer."""
    found: dict[Reach, tuple[Endpoint, ...]] = {}
    for port in ports:
        if port.protocol is not Protocol.UDP:
            continue
        ends = (*port.endpoints.serving, *port.endpoints.all)  # who keeps flows, and who gets new ones
        for ip in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
            found[conntrack.endpoint(ip.packed, port.port)] = ends
        if port.node_port:
            found[port.node_port] = ends
    return found


def cluster_ips(ports: Iterable[ServicePort]) -> set[Reach]:
    """Where they are reached by cluster IPs of their own."""
    return {conntrack.endpoint(port.cluster_ip.packed, port.port) for port in ports if port.protocol is Protocol.UDP}


def _delete(kernel: conntrack.Conntrack, question: Question) -> int:
    to, port = question.narrowed()
    try:
        return kernel.delete(kernel.flows(socket.IPPROTO_UDP, question.stale, to=to, port=port))
    except conntrack.Interrupted as interrupted:
        kernel.delete(interrupted.flows)  # these are stale, whatever was not seen
        raise
