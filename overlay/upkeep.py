"""One tunnel kept as it is wanted: what the nodes claim and what the kernel has -> wish -> plan -> kernel.

Each tunnel has its own, so that what is wrong in one family does not stop the other. A pass rereads everything; whatever
wakes it only says that something may have changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from linux import routes
from linux.iptables.rules import Family
from linux.netlink import Conversation
from linux.route_monitor import Notice
from overlay import drift, observe, plan, wish
from overlay.apply import Incomplete, apply
from overlay.model import (
    DEVICE_ALIAS,
    ROUTE_PROTOCOL,
    Action,
    Address,
    CreateDevice,
    Here,
    Lease,
    NotYet,
    Range,
    Tunnel,
    Wanted,
)
from overlay.netconf import Network
from overlay.series import Series, label
from overlay.situation import Situation
from overlay.subnets import Claims, Subnets

_TURN = 100
"""Peers that are asked about before the event loop gets its turn."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """What the last complete pass found or made right."""

    own: Mapping[Family, Lease]
    wish: wish.Wish


class Refusals:
    """Nodes that are left out, and why: each reason is said once, and counted once whoever gives it."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._by: dict[str, dict[str, str]] = {}

    def tell(self, who: str, refused: Mapping[str, str]) -> None:
        before, after = self._all(), dict(refused)
        self._by[who] = after
        for node, words in after.items():
            if words not in before.get(node, ()):
                log.error("left out: %s", words)
        now = self._all()
        for node in before.keys() - now.keys():
            log.info("node %s is left out no more", node)
        self._series.refused.set(len(now))

    def _all(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for each in self._by.values():
            for node, words in each.items():
                found.setdefault(node, set()).add(words)
        return found


class Upkeep:
    """`talking` is told the port of each conversation, so that our own changes do not wake us."""

    def __init__(
        self,
        tunnel: Tunnel,
        net: Network,
        subnets: Subnets,
        situation: Situation,
        series: Series,
        refusals: Refusals,
        *,
        blackhole: bool,
        talking: Callable[[str, int], None],
    ) -> None:
        self.tunnel = tunnel
        self.name = "device-v6" if tunnel.families == (Family.V6,) and len(net.families) > 1 else "device"
        self.done: Done | None = None
        self.tried = False
        """Whether a pass has come to an end, good or bad."""
        self._net, self._subnets, self._situation, self._series = net, subnets, situation, series
        self._refusals, self._blackhole, self._talking = refusals, blackhole, talking
        self._pods: tuple[Range, ...] = tuple(
            one for family in tunnel.families if (one := net.pods(family)) is not None
        )
        self._direct = wish.asks_direct(net)
        self._device = 0

    @property
    def told(self) -> object:
        """What others are told of this tunnel: its subnets, and the MTU."""
        return (self.done.own, self.done.wish.mtu) if self.done else None

    def concerns(self, notice: Notice) -> bool:
        """Whether what the kernel announced may have changed what we see."""
        if notice.kind == "neighbour":  # other devices' own come and go all the time
            return notice.device == self._device != 0
        if notice.device == self._device != 0 or notice.protocol == ROUTE_PROTOCOL:
            return True
        if notice.kind == "link":
            return notice.name == self.tunnel.name or notice.alias == DEVICE_ALIAS
        if notice.about is None:  # a default route: who can be reached without a router?
            return self._direct
        inside = any(one.version == notice.about.version and one.overlaps(notice.about) for one in self._pods)
        return inside or (self._direct and notice.kind == "route" and not notice.about.is_link_local)

    async def sync(self) -> bool:
        """One pass; whether another look is due at once. Raises NotYet, Retry, OSError."""
        try:
            with self._series.duration.time():
                return await self._sync()
        finally:
            self.tried = True

    async def _sync(self) -> bool:
        standing = self._situation.now
        families = self.tunnel.families
        if lacking := [words for family in families if (words := standing.missing.get(family))]:
            raise NotYet("; ".join(lacking))
        own = {family: standing.own[family] for family in families}
        claims = self._subnets.claims()
        with Conversation() as ip:
            self._talking(self.name, ip.port)
            seen = await observe.kernel(ip, self.tunnel, self._pods)
            self._device = seen.device.index if seen.device else 0
            direct = await self._reached(ip, claims) if self._direct else {}
            here = {
                family: Here(standing.bases[family], direct, standing.private_key, self._blackhole)
                for family in families
            }
            found = wish.wish(self.tunnel, own, claims.leases, self._net, here)
            self._refusals.tell(self.name, found.refused)
            steps = list(plan.actions(found.wanted, seen))
            await self._carry_out(ip, steps)
        self.done = Done(own, found)
        self._count(found)
        return any(
            isinstance(step, CreateDevice) for step in steps
        )  # what was announced before its index was known is lost

    async def _carry_out(self, ip: Conversation, steps: Sequence[Action]) -> None:
        before = self.done.wish.wanted if self.done else None
        try:
            await apply(ip, self.tunnel, steps)
        except Incomplete as error:
            refused = [action for action, _ in error.refused]
            self._report([step for step in steps if step not in refused], before)
            raise
        self._report(steps, before)

    async def _reached(self, ip: Conversation, claims: Claims) -> dict[Address, int]:
        """The public IPs that a link of ours reaches without a router, and over which interface."""
        found: dict[Address, int] = {}
        for number, lease in enumerate(claims.leases):
            if lease.family in self.tunnel.families:
                path = routes.path_to(ip, lease.public_ip)
                if path is not None and path.gateway is None and not path.local and path.device:
                    found[lease.public_ip] = path.device
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        return found

    def _report(self, steps: Sequence[Action], before: Wanted | None) -> None:
        mended = drift.mended(steps, before)
        for step in mended:
            self._series.drift.labels(drift.object_of(step)).inc()
        for line in drift.summary(mended):
            log.warning("drift repaired: %s", line)
        told = set(map(id, mended))
        for line in drift.summary([step for step in steps if id(step) not in told]):
            log.info("%s", line)

    def _count(self, found: wish.Wish) -> None:
        wanted = found.wanted
        for family in self.tunnel.families:
            name = label(family)
            self._series.peers.labels(name).set(sum(one.family is family for one in found.peers))
            self._series.last_sync.labels(name).set(time.time())
            for what, values in (
                ("route", [one for one in wanted.routes if one.destination.version == family]),
                ("neighbour", [one for one in wanted.neighbours if one.address.version == family]),
                ("fdb", [one for one in wanted.fdb if one.remote.version == family]),
                ("peer", wanted.peers),
            ):
                self._series.entries.labels(name, what).set(len(values))
