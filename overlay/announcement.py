"""What others are told, once it is so: CNI plugins by subnet.env, the supervisor by READY, the other nodes by the registry.

In this order: pods may be added as soon as the devices are up, whether or not the registry answers.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kube.errors import Retry
from linux.iptables.rules import Family
from overlay import subnetenv
from overlay.config import Config
from overlay.model import Lease
from overlay.netconf import Network
from overlay.series import Series
from overlay.subnets import Subnets
from overlay.upkeep import Done

log = logging.getLogger(__name__)


class Announcement:
    """`ready` is called once; `written_to` with the directory that subnet.env lies in, each time it has been looked at."""

    def __init__(
        self,
        config: Config,
        subnets: Subnets,
        series: Series,
        ready: Callable[[], None],
        written_to: Callable[[Path], None],
    ) -> None:
        self._config, self._subnets, self._series = config, subnets, series
        self._ready: Callable[[], None] | None = ready
        self._written_to = written_to
        self._written = ""

    async def make(self, net: Network, done: Sequence[Done]) -> float | None:
        """`done`: what the tunnels have come to. The seconds after which the claim must be renewed, None: it need not. Raises
        Retry, ApiError."""
        own = {family: lease for one in done for family, lease in one.own.items()}
        self._write(net, own, min(one.wish.mtu for one in done))
        if self._ready is not None:
            self._ready()
            self._ready = None
        said = await self._subnets.announce(own)
        for line in said.said:
            log.info("announced in the registry: %s", line)
        for line in said.mended:
            log.warning("drift repaired: %s", line)
            self._series.drift.labels("lease").inc()
        self._series.announced.set(said.since or 0.0)
        self._series.expiry.set(said.until or 0.0)
        return said.again

    def _write(self, net: Network, own: Mapping[Family, Lease], mtu: int) -> None:
        path = Path(self._config.subnet_file)
        networks = {family: pods for family in own if (pods := net.pods(family)) is not None}
        subnets = {family: lease.subnet for family, lease in own.items()}
        text = subnetenv.render(networks, subnets, mtu, masquerade=self._config.ip_masq)
        try:
            if subnetenv.differs(path, text):
                subnetenv.write(path, text)
                if text == self._written:
                    log.warning("drift repaired: wrote %s, which somebody had changed or removed", path)
                    self._series.drift.labels("subnetenv").inc()
                else:
                    log.info("wrote %s", path)
        except OSError as error:
            raise Retry(f"cannot write {path}: {error.strerror}; --subnet-file names another place") from error
        self._written = text
        self._written_to(path.parent)
