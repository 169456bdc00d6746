"""What others are told, once it is so: CNI plugins by subnet.env, the supervisor by READY, the other nodes by the registry.

In this order: pods may be added as soon as the devices are up, whether or not the registry answers.

A pod has for life what subnet.env says when it is made. So the first one waits a little for a family that is late (IPv6's
addresses come after IPv4's at a boot), and a restart while a family is away leaves that family's lines as they are: what an
earlier start built for it is still in the kernel.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kube.errors import Retry
from linux.iptables.rules import Family
from overlay import subnetenv
from overlay.config import Config
from overlay.model import Lease, NotYet, Range
from overlay.netconf import Network
from overlay.series import Series, label
from overlay.situation import Standing
from overlay.spans import Spans
from overlay.subnets import Subnets
from overlay.upkeep import Done

_PATIENCE = 4.5
"""Seconds that a family may be late at the first start."""

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
        self._begun = 0.0

    async def make(self, net: Network, done: Sequence[Done], standing: Standing) -> float | None:
        """`done`: what the tunnels have come to. The seconds after which the claim must be renewed, None: it need not. Raises
        NotYet, Retry, ApiError."""
        own = {family: lease for one in done for family, lease in one.own.items()}
        earlier = self._written or subnetenv.text_of(Path(self._config.subnet_file))
        kept = kept_from(earlier, net, own, standing, self._subnets.claims().leases)
        late = [family for family in net.families if family not in {**own, **kept} and may_come(family, standing)]
        if late and self._is_patient():
            raise NotYet(f"waiting some seconds for {' and '.join(map(label, late))}")
        subnets = {**{family: lease.subnet for family, lease in own.items()}, **kept}
        mtus = [*(one.wish.mtu for one in done), *([subnetenv.mtu(earlier)] if kept else [])]
        self._write(net, subnets, min(filter(None, mtus)))
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

    def _is_patient(self) -> bool:
        now = time.monotonic()
        self._begun = self._begun or now
        return self._ready is not None and now - self._begun < _PATIENCE

    def _write(self, net: Network, subnets: Mapping[Family, Range], mtu: int) -> None:
        path = Path(self._config.subnet_file)
        networks = {family: pods for family in subnets if (pods := net.pods(family)) is not None}
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


def may_come(family: Family, standing: Standing) -> bool:
    """Whether a family that is not there may be in a moment: its underlay is away, or its device not up yet."""
    return family not in standing.bases or family in standing.own


def kept_from(
    earlier: str, net: Network, own: Mapping[Family, Lease], standing: Standing, others: Sequence[Lease]
) -> dict[Family, Range]:
    """Of an earlier subnet.env the subnets of enabled families that are not in `own` because they are away, and that are ours
    still as far as anybody says."""
    found: dict[Family, Range] = {}
    for family, subnet in subnetenv.subnets(earlier).items():
        pods = net.pods(family)
        if family in own or pods is None or not Spans([(pods, True)]).holding(subnet) or not may_come(family, standing):
            continue
        lease = standing.own.get(family)
        taken = any(one.family is family and one.subnet.overlaps(subnet) for one in others)
        if (lease is None and not taken) or (lease is not None and lease.subnet == subnet):
            found[family] = subnet
    return found
