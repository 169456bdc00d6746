"""One tunnel kept as it is wanted: what the nodes claim and what the kernel has -> wish -> plan -> kernel.

Each tunnel has its own, so that what is wrong in one family does not stop the other. A pass rereads everything; whatever
wakes it only says that something may have changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from linux import links
from linux.iptables.rules import Family
from linux.netlink import Conversation
from linux.route_monitor import Notice
from overlay import drift, wish
from overlay.apply import Incomplete, apply
from overlay.checksum import Checksums
from overlay.look import look, pods
from overlay.model import (
    DEVICE_ALIAS,
    ROUTE_PROTOCOL,
    Action,
    CreateDevice,
    Lease,
    NotYet,
    PutFdb,
    Range,
    Seen,
    Tunnel,
    VxlanDevice,
    Wanted,
)
from overlay.netconf import Network
from overlay.rivals import Rivals
from overlay.series import Series, label
from overlay.situation import Situation
from overlay.subnets import Subnets

_BREATH = 0.9
"""Seconds for which a pass rests that a rival would call again at once."""

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

    def forget(self) -> None:
        """Those who told are no more."""
        self._by.clear()

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
        checksums: Checksums,
    ) -> None:
        self.tunnel = tunnel
        self.name = "device-v6" if tunnel.families == (Family.V6,) and len(net.families) > 1 else "device"
        self.done: Done | None = None
        self.tried = False
        """Whether a pass has come to an end, good or bad."""
        self._net, self._subnets, self._situation, self._series = net, subnets, situation, series
        self._refusals, self._blackhole, self._talking = refusals, blackhole, talking
        self._checksums = checksums
        self._rivals = Rivals()
        self._pods = pods(tunnel, net)
        self._direct = wish.asks_direct(net)
        self._device = 0
        self._put: frozenset[tuple[str, Range | None]] = frozenset()
        """FDB entries that this pass wrote. The kernel does not sign their announcements with our port, but one that says what
        we wrote needs no look, whoever wrote it."""

    @property
    def told(self) -> object:
        """What others are told of this tunnel: its subnets, and the MTU."""
        return (self.done.own, self.done.wish.mtu) if self.done else None

    def concerns(self, notice: Notice) -> bool:
        """Whether what the kernel announced may have changed what we see."""
        if notice.kind == "neighbour":  # other devices' own come and go all the time
            return notice.device == self._device != 0 and (notice.mac, notice.about) not in self._put
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
        claims = self._subnets.claims()
        with Conversation() as ip:
            self._talking(self.name, ip.port)
            standing = self._situation.now
            found = await look(ip, self.tunnel, self._net, claims.leases, standing, blackhole=self._blackhole)
            self._device = found.seen.device.index if found.seen.device else 0
            self._refusals.tell(self.name, found.wish.refused)
            steps, held = self._rivals.sift(found.steps, time.monotonic())
            await self._carry_out(ip, steps, found.seen)
            self._note_checksums(ip, found.wish.wanted)
        if held:
            await asyncio.sleep(_BREATH)
            raise NotYet(f"another program undoes this again and again: {'; '.join(drift.summary(held))}")
        self.done = Done(found.own, found.wish)
        self._count(found.wish)
        # What was announced of a device before its index was known is lost.
        return any(isinstance(step, CreateDevice) for step in found.steps)

    async def _carry_out(self, ip: Conversation, steps: Sequence[Action], seen: Seen) -> None:
        before = self.done.wish.wanted if self.done else None
        put = (step.entry for step in steps if isinstance(step, PutFdb))
        self._put = frozenset((entry.mac, ip_network(entry.remote)) for entry in put)
        try:
            await apply(ip, self.tunnel, steps)
        except Incomplete as error:
            refused = [action for action, _ in error.refused]
            self._report([step for step in steps if step not in refused], before, seen)
            raise
        self._report(steps, before, seen)

    def _note_checksums(self, ip: Conversation, wanted: Wanted) -> None:
        (family, *_) = self.tunnel.families
        link = links.link(ip, self.tunnel.name) if isinstance(wanted.device, VxlanDevice) else None
        if link is None:
            self._checksums.forget(family)
            return
        self._device = link.index
        peers = [neighbour.address for neighbour in wanted.neighbours]
        for words in self._checksums.note(family, link.name, link.index, peers):
            log.warning("drift repaired: %s", words)
            self._series.drift.labels("device").inc()

    def _report(self, steps: Sequence[Action], before: Wanted | None, seen: Seen) -> None:
        mended = drift.mended(steps, before)
        for step in mended:
            self._series.drift.labels(drift.object_of(step)).inc()
        for line in drift.summary(mended):
            log.warning("drift repaired: %s", line)
        for line in self._rivals.note(mended, time.monotonic(), seen.routes):
            log.error("%s", line)
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
