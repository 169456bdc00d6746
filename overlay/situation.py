"""Who and where this node is: the underlay of each family, and the subnets that are this node's own.

This is looked at whenever a link, an address or a route has changed, and costs a few questions to the kernel. What comes of
it wakes the tunnels only when it differs from before. A family for which something is missing does not hold up the other;
what was known of it stays in the kernel as it is.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from linux import links, sockets
from linux import wireguard as kernel_wireguard
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay import keys, underlay
from overlay.config import Config
from overlay.model import Address, Backend, Lease, NotYet, PublicKey, Tunnel, Underlay, Vtep
from overlay.netconf import Network, VxlanSettings
from overlay.series import Series
from overlay.subnets import Data, Offer, Subnets
from overlay.underlay import Choice

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """Of each family what is known; of the others, in words, why it is not."""

    bases: Mapping[Family, Underlay] = field(default_factory=dict)
    own: Mapping[Family, Lease] = field(default_factory=dict)
    missing: Mapping[Family, str] = field(default_factory=dict)
    private_key: str = field(default="", repr=False)


class Situation:
    """`now` is what the last look found; `changed` is called when it differs from the one before."""

    def __init__(
        self,
        config: Config,
        subnets: Subnets,
        net: Network,
        tunnels: tuple[Tunnel, ...],
        series: Series,
        changed: Callable[[], None],
    ) -> None:
        self._config, self._subnets, self._net, self._tunnels = config, subnets, net, tunnels
        self._series, self._changed = series, changed
        self._registry: tuple[Address, ...] = ()
        self._fresh = {family: random_mac() for family in Family}
        self._bases: dict[Family, Underlay] = {}
        self._away: set[Family] = set()
        self._addresses: set[Address] = set()
        self.known: dict[Family, Lease] = {}
        """The leases that were ours last, also while a family's underlay is away."""
        self.now = Standing(missing=dict.fromkeys(net.families, "not yet looked for"))

    async def look(self) -> None:
        """Raises NotYet when there is nothing for any family."""
        private = keys.private(keys.file(self._config.subnet_file)) if self._net.kind is Backend.WIREGUARD else ""
        choice = await self._choice()
        bases: dict[Family, Underlay] = {}
        missing: dict[Family, str] = {}
        with Conversation() as ip:
            self._abandon(ip)
            choice = replace(choice, last=self._last(ip))
            for family in self._net.families:
                try:
                    bases[family] = underlay.find(ip, family, choice)
                except NotYet as error:
                    missing[family] = str(error)
            self._follow(bases)
            offer = self._offer(ip, bases, choice.public, private)
        own: Mapping[Family, Lease] = {}
        if bases:
            try:
                found = await self._subnets.own(offer)
                missing = {**found.missing, **missing, **self._unfitting(found.leases, bases)}
                own = {family: lease for family, lease in found.leases.items() if family not in missing}
            except NotYet as error:
                missing = {**dict.fromkeys(bases, str(error)), **missing}
        standing = Standing(bases, own, missing, private)
        if standing != self.now:
            self._tell(standing)
            self.now = standing
            self.known |= standing.own
            self._changed()
        if missing:
            raise NotYet("; ".join(dict.fromkeys(missing.values())))

    def _abandon(self, ip: Conversation) -> None:
        """Connections to the registry from an address that has gone would be waited for in vain."""
        found = {one.interface.ip for family in Family for one in links.all_addresses(ip, family)}
        if self._addresses - found:
            for words in sockets.abandon(found):
                log.info("a connection has lost its address, and is made anew: %s", words)
        self._addresses = found

    async def _choice(self) -> Choice:
        config = self._config
        asked = self._subnets.asked()
        flags = {Family.V4: config.public_v4, Family.V6: config.public_v6}
        public = tuple(one for family in Family if (one := asked.get(family) or flags[family]))
        named = bool(config.iface or config.iface_regex)
        if not self._registry and not named and config.reach is None:
            # Asked once: a name server that is away must not keep a route from being mended.
            self._registry = await underlay.addresses_of(self._subnets.peers)
        pods = tuple(span for family in self._net.families if (span := self._net.pods(family)) is not None)
        return Choice(
            config.iface,
            config.iface_regex,
            public,
            config.reach,
            self._registry,
            service=config.kube and not config.kubeconfig and not config.kube_api_url,
            hints=tuple(self._subnets.hints()),
            pods=pods,
        )

    def _last(self, ip: Conversation) -> dict[Family, Address]:
        """The addresses that were taken last; at a start those that the devices come from that are there."""
        found = {family: base.address for family, base in self._bases.items()}
        for tunnel in self._tunnels:
            link = links.link(ip, tunnel.name) if tunnel.name and found.keys().isdisjoint(tunnel.families) else None
            local = links.vxlan(link.data).local if link is not None and link.kind == "vxlan" else None
            if local is not None:
                found[Family(local.version)] = local
        return found

    def _offer(
        self, ip: Conversation, bases: Mapping[Family, Underlay], public: tuple[Address, ...], private: str
    ) -> Offer:
        named = {Family(one.version): one for one in public}
        addresses = {family: named.get(family, base.address) for family, base in bases.items()}
        return Offer(self._net.kind, addresses, {family: self._data(ip, family, private) for family in bases})

    def _data(self, ip: Conversation, family: Family, private: str) -> Data:
        """The MAC of a device that is there already stays: peers that know it need not be told."""
        match self._net.backend:
            case VxlanSettings(vni=vni):
                name = next(one.name for one in self._tunnels if family in one.families)
                there = links.link(ip, name)
                mac = there.mac if there is not None and there.kind == "vxlan" else self._fresh[family]
                return Vtep(vni, mac)
            case _:
                return PublicKey(kernel_wireguard.public_key(private)) if private else None

    def _unfitting(self, leases: Mapping[Family, Lease], bases: Mapping[Family, Underlay]) -> dict[Family, str]:
        """host-gw's peers send to the public IP as to a neighbour: no address translation can be between."""
        if self._net.kind is not Backend.HOST_GW:
            return {}
        words = (
            "host-gw: the public IP {} is not the address {} of {}, so peers cannot send to it directly; remove it, or use "
            "the backend vxlan"
        )
        return {
            family: words.format(lease.public_ip, base.address, base.name)
            for family, lease in leases.items()
            if (base := bases.get(family)) is not None and lease.public_ip != base.address
        }

    def _follow(self, bases: Mapping[Family, Underlay]) -> None:
        """An underlay that changes under us is somebody else's doing, and told as such."""
        for family in self._net.families:
            before, base = self._bases.get(family), bases.get(family)
            if base is None:
                if before is not None:
                    self._away.add(family)
                continue
            if before is not None and (before != base or family in self._away):
                self._series.drift.labels("underlay").inc()
                words = f"{base.name}: address {base.address}, MTU {base.mtu}, index {base.index}"
                was = (
                    "it was away"
                    if before == base
                    else f"it was {before.name}: {before.address}, {before.mtu}, {before.index}"
                )
                log.warning("drift repaired: underlay of IPv%d is %s (%s)", family, words, was)
            self._away.discard(family)
            self._bases[family] = base
            if base != before:
                self._compare_mtu(base)

    def _compare_mtu(self, base: Underlay) -> None:
        match self._net.backend:
            case VxlanSettings(mtu=int(asked)) if asked > base.mtu:
                words = "Backend.MTU is %d, and %s carries %d: that counts; raise the interface's MTU, or leave Backend.MTU out"
                log.warning(words, asked, base.name, base.mtu)

    def _tell(self, standing: Standing) -> None:
        for family, lease in standing.own.items():
            before = self.known.get(family)
            if before == lease:
                continue
            base = standing.bases[family]
            log.info(
                "this node is %s: subnet %s, public IP %s, over %s (%s, MTU %d)",
                *(lease.node, lease.subnet, lease.public_ip, base.name, base.address, base.mtu),
            )
            if before is not None and before.subnet != lease.subnet:
                log.warning(
                    "this node's subnet was %s and is %s now: pods get addresses of it from their next start on, and "
                    "those that run are reached no more",
                    *(before.subnet, lease.subnet),
                )


def random_mac() -> str:
    """A locally administered unicast address."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first | 0x02) & 0xFE, *rest))
