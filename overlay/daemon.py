"""Wiring: the registry and the kernel's announcements wake a handful of loops.

    node        kernel, registry -> which interface, which subnets are ours       (`situation`)
    device      claims + kernel -> wish -> plan -> kernel, one for each tunnel    (`upkeep`)
    lease       what the tunnels turned out to be -> subnet.env, READY, and our claim in the registry
    rules       --ip-masq, --iptables-forward-rules: masquerading and forwarding      (`masquerade`)
    sysctl      forwarding and the like, one for each family as the rules

They are several so that a registry that refuses a write, or an iptables lock that is held, cannot keep a deleted route from
coming back. Nothing is done before the first list of claims is in; when the registry goes away later, what was known stays,
and so does the network. SIGTERM and kill -9 leave everything in place: the next start reads it back.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from kube import reconcile, serving, settings
from kube.errors import ApiError, Retry, UsageError
from linux.capabilities import Capability, effective
from linux.inotify import Inotify
from linux.iptables.rules import Family
from linux.netlink import Conversation
from linux.route_monitor import Monitor, Notice
from overlay import cleanup, drift, observe, plan, sole, wish
from overlay.announcement import Announcement
from overlay.apply import apply
from overlay.checksum import Checksums
from overlay.config import Config
from overlay.model import NotYet, Tunnel, Wanted
from overlay.netconf import Network
from overlay.registry.opened import opened
from overlay.router import Router
from overlay.series import Series, label
from overlay.situation import Situation
from overlay.subnets import Subnets
from overlay.upkeep import Refusals, Upkeep

_BACKOFF = reconcile.Backoff(first=0.1, most=3.0)
_PAUSE = 0.1
"""Seconds between passes: what comes within them is one pass' work."""
_RULES = {Family.V4: "rules", Family.V6: "rules-v6"}
_SETTINGS = {Family.V4: "sysctl", Family.V6: "sysctl-v6"}
_SELDOM = 3600.0
_UNTRIED = "the devices are not up yet"
_WAIT = 5.0
"""Seconds after which what was missing is looked for again, should nothing have announced it."""

_Sync = Callable[[], Awaitable[float | None]]

log = logging.getLogger(__name__)


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Runs until cancelled; with --cleanup removes everything of ours and returns."""
    if not effective(Capability.NET_ADMIN):
        raise UsageError("links and routes need CAP_NET_ADMIN: run as root (sudo)")
    if config.cleanup:
        sole.refuse()
        await cleanup.run(config)
        return
    registry = CollectorRegistry()
    async with sole.held(), opened(config) as subnets:
        node = Overlay(config, subnets, ready, Series(registry))
        async with _served(config, node, registry):
            await node.run()


class _NetworkChanged(Exception):
    """The registry describes another network than the one that is kept."""


class Overlay:
    """One node's overlay. `run` owns all its tasks."""

    def __init__(self, config: Config, subnets: Subnets, ready: Callable[[], None], series: Series) -> None:
        self._config, self._subnets, self._series = config, subnets, series
        self._announcement = Announcement(config, subnets, series, ready, self._watch)
        self._wakes: dict[str, reconcile.Wake] = {}
        self._troubles: dict[str, str | None] = {"registry": "not yet heard from"}
        self._upkeeps: tuple[Upkeep, ...] = ()
        self._refusals = Refusals(series)
        self._monitor = Monitor(self._kernel_changed)
        self._ports: dict[str, int] = {}
        self._files: Inotify | None = None

    async def ready(self, request: Any) -> Any:
        """/readyz: what is not as it should be, loop by loop."""
        return await serving.health({name: partial(self._troubles.get, name) for name in self._troubles})(request)

    async def run(self) -> None:
        async with self._monitor, asyncio.TaskGroup() as group:
            log.info("waiting for the registry at %s", self._subnets.where)
            group.create_task(self._subnets.run(self._claims_changed), name="registry")
            await self._subnets.synced.wait()
            with Inotify(asyncio.get_running_loop(), lambda: self._wake("lease")) as self._files:
                while True:
                    net = await self._network()
                    for words in net.notes:
                        log.info("net-conf.json: %s", words)
                    try:
                        await self._keep(net)
                    except* _NetworkChanged:
                        log.warning("the network's description has changed: all is set up anew")

    async def _network(self) -> Network:
        while True:
            try:
                net = await self._subnets.network()
            except NotYet as error:
                if self._troubles["registry"] != str(error):
                    log.warning("registry: waiting: %s", error)
                self._troubles["registry"] = str(error)
                await self._wakes.setdefault("node", reconcile.Wake()).wait(timeout=_WAIT)
                continue
            return net

    async def _keep(self, net: Network) -> None:
        """Until cancelled, or the network is another."""
        tunnels = wish.tunnels(net)
        situation = Situation(self._config, self._subnets, net, tunnels, self._series, self._tunnels_wake)
        checksums = Checksums(lambda family, disabled: self._series.checksums.labels(label(family)).set(disabled))
        self._upkeeps = tuple(
            Upkeep(
                tunnel,
                net,
                self._subnets,
                situation,
                self._series,
                self._refusals,
                blackhole=self._config.ip_blackhole_route,
                talking=self._talking,
                checksums=checksums,
            )
            for tunnel in tunnels
        )
        resync = self._config.resync
        loops: dict[str, tuple[_Sync, float]] = {"node": (partial(self._sync_node, situation, net), resync)}
        for upkeep in self._upkeeps:
            loops[upkeep.name] = partial(self._sync_tunnel, upkeep), resync
        loops["lease"] = partial(self._sync_lease, net, situation), resync
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for family, name in _RULES.items():
                devices = [tunnel.name for tunnel in tunnels if tunnel.name and family in tunnel.families]
                touched = partial(self._wake, name)
                router = Router(family, self._config, net, devices, situation, self._series, touched)
                await stack.enter_async_context(router)
                loops[name] = router.rules, self._config.iptables_resync if router.pods else _SELDOM
                if router.pods:
                    loops[_SETTINGS[family]] = partial(self._sync_settings, router), resync
            self._begin(net, loops)
            await _sweep(net, tunnels)
            group.create_task(checksums.run(), name="checksum")
            for name, (each, pause) in loops.items():
                self._loop(group, name, each, pause)

    def _begin(self, net: Network, loops: Iterable[str]) -> None:
        """Nothing is told of an earlier network, and all of this one is still to be done."""
        self._refusals.forget()
        self._troubles = {"registry": None, **dict.fromkeys(loops, "not yet done")}
        series = self._series
        for gauge in (series.info, series.peers, series.entries, series.last_sync):
            gauge.clear()
        registry, rules = "kubernetes" if self._config.kube else "etcd", "nftables" if net.nftables else "iptables"
        series.info.labels(net.kind, registry, rules).set(1)

    def _loop(self, group: asyncio.TaskGroup, name: str, sync: _Sync, resync: float) -> None:
        """Run a loop and keep what troubles it, for /readyz."""

        async def attempt() -> float | None:
            try:
                again = await sync()
            except NotYet as error:
                # What one waits for, another may wait for too; and that one waits for the other needs no words.
                if str(error) not in (*self._troubles.values(), _UNTRIED):
                    log.warning("%s: waiting: %s", name, error)
                self._troubles[name] = str(error)
                return _WAIT
            except (Retry, ApiError, OSError) as error:
                self._troubles[name] = str(error)
                self._series.failures.labels(name).inc()
                raise
            self._troubles[name] = None
            return again

        wake = self._wakes.setdefault(name, reconcile.Wake())
        passes = reconcile.forever(attempt, wake, resync=resync, min_interval=_PAUSE, backoff=_BACKOFF, name=name)
        group.create_task(passes, name=name)

    def _wake(self, *names: str) -> None:
        for name in names:
            self._wakes.setdefault(name, reconcile.Wake()).set()

    def _tunnels_wake(self) -> None:
        self._wake(*(upkeep.name for upkeep in self._upkeeps), "lease", *_RULES.values(), *_SETTINGS.values())

    def _claims_changed(self) -> None:
        self._wake("node")
        self._tunnels_wake()

    def _kernel_changed(self, notice: Notice | None) -> None:
        if notice is None:
            log.warning("ENOBUFS: the kernel announced more than could be read; everything is compared")
            self._series.lost.inc()
            self._wake("node")
            self._tunnels_wake()
            return
        if notice.kind == "setting":
            self._wake(*_SETTINGS.values())
            return
        self._wake(*(upkeep.name for upkeep in self._upkeeps if upkeep.concerns(notice)))
        if notice.kind != "neighbour":
            self._wake("node")

    def _talking(self, name: str, port: int) -> None:
        """What is written over this conversation is ours, and need not be announced to us."""
        self._ports[name] = port
        self._monitor.mine = set(self._ports.values())

    async def _sync_node(self, situation: Situation, net: Network) -> None:
        if await self._subnets.network() != net:
            raise _NetworkChanged
        self._refusals.tell("node", self._subnets.claims().refused)
        await situation.look()

    async def _sync_tunnel(self, upkeep: Upkeep) -> None:
        before = upkeep.tried, upkeep.told
        try:
            if await upkeep.sync():
                self._wake(upkeep.name, *_SETTINGS.values())
        except (Retry, OSError):
            self._wake(*_SETTINGS.values())  # with IPv6 switched off on it a device takes no address
            raise
        finally:
            if before != (upkeep.tried, upkeep.told):
                if self._troubles.get("lease") is None:
                    self._troubles["lease"] = "what has just come is not in subnet.env yet"
                self._wake("lease")

    async def _sync_settings(self, router: Router) -> None:
        if await router.settings():
            self._wake(*(upkeep.name for upkeep in self._upkeeps))

    async def _sync_lease(self, net: Network, situation: Situation) -> float | None:
        done = [upkeep.done for upkeep in self._upkeeps if upkeep.done]
        if not done or not all(upkeep.tried for upkeep in self._upkeeps):
            raise NotYet(_UNTRIED)
        return await self._announcement.make(net, done, situation.now)

    def _watch(self, folder: Path) -> None:
        if self._files is not None:
            self._files.watch(str(folder))


async def _sweep(net: Network, tunnels: Sequence[Tunnel]) -> None:
    """Of a family that is switched off nothing of ours stays on other interfaces."""
    off = tuple(family for family in Family if family not in net.families)
    try:
        with Conversation() as ip:
            rest = Tunnel("", off, frozenset(tunnel.name for tunnel in tunnels))
            steps = list(plan.actions(Wanted(), await observe.kernel(ip, rest, ())))
            await apply(ip, rest, steps)
    except (Retry, OSError) as error:
        log.warning("cannot remove what an earlier start has left: %s", error)
        return
    for words in drift.summary(steps):
        log.info("left from an earlier start: %s", words)


@contextlib.asynccontextmanager
async def _served(config: Config, node: Overlay, registry: CollectorRegistry) -> AsyncIterator[None]:
    """/healthz and /livez say that the process is alive and nothing more, as flannel's does and as whoever restarts it wants;
    /readyz what is not as it should be."""
    if not config.door:
        yield
        return
    host, port = serving.split_address(config.door, "--healthz-bind-address")
    routes = {
        "/healthz": serving.health({}),
        "/livez": serving.health({}),
        "/readyz": node.ready,
        "/metrics": serving.metrics(registry),
        "/configz": serving.json(lambda: settings.render(config)),
    }
    async with serving.serve(host, port, routes, flag="--healthz-bind-address"):
        yield
