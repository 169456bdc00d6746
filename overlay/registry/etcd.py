"""flannel's etcd subnet manager: every node takes a subnet for itself and keeps a lease on it.

What the others claim is what lies in etcd (`etcd_view`), and so is what we do about our own key: everything is computed from
the entries and from what we last wrote. While etcd is away what was read last counts, and nothing is taken or given up.

A subnet is taken by a transaction that succeeds only where the key is not there; whoever loses the race looks again. The key
that already names our public IP is ours from an earlier start, and is taken up again; else the subnet of the last subnet.env,
if it is free; else one of the first hundred free. A reservation (a key without a lease) is filled in and stays one. When
our key is gone, expired or deleted, it is made again.

etcd knows nodes by their public IP alone, so two with one address (10.0.2.15 on every Vagrant machine) would share a subnet.
They are told apart by the lease: each daemon hangs the key on a lease of its own making. A daemon whose key is
moved to a strange lease takes it back and says so; one that had just taken the key from somebody who then takes it back is the
newcomer, and stands aside. A key of ours that had expired and was made anew with another public IP is that node's: we take
another subnet.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import Never

from kube import etcd_wire as wire
from kube.errors import Retry, UsageError
from kube.etcd import Access, Away, Etcd, Refused, Unsure
from linux.iptables.rules import Family
from overlay import netconf
from overlay.model import Address, Lease, NotYet, Vtep
from overlay.netconf import Network, Unfit
from overlay.registry import etcd_keys as keys
from overlay.registry.etcd_keys import Entry
from overlay.registry.etcd_view import EtcdView, refusal
from overlay.subnets import Announced, Claims, Offer, Own

TTL = 24 * 3600
"""Seconds that a lease lasts; flannel's."""
_RACES = 10
_NEWCOMER = 30.0
"""Seconds within which a key that we have taken up must not be taken back from us, or somebody lives who has it."""
_ASIDE = 60.0
"""Seconds for which a newcomer stands aside."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """The entry that is ours, as we wrote it. Times are seconds since the machine's start, sleep included: a date may be set
    back, and a lease would not be renewed in time. `until`: when its lease ends (0: a reservation); `taken_up`: when we took
    it from an earlier start, or from somebody (0: it was made by us)."""

    entry: Entry
    written: float
    until: float
    taken_up: float


@asynccontextmanager
async def opened(
    access: Access,
    prefix: str,
    *,
    previous: keys.Subnets | None = None,
    renew_margin: float = 3600.0,
    ttl: int = TTL,
    read_only: bool = False,
    remembered: Path | None = None,
) -> AsyncIterator["EtcdSubnets"]:
    """`previous` are the subnets of the last subnet.env; `renew_margin`: seconds before its end at which a lease is renewed;
    `read_only`: for one who only looks: what is this node's is found by its address, and nothing is taken; `remembered`: the file
    for a start without etcd (`memory.leases`)."""
    etcd = Etcd(access)
    try:
        yield EtcdSubnets(
            etcd,
            access.endpoints,
            prefix,
            previous=previous,
            renew_margin=renew_margin,
            ttl=ttl,
            read_only=read_only,
            remembered=remembered,
        )
    finally:
        await etcd.close()


class EtcdSubnets:
    """Satisfies overlay.subnets.Subnets."""

    def __init__(
        self,
        etcd: Etcd,
        endpoints: tuple[str, ...],
        prefix: str,
        *,
        previous: keys.Subnets | None = None,
        renew_margin: float = 3600.0,
        ttl: int = TTL,
        read_only: bool = False,
        remembered: Path | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._etcd = etcd
        self._endpoints = endpoints
        self._view = EtcdView(etcd, prefix, self._lost, remembered, keeps=not read_only)
        self.synced = self._view.synced
        self._previous = previous or {}
        self._margin = min(renew_margin, ttl / 2)
        self._ttl = ttl
        self._read_only = read_only
        self._random = random or SystemRandom()
        self._clock = clock
        self._network: Network | None = None
        self._unfit = ""
        self._held: _Held | None = None
        self._found: str | None = None
        """The entry that was found to be ours while none could be taken."""
        self._aside = 0.0
        self._said: dict[Family, Lease] = {}
        self._read: dict[str, tuple[Entry, tuple[Lease, ...], str]] = {}
        """Of each entry what was read in it; a thousand are not read again because one has changed."""

    @property
    def where(self) -> str:
        return f"etcd at {', '.join(self._endpoints)}, {self._view.prefix}"

    @property
    def peers(self) -> tuple[str, ...]:
        return self._endpoints

    # --- reading -----------------------------------------------------------------------------------------------

    async def run(self, changed: Callable[[], None]) -> Never:
        await self._view.run(changed)

    async def network(self) -> Network:
        view = self._view
        if not self.synced.is_set():
            try:
                await view.read()
            except (Away, Unsure) as error:
                raise NotYet(f"{error}; --etcd-endpoints says where it is") from error
            except Refused as error:
                raise NotYet(refusal(error, view.prefix)) from error
        if view.config is None:
            raise NotYet(
                f"etcd has no {view.prefix}/config: put net-conf.json there, e.g."
                f" etcdctl put {view.prefix}/config '{netconf.EXAMPLE}'"
            )
        try:
            self._network = _usable(netconf.parse(view.config, f"{view.prefix}/config"), view.prefix)
        except Unfit as error:
            if self._network is None:
                raise UsageError(str(error)) from error
            if str(error) != self._unfit:
                log.error("%s; the network stays as it was", error)
            self._unfit = str(error)
        return self._network

    def claims(self) -> Claims:
        found: list[Lease] = []
        refused: dict[str, str] = {}
        ours = self._ours()
        before, self._read = self._read, {}
        for name, entry in self._view.entries.items():
            if name == ours:
                continue
            known = before.get(name)
            if known is None or known[0] is not entry:
                known = (entry, *self._readings(entry))
            self._read[name] = known
            found += known[1]
            if known[2]:
                refused[name] = known[2]
        return Claims(tuple(found), refused)

    def _readings(self, entry: Entry) -> tuple[tuple[Lease, ...], str]:
        try:
            return keys.leases(entry), ""
        except keys.UnreadableLease as error:
            return (), f"{self._view.subnets}{error}"

    def _ours(self) -> str | None:
        if self._held is None:
            return self._found
        there = self._view.entries.get(self._held.entry.name)
        return None if there is not None and _of_another(there, self._held) else self._held.entry.name

    def asked(self) -> Mapping[Family, Address]:
        """Nobody but --public-ip asks for another address here."""
        return {}

    def hints(self) -> Sequence[Address]:
        """etcd knows no node before it has a subnet."""
        return ()

    def _lost(self, name: str) -> None:
        if self._held is not None and self._held.entry.name == name:
            log.warning("%s%s, the lease of this node, has expired or was deleted", self._view.subnets, name)

    # --- our own -----------------------------------------------------------------------------------------------

    async def own(self, offer: Offer) -> Own:
        if self._network is None or not self.synced.is_set():
            raise NotYet(self._view.trouble or f"{self.where} has not answered yet")
        if not any(family in offer.addresses for family in self._network.families):
            return Own({})  # no underlay: the caller knows, and says so
        if self._held is not None and not self._view.trouble:
            self._give_up(self._held)
        held = self._held
        if held is not None:
            there = self._view.entries.get(held.entry.name)
            if self._view.trouble or (there is not None and keys.fits(self._network, _subnets(there))):
                return self._offered(_subnets(held.entry), there or held.entry, offer)
        if self._read_only or self._view.trouble:
            return self._looked(offer)
        if self._clock() < self._aside:
            raise NotYet(_duplicate(offer))
        try:
            return await self._acquire(self._network, offer)
        except (Away, Unsure) as error:
            if held is not None:  # what we had counts until etcd says otherwise
                return self._offered(_subnets(held.entry), held.entry, offer)
            raise NotYet(f"no subnet yet: {error}") from error
        except Refused as error:
            raise NotYet(refusal(error, self._view.prefix)) from error
        except keys.OutOfSubnets as error:
            raise NotYet(f"out of subnets: {error}") from error

    def _give_up(self, held: _Held) -> None:
        """Our lease had expired before etcd heard of us again, and somebody has taken the subnet since: it is theirs."""
        there = self._view.entries.get(held.entry.name)
        if there is None or not _of_another(there, held):
            return
        whose = " and ".join(map(str, keys.public_ips(there).values())) or "somebody"
        log.warning(
            "%s%s, the lease of this node, had expired, and %s has the subnet now: taking another",
            *(self._view.subnets, there.name, whose),
        )
        self._held = None

    def _looked(self, offer: Offer) -> Own:
        there = self._earlier(offer)
        if there is None:
            raise NotYet(
                self._view.trouble or f"this node ({_addresses(offer)}) has no lease below {self._view.subnets}"
            )
        self._found = there.name
        return self._offered(_subnets(there), there, offer)

    async def _acquire(self, network: Network, offer: Offer) -> Own:
        liked = [_subnets(self._held.entry)] if self._held else []
        for _ in range(_RACES):
            await self._view.read()
            earlier = self._earlier(offer)
            if earlier is not None:
                if keys.fits(network, _subnets(earlier)):
                    return await self._take_up(earlier, offer)
                if not earlier.lease:
                    raise NotYet(
                        f"{self._view.subnets}{earlier.name} is reserved for this node and does not fit"
                        f" {self._view.prefix}/config: delete the one or change the other"
                    )
                log.warning(
                    "%s%s was ours and does not fit the network any more: deleting it", self._view.subnets, earlier.name
                )
                await self._delete(earlier)
                liked.append(_subnets(earlier))
                continue
            subnets = keys.choose(network, self._view.entries, self._random, (*liked, self._previous))
            value = keys.value_of(self._offered(subnets, None, offer).leases)
            made = await self._make(keys.name_of(subnets), value)
            if made is not None:
                log.info("took the subnet %s in %s", " and ".join(map(str, subnets.values())), self.where)
                return self._offered(subnets, made, offer)
        raise NotYet(f"{_RACES} other nodes were quicker to take a subnet; trying again")

    def _earlier(self, offer: Offer) -> Entry | None:
        """The entry that names our address; of several the oldest that fits."""
        ours = set(offer.addresses.values())
        found = [entry for entry in self._view.entries.values() if ours & set(keys.public_ips(entry).values())]
        found = [entry for entry in found if _subnets(entry)]
        assert self._network is not None
        network = self._network
        return min(
            found, key=lambda entry: (not keys.fits(network, _subnets(entry)), entry.created, entry.name), default=None
        )

    def _offered(self, subnets: keys.Subnets, entry: Entry | None, offer: Offer) -> Own:
        """Our leases: the subnets with what we offer, but the VTEP that the entry has announced before."""
        name = keys.name_of(subnets)
        known: dict[Family, Lease] = {}
        if entry is not None:
            try:
                known = {lease.family: lease for lease in keys.leases(entry)}
            except keys.UnreadableLease:
                known = {}
        if self._held is not None and self._held.entry.name == name:
            known = {lease.family: lease for lease in keys.leases(self._held.entry)}
        made: dict[Family, Lease] = {}
        for family, subnet in subnets.items():
            if family not in offer.addresses:
                continue  # no underlay: the caller knows, and says so
            said, before = offer.data.get(family), known.get(family)
            if (
                before is not None
                and isinstance(said, Vtep)
                and isinstance(before.data, Vtep)
                and before.data.vni == said.vni
            ):
                said = before.data
            since = float(entry.created) if entry is not None else 0.0
            made[family] = Lease(name, subnet, offer.addresses[family], offer.backend, said, since)
        return Own(made)

    # --- writing -----------------------------------------------------------------------------------------------

    async def announce(self, own: Mapping[Family, Lease]) -> Announced:
        """Our key says what `own` says, and its lease lives."""
        held = self._held
        if held is None:
            raise Retry("there is no lease in etcd yet")
        entry = self._view.entries.get(held.entry.name)
        if entry is None:
            raise Retry(f"{self._view.subnets}{held.entry.name} is gone; taking it again")
        if _of_another(entry, held):
            raise Retry(f"{self._view.subnets}{entry.name} is another node's by now; taking another")
        before = {family: lease for family, lease in self._said.items() if lease.node == entry.name}
        self._said = {**before, **own}  # a family that cannot be looked at just now is still there
        try:
            return await self._announce(held, entry, keys.value_of(self._said))
        except (Away, Unsure) as error:
            raise Retry(f"the lease in etcd could not be written: {error}") from error
        except Refused as error:
            raise Retry(refusal(error, self._view.prefix)) from error

    async def _announce(self, held: _Held, entry: Entry, value: bytes) -> Announced:
        now = self._clock()
        where = f"{self._view.subnets}{entry.name}"
        if entry.modified > held.entry.modified and (entry.value, entry.lease) != (value, held.entry.lease):
            return await self._mend(held, entry, value)
        if entry.value != value:
            await self._put(entry, value, held.entry.lease, held)
            return self._announced(said=(f"{where}: {value.decode()}",))
        if held.until and now >= held.until - self._margin:
            left = await self._etcd.keep_alive(held.entry.lease)
            if not left:
                raise Retry(f"the lease of {where} has expired; taking it again")
            self._held = _Held(held.entry, now, now + left, held.taken_up)
            return self._announced(said=(f"{where}: renewed for {left} s",))
        return self._announced()

    async def _mend(self, held: _Held, entry: Entry, value: bytes) -> Announced:
        """Somebody else has written our key: by hand, or because they take themselves for its owner."""
        where = f"{self._view.subnets}{entry.name}"
        stranger = entry.lease not in (0, held.entry.lease)
        now = self._clock()
        if stranger and held.taken_up and now - held.taken_up < _NEWCOMER:
            self._held, self._aside = None, now + _ASIDE + self._random.random() * _ASIDE
            raise Retry(f"{where} was taken back by a node that lives: two nodes announce one public IP")
        if stranger:
            log.error(
                "%s was taken by another node that announces the same public IP: taking it back; one of the two needs"
                " another address (--iface, --public-ip)",
                where,
            )
        lease = held.entry.lease
        if lease:
            left = await self._etcd.keep_alive(lease)
            if not left:
                lease, left = await self._etcd.grant(self._ttl)
            held = _Held(held.entry, now, now + left, held.taken_up)
        await self._put(entry, value, lease, held)
        return self._announced(said=(f"{where}: {value.decode()}",), mended=(where,))

    def _announced(self, *, said: tuple[str, ...] = (), mended: tuple[str, ...] = ()) -> Announced:
        held = self._held
        assert held is not None
        now, date = self._clock(), time.time()
        since = date - (now - held.written)
        if not held.until:
            return Announced(since=since, said=said, mended=mended)
        again = max(1.0, held.until - self._margin - now)
        return Announced(again, date + held.until - now, since, said, mended)

    async def _take_up(self, entry: Entry, offer: Offer) -> Own:
        own = self._offered(_subnets(entry), entry, offer)
        value = keys.value_of(own.leases)
        now = self._clock()
        lease, ttl = await self._etcd.grant(self._ttl) if entry.lease else (0, 0)
        held = _Held(entry, now, now + ttl if ttl else 0.0, now)
        try:
            await self._put(entry, value, lease, held)
        except Retry as error:
            await self._forget(lease)
            raise NotYet(str(error)) from error
        words = "went on with the subnet" if entry.lease else "took the reserved subnet"
        log.info(
            "%s %s, which %s has for %s",
            words,
            entry.name,
            self.where,
            " and ".join(str(lease.public_ip) for lease in own.leases.values()),
        )
        return own

    async def _make(self, name: str, value: bytes) -> Entry | None:
        """None where the key was there already."""
        now = self._clock()
        lease, ttl = await self._etcd.grant(self._ttl)
        key = f"{self._view.subnets}{name}".encode()
        answer = await self._etcd.txn([wire.version_is(key, 0)], [wire.put_op(wire.put_request(key, value, lease))], [])
        if not answer.succeeded:
            await self._forget(lease)
            return None
        revision = answer.header.revision
        entry = Entry(name, value, lease, revision, revision)
        self._view.wrote(entry)
        self._held = _Held(entry, now, now + ttl, 0.0)
        return entry

    async def _put(self, entry: Entry, value: bytes, lease: int, held: _Held) -> None:
        """Write our key over what was seen of it. Raises Retry where it is not that any more."""
        key = f"{self._view.subnets}{entry.name}".encode()
        put = wire.put_op(wire.put_request(key, value, lease))
        answer = await self._etcd.txn([wire.mod_revision_is(key, entry.modified)], [put], [])
        if not answer.succeeded:
            raise Retry(f"{self._view.subnets}{entry.name} was written by somebody else at the same time")
        fresh = Entry(entry.name, value, lease, entry.created, answer.header.revision)
        self._view.wrote(fresh)
        self._held = _Held(fresh, self._clock(), held.until, held.taken_up)

    async def _delete(self, entry: Entry) -> None:
        key = f"{self._view.subnets}{entry.name}".encode()
        delete = wire.delete_op(wire.delete_request(key))
        await self._etcd.txn([wire.mod_revision_is(key, entry.modified)], [delete], [])
        self._view.deleted(entry.name)

    async def _forget(self, lease: int) -> None:
        """A lease that nothing hangs on; left alone it would expire unused."""
        try:
            if lease:
                await self._etcd.revoke(lease)
        except (Away, Unsure, Refused) as error:
            log.debug("lease %x stays until it expires: %s", lease, error)


def _usable(network: Network, prefix: str) -> Network:
    """Raises Unfit for what this registry cannot hand out subnets of."""
    if Family.V4 not in network.families:
        raise Unfit(
            f"{prefix}/config: EnableIPv4: flannel's keys in etcd begin with an IPv4 subnet; a network of IPv6 alone needs"
            " the Kubernetes API (--kube-subnet-mgr)"
        )
    for family in network.families:
        try:
            network.allocation(family)
        except Unfit as error:
            raise Unfit(f"{prefix}/config: {error}") from error
    return network


def _of_another(there: Entry, held: _Held) -> bool:
    """Whether a key under our name is not the one we had, and not for our address."""
    mine, theirs = set(keys.public_ips(held.entry).values()), set(keys.public_ips(there).values())
    return there.created != held.entry.created and not mine & theirs


def _subnets(entry: Entry) -> keys.Subnets:
    """Empty for a key that cannot be read."""
    try:
        return keys.subnets_in(entry.name)
    except keys.UnreadableLease:
        return {}


def _addresses(offer: Offer) -> str:
    return " and ".join(map(str, offer.addresses.values()))


def _duplicate(offer: Offer) -> str:
    return (
        f"another node that lives announces this one's public IP {_addresses(offer)}: give each node an address of its own"
        " (--iface, --iface-can-reach, --public-ip)"
    )
