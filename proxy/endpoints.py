"""Which endpoints a Service port may use on this node. Pure; upstream: pkg/proxy/topology.go (CategorizeEndpoints).

Ready endpoints; where there are none, those that still serve while they terminate; decided separately for the whole cluster
and for this node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.model import Endpoint, Reach, Usable


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint with its conditions, as the slices tell it."""

    endpoint: Endpoint
    ready: bool = True
    serving: bool = True
    terminating: bool = False


def usable(candidates: Sequence[Candidate], *, internal: Reach, external: Reach, externally_reachable: bool) -> Usable:
    """`candidates` in the order of their text. Even with a Local external policy pods and the node itself may use every
    endpoint."""
    everyone = _best(candidates)
    local: tuple[Endpoint, ...] = ()
    if internal is Reach.LOCAL or (externally_reachable and external is Reach.LOCAL):
        local = _best(one for one in candidates if one.endpoint.local)
    cluster = everyone if externally_reachable or internal is Reach.CLUSTER else ()
    return Usable(cluster, local, bool(everyone))


def _best(candidates: Iterable[Candidate]) -> tuple[Endpoint, ...]:
    found = list(candidates)
    ready = tuple(one.endpoint for one in found if one.ready)
    return ready or tuple(one.endpoint for one in found if one.serving and one.terminating)
