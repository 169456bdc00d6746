"""What each Service has in the kernel, as little of it as tells: names and marks of chains, lines in the shared chains. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from linux.iptables.rules import Mark, Rendered, stamped
from proxy.iptables.fragments import Fragment, Shared
from proxy.model import Protocol, ServicePort


class Part(NamedTuple):
    """Of one Service port. `chains`: names and marks, in nat; `lines` are indexed by Shared."""

    name: str
    protocol: Protocol
    chains: tuple[str, ...]
    marks: tuple[Mark, ...]
    lines: tuple[str, ...]

    def withdrawn(self, old: Part) -> Part:
        """When the chains of this part have been written over those of `old`, and its lines were refused."""
        rest = [(name, mark) for name, mark in zip(old.chains, old.marks, strict=True) if name not in self.chains]
        names, marks = tuple(name for name, _ in rest), tuple(mark for _, mark in rest)
        return self._replace(chains=self.chains + names, marks=self.marks + marks, lines=old.lines)


class Item(NamedTuple):
    """A Service port on its way into the kernel; `key` is its Service's."""

    key: str
    port: ServicePort
    fragment: Fragment

    @property
    def part(self) -> Part:
        made = self.fragment.chains
        port = self.port
        names, marks = tuple(chain.name for chain in made), tuple(chain.mark for chain in made)
        return Part(port.name, port.protocol, names, marks, self.fragment.lines)


WRITTEN = tuple(where for where in Shared if where is not Shared.NAT_EXTERNAL)
"""Each shared chain once."""
_PLACES = {Shared.NAT_SERVICES: (Shared.NAT_SERVICES, Shared.NAT_EXTERNAL)}

Fresh = Mapping[str, tuple[Part, ...]]
"""New parts by Service; of a Service that is gone an empty tuple."""


class Parts:
    """By Service. `endpoints`: how many KUBE-SEP chains there are; `rules`: in chains of Services."""

    def __init__(self) -> None:
        self._by_service: dict[str, tuple[Part, ...]] = {}
        self.endpoints = 0
        self.rules = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_service)

    def of(self, key: str) -> tuple[Part, ...]:
        return self._by_service.get(key, ())

    def port(self, key: str, name: str, protocol: Protocol) -> Part | None:
        return next((part for part in self.of(key) if part.name == name and part.protocol is protocol), None)

    def marks(self) -> Iterator[tuple[str, Mark]]:
        for parts in self._by_service.values():
            for part in parts:
                yield from zip(part.chains, part.marks, strict=True)

    def accept(self, fresh: Fresh) -> None:
        for key, parts in fresh.items():
            for sign, some in ((-1, self.of(key)), (1, parts)):
                for part in some:
                    self.endpoints += sign * sum(name.startswith("KUBE-SEP-") for name in part.chains)
                    self.rules += sign * sum(mark.length for mark in part.marks)
            if parts:
                self._by_service[key] = parts
            else:
                self._by_service.pop(key, None)

    def differs(self, where: Shared, fresh: Fresh) -> bool:
        """Whether `fresh` changes the shared chain."""
        return any(
            _lines(self.of(key), place) != _lines(parts, place)
            for place in _PLACES.get(where, (where,))
            for key, parts in fresh.items()
        )

    def shared(self, where: Shared, fresh: Fresh, end: str = "") -> Rendered:
        """The shared chain as it is with `fresh`, the Services in the order of their names, and `end` after them."""
        keys = sorted({*self._by_service, *fresh})
        now = [fresh[key] if key in fresh else self._by_service[key] for key in keys]
        lines = "".join([_lines(parts, place) for place in _PLACES.get(where, (where,)) for parts in now])
        return stamped(where.table, where.chain, lines + end)


def _lines(parts: tuple[Part, ...], where: Shared) -> str:
    return parts[0].lines[where] if len(parts) == 1 else "".join([part.lines[where] for part in parts])
