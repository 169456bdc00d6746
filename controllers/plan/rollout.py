"""The arithmetic of rollouts, in numbers only.

A rolling update keeps two promises at every moment: at most `replicas + surge` pods are asked for, and at least
`replicas - unavailable` of those that were available stay so. Growing the new set spends surge; shrinking old ones spends
what is available beyond the promise, unhealthy pods first because their loss costs nothing.
Upstream: kubernetes/pkg/controller/deployment/{rolling,util/deployment_util}.go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor


@dataclass(frozen=True, slots=True)
class Size:
    """One ReplicaSet: how many pods are asked for (`spec`), there (`actual`) and available. `allowed` is the `max-replicas`
    that it was last scaled under, 0 when unknown. `observed` says that its status answers to its present spec."""

    name: str
    spec: int
    available: int
    actual: int = 0
    allowed: int = 0
    observed: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    replicas: int
    surge: int
    unavailable: int

    @property
    def most(self) -> int:
        return self.replicas + self.surge

    @property
    def least(self) -> int:
        return self.replicas - min(self.unavailable, self.replicas)


def resolve(value: int | str | None, total: int, *, up: bool) -> int:
    """A count, or a percentage of `total` rounded up (surge) or down (unavailable). Raises ValueError."""
    if value is None:
        value = "25%"
    if isinstance(value, int):
        return value
    if not value.endswith("%") or not value[:-1].isdigit():
        raise ValueError(f"{value!r} is neither a number nor a percentage")
    share = Fraction(total * int(value[:-1]), 100)
    return ceil(share) if up else floor(share)


def limits(replicas: int, surge: int | str | None, unavailable: int | str | None) -> Limits:
    """With neither surge nor loss allowed (both rounded to nothing) no step could be made: one pod may be lost then."""
    more, less = resolve(surge, replicas, up=True), resolve(unavailable, replicas, up=False)
    if not more and not less:
        less = 1
    return Limits(replicas, more, less)


def grown(new: Size, old: Sequence[Size], bounds: Limits) -> int:
    """How many pods to ask of the new set now; a set that is too large shrinks at once.

    Upstream counts what is asked for, and so overshoots its surge for as long as old pods that are no longer asked for
    are still there. Here they count until their set says that they are gone."""
    if new.spec > bounds.replicas:
        return bounds.replicas
    if not all(s.observed for s in old):
        return new.spec
    room = bounds.most - new.spec - sum(max(s.spec, s.actual) for s in old)
    return new.spec + max(0, min(room, bounds.replicas - new.spec))


def first(old: Sequence[Size], bounds: Limits) -> int:
    """How many pods to ask of a new set that is about to be made."""
    return grown(Size("", 0, 0), old, bounds)


def shrunk(new: Size, old: Sequence[Size], bounds: Limits) -> dict[str, int]:
    """New sizes for those of the old sets (oldest first) that may shrink now."""
    unavailable_new = new.spec - new.available
    budget = new.spec + sum(s.spec for s in old) - bounds.least - unavailable_new
    if budget <= 0 or not sum(s.spec for s in old):
        return {}
    sizes = {s.name: s.spec for s in old}
    for s in old:  # the unhealthy ones: their loss makes nothing worse
        lost = min(budget, max(0, s.spec - s.available))
        sizes[s.name] -= lost
        budget -= lost
    spare = new.available + sum(min(s.available, s.spec) for s in old) - bounds.least
    for s in old:
        lost = max(0, min(spare, sizes[s.name]))
        sizes[s.name] -= lost
        spare -= lost
    return {s.name: sizes[s.name] for s in old if sizes[s.name] != s.spec}


def proportional(sets: Sequence[Size], bounds: Limits, status_replicas: int) -> dict[str, int]:
    """A Deployment was scaled in the midst of a rollout: each set takes its share of the difference, and what rounding
    leaves goes to the largest (of what must go, as much as it has). `sets` come in the order in which equals are served:
    newest first when growing, oldest first when shrinking."""
    most = bounds.most if bounds.replicas > 0 else 0
    difference = most - sum(s.spec for s in sets)
    order = sorted(sets, key=lambda s: -s.spec)
    sizes: dict[str, int] = {}
    given = 0
    for s in order:
        share = _share(s, bounds, status_replicas, difference - given, difference) if difference else 0
        sizes[s.name] = s.spec + share
        given += share
    left = difference - given
    for s in order:
        change = max(left, -sizes[s.name])
        sizes[s.name] += change
        left -= change
    return sizes


def _share(s: Size, bounds: Limits, status_replicas: int, left: int, difference: int) -> int:
    if not s.spec or not left:
        return 0
    if bounds.replicas == 0:
        wanted = -s.spec
    else:
        base = s.allowed or status_replicas or s.spec
        wanted = floor(Fraction(s.spec * bounds.most, base) + Fraction(1, 2)) - s.spec
    return min(wanted, left) if difference > 0 else max(wanted, left)
