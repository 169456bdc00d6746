"""UDP flows that still go where a Service no longer leads.

NAT rules are asked once per flow; afterwards conntrack repeats its answer. A TCP connection to an endpoint that went away
ends by itself, but a UDP sender that keeps its source port (a resolver, a syslog client) keeps its flow alive by sending,
and would be sent to a dead address for ever. So after the rules are in, flows to a UDP Service whose reply would come from
somebody who is not its endpoint any more are deleted; their next packet meets the new rules.

Services without endpoints count too: otherwise a sender would stay bound to the last endpoint there was.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from linux import process
from proxy.model import Protocol, ServicePort

_COMMAND = "conntrack"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flow:
    """A conntrack entry: what the sender wrote on its packets, and who would answer."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    answers: str
    answers_port: int


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where UDP Services are reached, each with `(ip, port)` of those who may answer."""

    cluster: Mapping[tuple[str, int], frozenset[tuple[str, int]]]
    node_ports: Mapping[int, frozenset[tuple[str, int]]]

    def __bool__(self) -> bool:
        return bool(self.cluster)


def destinations(services: Iterable[ServicePort]) -> Destinations:
    cluster, node_ports = {}, {}
    for service in services:
        if service.protocol is not Protocol.UDP:
            continue
        ends = frozenset((str(end.ip), end.port) for end in service.endpoints.all)
        cluster[str(service.cluster_ip), service.port] = ends
        if service.node_port:
            node_ports[service.node_port] = ends
    return Destinations(cluster, node_ports)


def parse(listing: str) -> Iterator[Flow]:
    """The UDP flows in what `conntrack -L -p udp` printed."""
    for line in listing.splitlines():
        words = [word.split("=", 1) for word in line.split() if "=" in word]
        values = {name: [value for key, value in words if key == name] for name in ("src", "dst", "sport", "dport")}
        if all(len(found) >= 2 for found in values.values()):
            yield Flow(
                source=values["src"][0],
                source_port=int(values["sport"][0]),
                destination=values["dst"][0],
                destination_port=int(values["dport"][0]),
                answers=values["src"][1],
                answers_port=int(values["sport"][1]),
            )


def stale(flows: Iterable[Flow], wanted: Destinations, node_addresses: frozenset[str]) -> list[Flow]:
    """The flows to a UDP Service that nobody who should answers."""
    found = []
    for flow in flows:
        ends = wanted.cluster.get((flow.destination, flow.destination_port))
        if ends is None and flow.destination in node_addresses:
            ends = wanted.node_ports.get(flow.destination_port)
        if ends is not None and (flow.answers, flow.answers_port) not in ends:
            found.append(flow)
    return found


class Flows:
    """This network namespace's flows, cleaned when the UDP destinations have changed since the last cleaning."""

    def __init__(self) -> None:
        self._cleaned: Destinations | None = None
        self._told = False

    def due(self, wanted: Destinations) -> bool:
        return bool(wanted) and wanted != self._cleaned

    async def clean(self, wanted: Destinations, node_addresses: frozenset[str]) -> int:
        """How many flows were deleted. A failure is logged and leaves the cleaning due; rules are right without it."""
        if shutil.which(_COMMAND) is None:
            if not self._told:
                log.warning(
                    "%s is not on PATH: UDP senders with a fixed port may stay with endpoints that are gone;"
                    " install the package conntrack",
                    _COMMAND,
                )
            self._told = True
            return 0
        try:
            listed = await process.run([_COMMAND, "-L", "-p", "udp"], timeout=30)
            gone = stale(parse(listed.stdout.decode(errors="replace")), wanted, node_addresses)
            for flow in gone:
                # The entry may have expired since it was listed: then there is nothing to delete.
                await process.run(_deletion(flow), timeout=10, check=False)
        except process.CommandFailed as error:
            log.warning("deleting stale UDP flows: %s", error)
            return 0
        self._cleaned = wanted
        return len(gone)


def _deletion(flow: Flow) -> Sequence[str]:
    tuple_ = ["-s", flow.source, "-d", flow.destination, "--sport", str(flow.source_port)]
    return [_COMMAND, "-D", "-p", "udp", *tuple_, "--dport", str(flow.destination_port)]
