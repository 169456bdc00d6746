"""What the EndpointSlices of one Service say, for all of its ports at once. Pure.

The quirks are upstream's: an absent `ready` or `serving` is true, an absent `terminating` false; only the first address of
an endpoint counts; a port without a number is skipped; and where the same address comes twice (a slice being split, an
address that a new pod got) a terminating entry never hides another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from linux.iptables.rules import Family
from proxy.addresses import spelt
from proxy.endpoints import Candidate, Place
from proxy.model import MAX_PORT, Endpoint
from proxy.objects import EndpointPort, EndpointSlice

_Row: TypeAlias = tuple[bytes, str, bool, bool, bool, bool, tuple[str, ...], tuple[str, ...]]
"""The address, how it is spelt before `:port`, whether it is this node's, ready, serving and terminating, and the zones and
nodes it is for."""

_BY_TEXT = attrgetter("endpoint.text")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A part of an object that was left out, and why; `message` is for the object's author."""

    reason: str
    message: str


class Behind:
    """The endpoints behind a Service in one family. `skipped` is added to."""

    def __init__(self, slices: Sequence[EndpointSlice], family: Family, place: Place, skipped: list[Skipped]) -> None:
        self._family = family
        self._length = family.bits // 8
        self._place = place
        self._skipped = skipped
        self._rows: list[list[_Row]] = []
        self._ports: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for at, piece in enumerate(slices):
            for port in piece.ports or ():
                number = self._number(port, piece)
                if number:
                    self._ports.setdefault((port.name or "", port.protocol or "TCP"), []).append((at, number))
            self._rows.append(self._read(piece))

    def candidates(self, name: str, protocol: str) -> list[Candidate]:
        """The endpoints behind the port of this name, in the order of their text."""
        at = self._ports.get((name, protocol), ())
        found: dict[str, Candidate] = {}
        for index, number in at:
            behind, colon = number.to_bytes(2, "big"), f":{number}"
            for ip, host, local, ready, serving, terminating, zones, nodes in self._rows[index]:
                text = host + colon
                if terminating and text in found:
                    continue
                end = Endpoint(ip + behind, text, local)
                found[text] = Candidate(end, ready, serving, terminating, zones, nodes)
        return sorted(found.values(), key=_BY_TEXT)

    def ready_here(self) -> int:
        """On how many addresses of this node a ready endpoint runs, whatever its port."""
        rows = (row for rows in self._rows for row in rows)
        return len({ip for ip, _, local, ready, *_ in rows if local and ready})

    def _read(self, piece: EndpointSlice) -> list[_Row]:
        here, length = self._place.node, self._length
        rows: list[_Row] = []
        for entry in piece.endpoints or ():
            if not entry.addresses:
                continue
            found = spelt(entry.addresses[0])
            if found is None or len(found[0]) != length:
                self._not_an_address(entry.addresses[0], piece)
                continue
            ip, text = found
            states, hints = entry.conditions, entry.hints
            zones = tuple([zone.name for zone in hints.for_zones or ()]) if hints else ()
            nodes = tuple([node.name for node in hints.for_nodes or ()]) if hints else ()
            rows.append(
                (
                    ip,
                    text if length == 4 else f"[{text}]",
                    entry.node_name == here,
                    states.ready is not False,
                    states.serving is not False,
                    states.terminating is True,
                    zones,
                    nodes,
                )
            )
        return rows

    def _not_an_address(self, text: str, piece: EndpointSlice) -> None:
        words = f"{text!r} in EndpointSlice {piece.metadata.name} is not an IPv{self._family:d} address"
        self._skipped.append(Skipped("InvalidEndpointAddress", f"{words}; this endpoint gets no traffic"))

    def _number(self, port: EndpointPort, piece: EndpointSlice) -> int:
        number = port.port or 0
        if 0 <= number <= MAX_PORT:
            return number
        where = f"port {port.name!r} of EndpointSlice {piece.metadata.name}"
        self._skipped.append(
            Skipped("InvalidEndpointPort", f"{where} has the number {number}; ports are 1 to {MAX_PORT}")
        )
        return 0
