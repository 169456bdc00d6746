"""What is wanted, as the informers tell it.

`Tracker` is fed with the changes of the informers and keeps, for one family, the slices behind each Service and the ports
that were made of both. A change only marks its Service; `take` makes the ports of those that are marked, so the work of a
pass is that of what changed, and what changed there and back in between is nothing. Which came first, a Service or its
slices, does not matter, nor does which went first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from kube import core, labels
from kube.informer import Change
from linux.iptables.rules import Family
from proxy import objects
from proxy.endpoints import Place
from proxy.model import ServicePort
from proxy.services import service_ports
from proxy.slices import Skipped

SERVICES_SELECTOR = f"!{labels.SERVICE_PROXY_NAME}"
SERVICES_FIELDS = "spec.clusterIP!=None"
"""Headless Services need no rules: they are never sent."""
SLICES_SELECTOR = f"!{labels.HEADLESS}"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a pass needs to know.

    `services`: the ports of every Service by `namespace/name`, a live view; Services without any are absent. `changed`:
    the keys whose ports differ (or are gone) since the last `take`. `triggered`: when the oldest cause of each changed
    Service's endpoints happened, in seconds since the epoch. `skipped`: what had to be left out of an object, told once.
    """

    services: Mapping[str, tuple[ServicePort, ...]]
    changed: frozenset[str]
    triggered: tuple[float, ...] = ()
    skipped: tuple[tuple[objects.Service, Skipped], ...] = ()


class Tracker:
    """The Service ports of one family, seen from the node of this name. Causes before `started` (seconds since the epoch)
    are not measured: what happened while nobody programmed anything says nothing about programming."""

    def __init__(self, node: str, family: Family, started: float = 0.0) -> None:
        self._family = family
        self._address_type = f"IPv{family:d}"
        self._place = Place(node)
        self._started = started
        self._objects: dict[str, objects.Service] = {}
        self._slices: dict[str, tuple[objects.EndpointSlice, ...]] = {}
        self._ports: dict[str, tuple[ServicePort, ...]] = {}
        self._skipped: dict[str, tuple[Skipped, ...]] = {}
        self._causes: dict[str, float] = {}
        self._dirty: dict[str, None] = {}
        self.services: Mapping[str, tuple[ServicePort, ...]] = MappingProxyType(self._ports)

    def service_changed(self, change: Change[objects.Service]) -> None:
        if change.new is None:
            self._objects.pop(change.key, None)
        else:
            self._objects[change.key] = change.new
        self._dirty[change.key] = None

    def slice_changed(self, change: Change[objects.EndpointSlice]) -> None:
        """A slice may move to another Service by its label."""
        before, after = self._service_of(change.old), self._service_of(change.new)
        if before and before != after:
            self._put(before, change.key, None)
            self._causes.pop(before, None)
        if after and change.new is not None:
            self._put(after, change.key, change.new)
            self._note_cause(after, change.old, change.new)

    def node_changed(self, node: core.Node | None) -> None:
        """Hints are read by this node's zone: when it changes, so may every Service that has some."""
        zone = node.metadata.labels.get(labels.ZONE, "") if node else ""
        if zone == self._place.zone:
            return
        self._place = Place(self._place.node, zone)
        for key, pieces in self._slices.items():
            if any(entry.hints for piece in pieces for entry in piece.endpoints or ()):
                self._dirty[key] = None

    def take(self) -> Taken:
        dirty, self._dirty = self._dirty, {}
        changed, triggered, told = [], [], []
        for key in dirty:
            cause = self._causes.pop(key, None)
            service = self._objects.get(key)
            before = self._ports.get(key, ())
            after: tuple[ServicePort, ...] = ()
            if service is not None:
                made = service_ports(service, self._slices.get(key, ()), self._place, self._family)
                after = made.ports
                told += [(service, each) for each in self._news(key, made.skipped)]
            else:
                self._skipped.pop(key, None)
            if after == before:
                continue
            changed.append(key)
            if after:
                self._ports[key] = after
            else:
                del self._ports[key]
            if cause is not None:
                triggered.append(cause)
        return Taken(self.services, frozenset(changed), tuple(triggered), tuple(told))

    def _news(self, key: str, skipped: tuple[Skipped, ...]) -> list[Skipped]:
        """Those that were not skipped for the same reason when this Service was last looked at."""
        known = self._skipped.pop(key, ())
        if skipped:
            self._skipped[key] = skipped
        return [each for each in dict.fromkeys(skipped) if each not in known]

    def _service_of(self, piece: objects.EndpointSlice | None) -> str:
        """The key of the Service that a slice of this family belongs to; empty where it belongs to none."""
        if piece is None or piece.address_type != self._address_type:
            return ""
        meta = piece.metadata
        return f"{meta.namespace}/{meta.labels.service}" if meta.labels and meta.labels.service else ""

    def _put(self, service: str, key: str, piece: objects.EndpointSlice | None) -> None:
        """In the order of their names: where two slices name one address, the outcome must not depend on which came first."""
        others = [other for other in self._slices.get(service, ()) if other.metadata.key != key]
        if piece is not None:
            others.append(piece)
            others.sort(key=lambda other: other.metadata.name)
        if others:
            self._slices[service] = tuple(others)
        else:
            self._slices.pop(service, None)
        self._dirty[service] = None

    def _note_cause(self, service: str, old: objects.EndpointSlice | None, new: objects.EndpointSlice) -> None:
        noted = new.metadata.annotations
        if not noted or not noted.cause or (old is not None and old.metadata.annotations == noted):
            return
        try:
            cause = datetime.fromisoformat(noted.cause).timestamp()
        except ValueError:
            return  # somebody's own words; only a figure depends on it
        if cause > self._started:
            self._causes[service] = min(cause, self._causes.get(service, cause))
