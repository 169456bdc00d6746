"""This node as a router of its pods, in one family: the kernel's forwarding, and the rules of masquerading and forwarding."""

import logging
from collections.abc import Callable, Collection
from ipaddress import ip_network
from types import TracebackType
from typing import Self

from linux.iptables.rules import Family
from overlay import sysctls, wish
from overlay.config import Config
from overlay.masquerade import Masquerade, Rules
from overlay.model import NotYet, Range
from overlay.netconf import Network
from overlay.series import Series
from overlay.situation import Situation

log = logging.getLogger(__name__)


def rules_of(config: Config, pods: Range, subnet: Range) -> Rules:
    """What the configuration asks of masquerading and forwarding; `subnet`: this node's part of `pods`."""
    return Rules(
        Family(pods.version),
        (pods,),
        subnet,
        masquerade=config.ip_masq,
        forward=config.iptables_forward_rules,
        random_fully=not config.ip_masq_fully_random_disable,
    )


class Router:
    """A context; `devices` are our tunnels' in this family; `touched` is called when somebody else has changed rules of ours."""

    def __init__(
        self,
        family: Family,
        config: Config,
        net: Network,
        devices: Collection[str],
        situation: Situation,
        series: Series,
        touched: Callable[[], None],
    ) -> None:
        self.family, self.pods = family, net.pods(family)
        self._config, self._situation, self._series = config, situation, series
        self._masquerade = Masquerade(family, nftables=net.nftables, touched=touched)
        self._devices, self._direct = devices, wish.asks_direct(net)
        self._settled = False

    async def __aenter__(self) -> Self:
        await self._masquerade.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._masquerade.__aexit__(kind, error, trace)

    async def settings(self) -> bool:
        """Whether anything was written. Raises NotYet, OSError."""
        base = self._situation.now.bases.get(self.family)
        if base is None:
            raise NotYet(self._situation.now.missing[self.family])
        entries = [*self._devices, base.name] if self._direct else self._devices
        done = sysctls.ensure([self.family], [base.name], entries=entries)
        for words in done:
            if self._settled:
                log.warning("drift repaired: set %s", words)
                self._series.drift.labels("sysctl").inc()
            else:
                log.info("set %s", words)
        # A device that comes after the first look brings what conf.default says, and nobody has changed that.
        self._settled = self._settled or sysctls.all_there(self.family, entries)
        return bool(done)

    async def rules(self) -> None:
        """Raises NotYet, Retry."""
        own = self._situation.known.get(self.family)
        if self.pods is None:  # of a family that is switched off nothing shall be left from an earlier start
            rules = Rules(self.family, (), ip_network(self.family.loopback), masquerade=False, forward=False)
        elif own is None:
            raise NotYet(f"the node's IPv{int(self.family)} subnet is not known yet")
        else:
            rules = rules_of(self._config, self.pods, own.subnet)
        done = await self._masquerade.sync(rules)
        for words in done.repaired:
            log.warning("drift repaired: %s", words)
            self._series.drift.labels("rules").inc()
        for words in done.written:
            log.info("rules: %s", words)
