"""The VXLAN checksum fault, probed for and put right.

The kernel leaves the checksum inside a tunnel's packet to the network card where the card says that it can compute it. Some
cannot (virtual ones above all; flannel's issue 1279): pings between pods work, TCP hangs for a minute. Nobody else notices,
because the kernel computes ICMP's checksums itself. That is also the probe:

    an ICMP echo to a peer's VXLAN device is answered       the tunnel is there
    a datagram to a closed port of it is answered           its checksum was right: all is well
    it is not, but is once the device computes checksums    the fault: it goes on computing them
    it is not even then                                     a firewall keeps silent: nothing is known, and nothing changed

A receiver checks a datagram's checksum before it says that the port is closed, and nothing has to listen there, so any peer will
do, stock flannel's too. Computing them costs some throughput and works everywhere (`ethtool -K flannel.1 tx off` is what people
do by hand).

A device is probed once, when it has its first peer, by a few packets and beside everything else. Made anew after a fault,
it computes checksums from the first packet on. One that does at our start does so by an earlier start's finding (or a probe
that was cut short), or by somebody's wish: it stays so, since switching it on to ask would break what it may have mended.
"""

import asyncio
import enum
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Protocol

from linux import echo, ethtool
from linux.iptables.rules import Family
from overlay.model import Address

_PEERS = 3
"""So many peers are asked before a device is given up as silent."""
_FIRST, _MOST = 5.0, 300.0
"""Seconds between two rounds when no peer answers at all."""

log = logging.getLogger(__name__)


class Finding(enum.Enum):
    WELL = "well"
    FAULTY = "faulty"
    SILENT = "silent"
    UNREACHABLE = "unreachable"


class Path(Protocol):
    """The way to a peer through a device, and the device's switch."""

    async def echoed(self, peer: Address, device: str) -> bool: ...

    async def refused(self, peer: Address, device: str) -> bool: ...

    def offloads(self, device: str) -> bool: ...

    def offload(self, device: str, on: bool) -> None: ...


class KernelPath:
    """In the network namespace of this process. All raise OSError."""

    async def echoed(self, peer: Address, device: str) -> bool:
        return await echo.echoed(peer, device)

    async def refused(self, peer: Address, device: str) -> bool:
        return await echo.refused(peer, device)

    def offloads(self, device: str) -> bool:
        return ethtool.tx_checksum(device)

    def offload(self, device: str, on: bool) -> None:
        ethtool.set_tx_checksum(device, on)


@dataclass(slots=True)
class _Tunnel:
    """A device as it was last noted. `open`: it is still to be probed; `faulty`: the last probe found it so."""

    name: str
    index: int
    peers: tuple[Address, ...] = ()
    open: bool = True
    faulty: bool = False
    tried: set[Address] = field(default_factory=set)
    pause: float = _FIRST
    due: float | None = 0.0  # None: when there are other peers

    @property
    def waits(self) -> bool:
        return self.open and bool(self.peers)


class Checksums:
    """`report(family, disabled)` is told whether a device computes its checksums: because of the fault, or since an earlier
    start or somebody has switched its offload off."""

    def __init__(
        self,
        report: Callable[[Family, bool], None],
        path: Path | None = None,
        *,
        random: Random | None = None,
    ) -> None:
        self._report = report
        self._path = path or KernelPath()
        self._random = random or SystemRandom()
        self._tunnels: dict[Family, _Tunnel] = {}
        self._wake = asyncio.Event()

    def note(self, family: Family, device: str, index: int, peers: Sequence[Address]) -> list[str]:
        """What there is now: the VXLAN device, and the addresses of its peers' devices that are reached through it. Told at
        every pass; awaits nothing. In words, what somebody else had changed and is put right."""
        known = self._tunnels.get(family)
        if known is None or (known.name, known.index) != (device, index):
            known = self._made(family, device, index, known)
        before, known.peers = known.peers, tuple(peers)
        if known.open and known.peers and set(known.peers) - set(before):
            known.due, known.pause = 0.0, _FIRST
            self._wake.set()
        return self._mended(known)

    def forget(self, family: Family) -> None:
        """There is no such device any more."""
        if self._tunnels.pop(family, None) is not None:
            self._report(family, False)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = min((one.due for one in self._tunnels.values() if one.waits and one.due is not None), default=None)
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            for family, tunnel in list(self._tunnels.items()):
                if tunnel.waits and tunnel.due is not None and tunnel.due <= loop.time():
                    await self._examine(family, tunnel)

    def _made(self, family: Family, device: str, index: int, before: _Tunnel | None) -> _Tunnel:
        """A device that was not there before: new, or from an earlier start."""
        tunnel = self._tunnels[family] = _Tunnel(device, index)
        try:
            if before is not None and before.faulty:
                self._path.offload(device, False)
                tunnel.open, tunnel.faulty = False, True
                log.info("%s, made anew, computes checksums itself: its network card does not", device)
            elif not self._path.offloads(device):
                tunnel.open = False
                log.info("%s computes checksums itself already (ethtool -K %s tx on ends that)", device, device)
            self._report(family, not tunnel.open)
        except OSError as error:
            tunnel.open = False
            log.info("%s is not probed for wrong checksums: %s", device, error.strerror)
        return tunnel

    def _mended(self, tunnel: _Tunnel) -> list[str]:
        try:
            if not tunnel.faulty or not self._path.offloads(tunnel.name):
                return []
            self._path.offload(tunnel.name, False)
        except OSError as error:
            log.debug("checksum offload of %s: %s", tunnel.name, error)
            return []
        return [f"switch transmit checksum offload of {tunnel.name} off"]

    async def _examine(self, family: Family, tunnel: _Tunnel) -> None:
        peers = [peer for peer in tunnel.peers if peer not in tunnel.tried]
        finding = Finding.UNREACHABLE
        for peer in self._random.sample(peers, min(_PEERS, len(peers))):
            try:
                finding = await self._probe(tunnel.name, peer)
            except OSError as error:  # the device is being made anew, or a firewall of our own forbids it
                log.debug("probing %s through %s: %s", peer, tunnel.name, error)
                continue
            if self._tunnels.get(family) is not tunnel:
                return  # it is another device by now
            if finding in (Finding.WELL, Finding.FAULTY):
                break
            if finding is Finding.SILENT:
                tunnel.tried.add(peer)
        self._conclude(family, tunnel, finding)

    async def _probe(self, device: str, peer: Address) -> Finding:
        if not await self._path.echoed(peer, device):
            return Finding.UNREACHABLE
        if await self._path.refused(peer, device):
            return Finding.WELL
        self._path.offload(device, False)
        keep = False
        try:
            keep = await self._path.refused(peer, device)
        finally:
            if not keep:
                self._path.offload(device, True)
        return Finding.FAULTY if keep else Finding.SILENT

    def _conclude(self, family: Family, tunnel: _Tunnel, finding: Finding) -> None:
        match finding:
            case Finding.WELL:
                tunnel.open = False
                log.info("%s: what is sent arrives whole", tunnel.name)
            case Finding.FAULTY:
                tunnel.open, tunnel.faulty = False, True
                self._report(family, True)
                log.warning(
                    "the network card below %s sends packets inside the tunnel with wrong checksums: %s computes them"
                    " itself from now on (transmit checksum offload is off)",
                    tunnel.name,
                    tunnel.name,
                )
            case Finding.SILENT if len(tunnel.tried) >= min(_PEERS, len(tunnel.peers)):
                tunnel.open = len(tunnel.tried) < _PEERS  # a peer that comes later may say more
                tunnel.due = None
                log.info(
                    "%s: peers answer pings, but not datagrams to closed ports, with checksum offload or without: most"
                    " likely firewalls; whether checksums arrive right is not known",
                    tunnel.name,
                )
            case Finding.SILENT | Finding.UNREACHABLE:
                tunnel.due = asyncio.get_running_loop().time() + tunnel.pause
                tunnel.pause = min(2 * tunnel.pause, _MOST)


def state(device: str) -> str:
    """What a device does about checksums, in words for people; empty where it leaves them to the card, as usual."""
    try:
        return "" if ethtool.tx_checksum(device) else "computes checksums itself (transmit checksum offload is off)"
    except OSError:
        return ""
