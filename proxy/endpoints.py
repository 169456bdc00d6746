"""Which endpoints a Service port may use on this node. Pure; upstream: pkg/proxy/topology.go (CategorizeEndpoints).

    Cluster   ready endpoints, those near this node if the hints say so; where there are none, those that still serve while
              they terminate
    Local     the same of this node's, whatever the hints say

Hints are written for all endpoints or they mean nothing: as soon as one ready endpoint has none, or none of them names this
node (or its zone), traffic goes to all, because a part of the cluster's clients would otherwise find nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from proxy.model import Endpoint, Reach, Usable

_LOCAL = Reach.LOCAL


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """An endpoint with its conditions, as the slices tell it. `zones`, `nodes`: whose clients it is meant for."""

    endpoint: Endpoint
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where this node is; `zone` is empty where its label is missing."""

    node: str
    zone: str = ""


def usable(
    candidates: Sequence[Candidate],
    *,
    internal: Reach,
    external: Reach,
    externally_reachable: bool,
    place: Place = Place(""),
    flows_stay: bool = False,
) -> Usable:
    """`candidates` in the order of their text. Even with a Local external policy pods and the node itself may use every
    endpoint. `flows_stay`: also tell who may go on serving the flows they have (UDP)."""
    ready = [one for one in candidates if one.ready]
    everyone = ready or _draining(candidates)
    local: tuple[Endpoint, ...] = ()
    if internal is _LOCAL or (externally_reachable and external is _LOCAL):
        here = [one for one in ready if one.endpoint.local]
        local = _ends(here or _draining(one for one in candidates if one.endpoint.local))
    cluster: tuple[Endpoint, ...] = ()
    if externally_reachable or internal is not _LOCAL:
        cluster = _ends(_near(ready, place) or everyone)
    serving = _ends(one for one in candidates if one.serving) if flows_stay else ()
    if serving and serving == cluster:
        serving = cluster  # as good as always: one tuple less
    return Usable(cluster, local, bool(everyone), serving)


def _ends(found: Iterable[Candidate]) -> tuple[Endpoint, ...]:
    return tuple([one.endpoint for one in found])


def _draining(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [one for one in candidates if one.serving and one.terminating]


def _near(ready: Sequence[Candidate], place: Place) -> list[Candidate]:
    """Those meant for this node, else for its zone; empty where the hints do not decide."""
    if all(one.nodes for one in ready):
        here = [one for one in ready if place.node in one.nodes]
        if here:
            return here
    if all(one.zones for one in ready):
        return [one for one in ready if place.zone in one.zones]
    return []
