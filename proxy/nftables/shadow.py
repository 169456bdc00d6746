"""What the kernel should hold, remembered in small: enough to say what one Service's change changes. Pure.

Kept of a Service are its ports, which the tracker keeps anyway, and the order of its endpoints. Its elements are rendered from
that again, as it was and as it is, and what differs is the change: so the work is proportional to the change and the memory
small. Besides: who claims a key (two Services may want the same external IP and port; the first by name has it, unless it is
another's cluster IP), how many Services want the same member of a set, and which chains the kernel has.

`whole` compares everything with what was read from the kernel instead, and adopts from there the numbers of endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from linux.nftables.objects import Hook, Set
from proxy.model import Policy, Reach, ServicePort
from proxy.nftables import plan
from proxy.nftables.chains import Chain, Way
from proxy.nftables.layout import SHARED, Map
from proxy.nftables.plan import Content, Layout, Leads, Placed, Value

Ports = tuple[ServicePort, ...]
Allowed = dict[tuple[str, bytes], frozenset[bytes]]
"""Of Service ports with affinity: the endpoints whose clients stay, by the map that remembers and the key there."""


@dataclass(frozen=True, slots=True)
class ChainSeen:
    """A chain as the kernel has it: the stamp in its rules' comments (empty where they differ), and how many rules."""

    stamp: str
    rules: int
    hook: Hook | None = None


@dataclass(slots=True)
class Seen:
    """What was read of our table. `why` it cannot be kept, empty if it can: then `maps` are the elements by `Map`."""

    why: str
    chains: dict[str, ChainSeen] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()
    maps: tuple[dict[bytes, Value], ...] = ()


@dataclass(slots=True)
class Delta:
    """To be done in one transaction, in this order: the sets and `chains` to write whole, elements to delete and to put by
    `Map`. Afterwards, apart: `idle` chains and sets that nothing leads to any more. `purge`: what @affinity may keep, of the
    Service ports of which it may hold something else; `allowed`: the same of all that changed. `foreign`: what somebody else
    had changed, in words."""

    rebuild: bool = False
    sets: list[Set] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    gone: list[list[bytes]] = field(default_factory=lambda: [[] for _ in Map])
    put: list[list[tuple[bytes, Value]]] = field(default_factory=lambda: [[] for _ in Map])
    idle: list[str] = field(default_factory=list)
    idle_sets: list[str] = field(default_factory=list)
    purge: Allowed = field(default_factory=dict)
    allowed: Allowed = field(default_factory=dict)
    foreign: tuple[str, ...] = ()

    @property
    def written(self) -> int:
        return len(self.chains) + sum(map(len, self.put))

    @property
    def deleted(self) -> int:
        return sum(map(len, self.gone))


class Shadow:
    """One family's table. When a transaction is refused, what is remembered is wrong: make a new one from `whole`."""

    def __init__(self, layout: Layout, policy: Policy) -> None:
        self._layout = layout
        self.policy = policy
        self._held: dict[str, tuple[Placed, ...]] = {}
        self._claims: dict[bytes, str | tuple[str, ...]] = {}  # claimants: plan.OWN or NAMED, and the Service's name
        self._members: tuple[dict[bytes, int], ...] = tuple({} for _ in SHARED)
        self._uses: dict[str, int] = {}
        self._stamps: dict[str, str] = {}
        self._sets: set[str] = set()
        self.elements = [0] * len(Map)  # by `Map`, how many the kernel has

    def owner(self, key: bytes) -> str | None:
        """The Service that has a key of services-by-ip, services-by-nodeport or of anything that begins so."""
        name = self.policy.family.bits // 8 + 8
        found = self._claims.get(key) or self._claims.get(key[:-4]) or self._claims.get(key[:name])
        return None if found is None else _first(found)

    # --- some Services changed ---------------------------------------------------------------------------------

    def change(self, wanted: Mapping[str, Ports]) -> Delta:
        """`wanted`: the ports of each Service that changed, none where it is gone."""
        dirty = self._dirty(wanted)
        before, before_allowed = self._rendered(dirty)
        for service, ports in wanted.items():
            self._hold(service, ports, self._released(service))
        after, after_allowed = self._rendered(dirty)
        delta = Delta()
        self._count(before, after)
        self._compare_maps(before, after, delta)
        for name in before.sets.keys() - after.sets.keys():
            self._sets.discard(name)
            delta.idle_sets.append(name)
        delta.sets.extend(wanted for name, wanted in after.sets.items() if name not in self._sets)
        self._sets.update(after.sets)
        self._compare_chains(before, after, delta)
        delta.purge, delta.allowed = _narrowed(before_allowed, after_allowed), after_allowed
        return delta

    def _dirty(self, wanted: Mapping[str, Ports]) -> set[str]:
        """These Services, and who contends with one of them for a key."""
        dirty = set(wanted)
        for service, ports in wanted.items():
            held = [each.port for each in self._held.get(service, ())]
            for key in plan.keys(held) | plan.keys(ports):
                claim = self._claims.get(key, ())
                dirty.update(each[1:] for each in ((claim,) if isinstance(claim, str) else claim))
        return dirty

    def _rendered(self, services: Iterable[str]) -> tuple[Content, Allowed]:
        content, allowed = Content(), {}
        for service in services:
            held = self._held.get(service)
            if held:
                self._layout.render(held, self.policy, self._owning(service), content)
                allowed.update(self._allowed(service, held))
        return content, allowed

    def _allowed(self, service: str, held: tuple[Placed, ...]) -> Allowed:
        if all(each.port.affinity_seconds is None for each in held):
            return {}
        owns = self._owning(service)
        return {key: found for key, found in plan.allowed(held).items() if owns(key[1])}

    def _owning(self, service: str) -> _Owning:
        return _Owning(self._claims, service)

    def _released(self, service: str) -> tuple[Placed, ...]:
        """What was held of it."""
        held = self._held.pop(service, ())
        for key, rank in plan.keys(each.port for each in held).items():
            self._unclaim(key, rank + service)
        return held

    def _hold(self, service: str, ports: Ports, before: tuple[Placed, ...]) -> None:
        old = {(each.port.name, each.port.protocol): each for each in before}
        for key, rank in plan.keys(ports).items():
            self._claim(key, rank + service)
        if ports:
            self._held[service] = tuple(plan.placed(port, old.get((port.name, port.protocol))) for port in ports)

    def _claim(self, key: bytes, claimant: str) -> None:
        claim = self._claims.get(key)
        if claim is None or claim == claimant:
            self._claims[key] = claimant
        else:
            others = (claim,) if isinstance(claim, str) else claim
            self._claims[key] = tuple(sorted({*others, claimant}))

    def _unclaim(self, key: bytes, claimant: str) -> None:
        claim = self._claims.get(key)
        if claim == claimant:
            del self._claims[key]
        elif isinstance(claim, tuple):
            rest = tuple(other for other in claim if other != claimant)
            self._claims[key] = rest if len(rest) > 1 else rest[0]

    def _count(self, before: Content, after: Content) -> None:
        """Shared members come and go with their first and last Service."""
        for counts, which in zip(self._members, SHARED, strict=True):
            old, new = before.maps[which], after.maps[which]
            for key in old.keys() | new.keys():
                standing = counts.get(key, 0)
                wanted = standing + _number(new.get(key)) - _number(old.get(key))
                _set(old, key, standing)
                _set(new, key, wanted)
                _set(counts, key, wanted)

    def _compare_maps(self, before: Content, after: Content, delta: Delta) -> None:
        for which in Map:
            old, new = before.maps[which], after.maps[which]
            shared = which in SHARED
            gone, put = delta.gone[which], delta.put[which]
            for key, value in new.items():
                if key not in old:
                    put.append((key, value))
                elif not shared and old[key] != value:
                    gone.append(key)
                    put.append((key, value))
            gone.extend(key for key in old if key not in new)
            self.elements[which] += len(put) - len(gone)

    def _compare_chains(self, before: Content, after: Content, delta: Delta) -> None:
        for name in before.uses.keys() | after.uses.keys():
            uses = self._uses.get(name, 0) + after.uses.get(name, 0) - before.uses.get(name, 0)
            if uses:
                self._uses[name] = uses
            else:
                self._uses.pop(name, None)
                if "/" in name or self._idle() > _MOST_IDLE:
                    delta.idle.append(name)
        for name, chain in after.chains.items():
            if self._stamps.get(name) != chain.stamp:
                delta.chains.append(chain)
                self._stamps[name] = chain.stamp
        for name in delta.idle:
            self._stamps.pop(name, None)

    def _idle(self) -> int:
        return len(self._stamps) - len(self._uses)

    # --- everything --------------------------------------------------------------------------------------------

    def whole(self, services: Mapping[str, Ports], seen: Seen, changed: frozenset[str] | None) -> Delta:
        """Only of a new shadow. What differs although its Service is none of `changed` is somebody else's work (None: all
        have changed)."""
        for service, ports in services.items():
            self._hold(service, ports, self._numbers(ports, seen))
        content, allowed = self._rendered(self._held)
        if self.policy.node_port_addresses is not None:
            served = (ip for ip in self.policy.node_port_addresses if not ip.is_loopback)
            content.maps[Map.NODEPORT_IPS].update((ip.packed, None) for ip in served)
        for counts, which in zip(self._members, SHARED, strict=True):
            counts.update((key, _number(count)) for key, count in content.maps[which].items())
        self._uses.update(content.uses)
        fixed = self._layout.fixed(self.policy)
        wanted = {chain.name: chain for chain in (*fixed, *content.chains.values())}
        if odd := next((name for name, found in seen.chains.items() if not _can_stay(found, wanted.get(name))), None):
            seen = Seen(f"chain {odd} was of another kind")
        delta = Delta(rebuild=bool(seen.why))
        for chain in wanted.values():
            self._stamps[chain.name] = chain.stamp
            if seen.chains.get(chain.name) != ChainSeen(chain.stamp, len(chain.rules), chain.hook):
                delta.chains.append(chain)
        sets = {each.name: each for each in (*self._layout.sets(self.policy.family), *content.sets.values())}
        self._sets.update(content.sets)
        delta.sets.extend(each for name, each in sets.items() if name not in seen.sets)
        delta.idle.extend(name for name in seen.chains if name not in wanted)
        delta.idle_sets.extend(name for name in seen.sets if name not in sets)
        before = Content(maps=seen.maps) if seen.maps else Content()
        self.elements = [len(held) for held in before.maps]
        self._compare_maps(before, content, delta)
        self._uses.update((chain.name, 1) for chain in fixed)
        delta.purge = allowed
        if changed is not None:
            delta.foreign = self._foreign(delta, seen, changed)
        return delta

    def _numbers(self, ports: Ports, seen: Seen) -> tuple[Placed, ...]:
        """The ports with the endpoints that the kernel has for them, in its order."""
        if not seen.maps:
            return ()
        found = []
        for port in ports:
            lists: dict[Reach, tuple[bytes, ...]] = {Reach.CLUSTER: (), Reach.LOCAL: ()}
            dice = {Reach.CLUSTER: 0, Reach.LOCAL: 0}
            for each in plan.destinations(port):
                inside = each.reach if each.way is Way.CLUSTER else Reach.CLUSTER
                lists[inside] = lists[inside] or _numbered(seen.maps[each.way.endpoints], each.key)
                verdicts = seen.maps[Map.SERVICES_BY_NODEPORT if each.by_port else Map.SERVICES_BY_IP]
                dice[inside] = dice[inside] or _sides(verdicts.get(each.key))
                if each.way in (Way.EXTERNAL_ALL, Way.NODEPORT_ALL):
                    outside = Map.NODEPORT_LOCAL_ENDPOINTS if each.by_port else Map.LOCAL_ENDPOINTS
                    lists[Reach.LOCAL] = lists[Reach.LOCAL] or _numbered(seen.maps[outside], each.key)
                    verdicts = seen.maps[Map.NODEPORT_LOCAL if each.by_port else Map.EXTERNAL_LOCAL]
                    dice[Reach.LOCAL] = dice[Reach.LOCAL] or _sides(verdicts.get(each.key))
            found.append(Placed(port, lists[Reach.CLUSTER], lists[Reach.LOCAL], dice[Reach.CLUSTER], dice[Reach.LOCAL]))
        return tuple(found)

    def _foreign(self, delta: Delta, seen: Seen, changed: frozenset[str]) -> tuple[str, ...]:
        if seen.why:
            return (seen.why,)
        wished, _ = self._rendered(changed)
        words = [
            f"chain {chain.name}"
            for chain in delta.chains
            if self._uses.get(chain.name, 0) > wished.uses.get(chain.name, 0)  # wanted by others than the changed
        ]
        for which in Map:
            put = {key for key, _ in delta.put[which]}
            if which in SHARED:
                keys = (put - wished.maps[which].keys()) | (set() if changed else set(delta.gone[which]))
            else:
                keys = {key for key in put.union(delta.gone[which]) if (self.owner(key) or "") not in changed}
            if keys:
                words.append(f"{len(keys)} elements of {which.title}")
        return tuple(words)


@dataclass(frozen=True, slots=True)
class _Owning:
    claims: Mapping[bytes, str | tuple[str, ...]]
    service: str

    def __call__(self, key: bytes) -> bool:
        claim = self.claims.get(key)
        return claim is not None and _first(claim) == self.service


def _first(claim: str | tuple[str, ...]) -> str:
    """The Service whose claim is best; claimants are a digit and the Service's name."""
    return (claim if isinstance(claim, str) else claim[0])[1:]


_MOST_IDLE = 200
_DIE = re.compile(r"[a-z-]+-(\d+)(?:-|$)")


def _can_stay(found: ChainSeen, wanted: Chain | None) -> bool:
    """The kernel moves no chain to another hook or priority; only a policy can be changed."""
    if wanted is None or found.hook is None or wanted.hook is None:
        return wanted is None or found.hook is wanted.hook
    return replace(found.hook, drops=wanted.hook.drops) == wanted.hook


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _set(counts: dict[bytes, Value] | dict[bytes, int], key: bytes, count: int) -> None:
    if count:
        counts[key] = count
    else:
        counts.pop(key, None)


def _numbered(numbers: Mapping[bytes, Value], key: bytes) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while isinstance(endpoint := numbers.get(key + plan.side(len(found))), bytes):
        found.append(endpoint)
    return tuple(found)


def _sides(value: Value) -> int:
    """Of the die that a verdict leads to."""
    found = _DIE.match(value.chain) if isinstance(value, Leads) else None
    return int(found[1]) if found else 0


def _narrowed(before: Allowed, after: Allowed) -> Allowed:
    """Service ports of which @affinity may hold clients of endpoints that are not theirs any more."""
    found: Allowed = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key, frozenset())
        if old is None or old - new:
            found[key] = new
    return found
