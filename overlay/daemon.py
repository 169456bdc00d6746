"""Wiring: the Node informer and the kernel's announcements wake three loops.

    device   leases + kernel -> plan -> kernel, then subnet.env, then READY
    lease    what the device turned out to be -> annotations and NetworkUnavailable=False on our Node
    rules    --ip-masq: the FLANNEL chains

They are three so that an API server that refuses a patch, or an iptables lock that is held, cannot keep a deleted route from
coming back. Nothing is done before the first list of Nodes is in; when the API server goes away later, the copy of
the Nodes stays, and so does the network. SIGTERM and kill -9 leave everything in place: the next start reads it back.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from prometheus_client import CollectorRegistry

from kube import meta, reconcile, serving, settings
from kube.client import Client, Connection, Patch
from kube.core import Node
from kube.errors import ApiError, Retry, UsageError
from kube.informer import Change, Informer
from kube.resources import NODES
from linux import sysctl
from linux.capabilities import Capability, effective
from linux.iptables import backend
from linux.iptables.changes import Wanted as WantedRules
from linux.iptables.restore import Iptables, Refused
from linux.iptables.rules import Family
from linux.netlink import Monitor, Netlink, Notice, open_netlink
from linux.process import CommandFailed
from overlay import annotations, drift, masquerade, observe, plan, subnetenv, underlay, wish
from overlay.apply import apply, forget
from overlay.config import Config, Network, annotation_prefix, network
from overlay.model import ROUTE_PROTOCOL, Action, CreateDevice, Wanted
from overlay.series import Series
from overlay.wish import Identity, NotYet, Underlay, Wish

_BACKOFF = reconcile.Backoff(first=0.2, most=5.0)
_PAUSE = 0.1
"""Seconds between passes: what comes within them is one pass' work."""
_WAIT = 5.0
"""Seconds after which what was missing is looked for again, should nothing have announced it."""
_SELDOM = 3600.0
_LOOPS = ("device", "lease", "rules")

log = logging.getLogger(__name__)


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Runs until cancelled; with --cleanup removes everything of ours and returns."""
    if not effective(Capability.NET_ADMIN):
        raise UsageError("links and routes need CAP_NET_ADMIN: run as root (sudo)")
    if config.cleanup:
        try:
            removed = await forget(Path(config.subnet_file))
        except (Retry, OSError) as error:
            raise UsageError(f"--cleanup: {error}; run it again once that is mended") from error
        for line in removed or ["there was nothing to remove"]:
            log.info("%s", line)
        return
    registry = CollectorRegistry()
    host, port = serving.split_address(config.healthz_bind_address, "--healthz-bind-address")
    connection = Connection.from_kubeconfig(config.kubeconfig)
    async with Client(connection, user_agent="wherry-overlay") as client:
        node = Overlay(config, network(config.net_config_path), client, ready, Series(registry))
        routes = {
            "/healthz": serving.health({}),
            "/readyz": serving.health({loop: partial(node.trouble, loop) for loop in _LOOPS}),
            "/metrics": serving.metrics(registry),
            "/configz": serving.json(lambda: settings.render(config)),
        }
        async with serving.serve(host, port, routes, flag="--healthz-bind-address"):
            await node.run()


class Overlay:
    """One node's overlay. `run` owns all its tasks."""

    def __init__(self, config: Config, net: Network, client: Client, ready: Callable[[], None], series: Series) -> None:
        self._config = config
        self._net = net
        self._client = client
        self._ready: Callable[[], None] | None = ready
        self._series = series
        self._who = Identity(
            node=config.hostname_override,
            prefix=annotation_prefix(config.kube_annotation_prefix),
            public_ip=IPv4Address(config.public_ip) if config.public_ip else None,
            fresh_mac=_random_mac(),
        )
        self._reach = IPv4Address(config.iface_can_reach) if config.iface_can_reach else None
        self._nodes: Informer[Node] = Informer(client, NODES)
        self._wakes = {loop: reconcile.Wake() for loop in _LOOPS}
        self._troubles: dict[str, str | None] = dict.fromkeys(_LOOPS, "not yet done")
        self._wish: Wish | None = None
        self._done: Wanted | None = None
        self._server: IPv4Address | None = None
        self._underlay = self._device = 0
        self._rules: Iptables | None = None
        self._rules_done: WantedRules | None = None

    def trouble(self, loop: str) -> str | None:
        """Why the loop's last pass failed; None when it did not."""
        return self._troubles[loop]

    async def run(self) -> None:
        self._nodes.subscribe(self._node_changed)
        async with Monitor(self._kernel_changed), asyncio.TaskGroup() as group:
            group.create_task(self._nodes.run(), name="nodes")
            log.info("waiting for the Nodes from %s", self._client.server)
            await self._nodes.synced.wait()
            self._loop(group, "device", self._sync_device, self._config.resync)
            self._loop(group, "lease", self._sync_lease, self._config.resync)
            self._loop(
                group, "rules", self._sync_rules, self._config.iptables_resync if self._config.ip_masq else _SELDOM
            )

    def _loop(self, group: asyncio.TaskGroup, name: str, sync: Callable[[], Awaitable[None]], resync: float) -> None:
        """Run a loop and keep what troubles it, for /readyz."""

        async def attempt() -> float | None:
            try:
                await sync()
            except NotYet as error:
                if self._troubles[name] != str(error):
                    log.warning("%s: waiting: %s", name, error)
                self._troubles[name] = str(error)
                return _WAIT
            except (Retry, ApiError, OSError) as error:
                self._troubles[name] = str(error)
                self._series.failures.labels(name).inc()
                raise
            self._troubles[name] = None
            return None

        passes = reconcile.forever(
            attempt, self._wakes[name], resync=resync, min_interval=_PAUSE, backoff=_BACKOFF, name=name
        )
        group.create_task(passes, name=name)

    def _node_changed(self, change: Change[Node]) -> None:
        if wish.claim(change.old, self._who.prefix) != wish.claim(change.new, self._who.prefix):
            self._wakes["device"].set()
        if change.key == self._who.node:
            self._wakes["lease"].set()

    def _kernel_changed(self, notice: Notice | None) -> None:
        if notice is None or self._concerns(notice):
            self._wakes["device"].set()

    def _concerns(self, notice: Notice) -> bool:
        if notice.kind == "neighbour":  # the underlay's own come and go all the time
            return notice.device == self._device
        if notice.device in (self._device, self._underlay) or notice.protocol == ROUTE_PROTOCOL:
            return True
        # While the underlay is not known any link, address or route may be the one that was missing.
        return notice.name == self._net.device or not self._underlay

    async def _sync_device(self) -> None:
        with self._series.duration.time():
            async with open_netlink() as ip:
                base = await self._find_underlay(ip)
                seen = await observe.kernel(ip, self._net.device)
                self._device = seen.device.index if seen.device else 0
                found = wish.wish(self._who, self._net, self._nodes.items(), base, seen)
                self._adopt(found)
                steps = list(plan.actions(found.wanted, seen))
                await apply(ip, self._net.device, steps)
            self._report(steps)
            sysctl.ensure("net.ipv4.ip_forward", "1")
            self._write_subnet_file(found)
        self._done = found.wanted
        self._series.last_sync.set_to_current_time()
        self._wakes["lease"].set()
        if steps and any(isinstance(step, CreateDevice) for step in steps):
            self._wakes[
                "device"
            ].set()  # look once more, now that its index is known: what was announced meanwhile is lost
        if self._ready is not None:
            self._ready()
            self._ready = None

    async def _find_underlay(self, ip: Netlink) -> Underlay:
        self._underlay = 0
        if self._server is None:  # asked once: a name server that is away must not keep a route from being mended
            self._server = await underlay.address_of(self._client.server)
        base = await underlay.find(ip, interface=self._config.iface, reach=self._reach, server=self._server)
        self._underlay = base.index
        return base

    def _adopt(self, found: Wish) -> None:
        """Make a wish ours, and say what is new in it that people should know."""
        before = self._wish
        for node, words in found.refused.items():
            if before is None or before.refused.get(node) != words:
                log.error("%s", words)
        if before is None or before.wanted.device != found.wanted.device or before.own != found.own:
            device = found.wanted.device
            log.info(
                "subnet %s on %s: MAC %s, MTU %d, public IP %s",
                found.own.subnet,
                device.name,
                device.mac,
                device.mtu,
                found.own.public_ip,
            )
        if before is None or before.own != found.own:
            self._wakes["rules"].set()
        self._wish = found
        self._series.peers.set(len(found.wanted.peers))
        self._series.refused.set(len(found.refused))

    def _report(self, steps: Sequence[Action]) -> None:
        mended = set(drift.mended(steps, self._done))
        for step in mended:
            self._series.drift.labels(drift.object_of(step)).inc()
        for line in drift.summary([step for step in steps if step in mended]):
            log.warning("drift repaired: %s", line)
        for line in drift.summary([step for step in steps if step not in mended]):
            log.info("%s", line)

    def _write_subnet_file(self, found: Wish) -> None:
        path = Path(self._config.subnet_file)
        text = subnetenv.render(
            self._net.pods, found.own.subnet, found.wanted.device.mtu, masquerade=self._config.ip_masq
        )
        try:
            if subnetenv.write(path, text):
                log.info("wrote %s", path)
        except OSError as error:
            raise Retry(f"cannot write {path}: {error.strerror}; --subnet-file names another place") from error

    async def _sync_lease(self) -> None:
        """Say on our Node what the device is, once it is."""
        node, found = self._nodes.get(self._who.node), self._wish
        if node is None or found is None or self._done is None:
            raise NotYet("the device is not up yet")
        body = annotations.patch_for(node, self._who.prefix, found.own, self._net.vni, meta.now())
        if body is not None:
            await self._client.patch(NODES, self._who.node, body, kind=Patch.STRATEGIC, subresource="status")
            log.info("announced on Node %s: %s and public IP %s", self._who.node, found.own.mac, found.own.public_ip)

    async def _sync_rules(self) -> None:
        if self._config.ip_masq and self._wish is None:
            raise NotYet("the node's subnet is not known yet")
        try:
            if self._rules is None:
                self._rules = Iptables(await backend.detect(Family.V4))
            await self._write_rules(self._rules)
        except backend.Unusable as error:
            if self._config.ip_masq:
                raise Retry(f"--ip-masq: {error}") from error
        except (Refused, CommandFailed) as error:
            raise Retry(f"masquerade rules: {error}") from error

    async def _write_rules(self, rules: Iptables) -> None:
        if self._wish is None or not self._config.ip_masq:
            if await masquerade.remove(rules, stamped_only=True):
                log.info("removed the masquerade rules of an earlier start with --ip-masq")
            return
        wanted = masquerade.wanted(self._net.pods, self._wish.own.subnet, random_fully=rules.backend.random_fully)
        written = await masquerade.sync(rules, wanted)
        if written and wanted == self._rules_done:
            self._series.drift.labels("rules").inc(len(written))
            log.warning("drift repaired: wrote %s", ", ".join(written))
        elif written:
            log.info("wrote %s", ", ".join(written))
        self._rules_done = wanted


def _random_mac() -> str:
    """A locally administered unicast address."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first | 0x02) & 0xFE, *rest))
