"""What the API server tells this node's proxy: informers that feed the trackers of all families and wake their passes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from kube import core, labels
from kube.client import Client
from kube.errors import ApiError, ApiUnreachable, Forbidden, NotFound, Retry
from kube.informer import Change, Informer
from kube.resources import NODES
from proxy import objects
from proxy.config import Config
from proxy.health import node_is_eligible
from proxy.metrics import Metrics
from proxy.observe import SERVICES_FIELDS, SERVICES_SELECTOR, SLICES_SELECTOR, Tracker
from proxy.policy import pod_cidrs

_AGAIN = 1.0
_SLICE_PATIENCE = 0.02
"""Seconds that a new Service waits for its EndpointSlice, which its controller writes just after: a pass that refuses and
one that serves take twice as long as one that serves. The slice does not wait."""
_NODE_PATIENCE = 5.0
"""Seconds that the first rules wait for the Node; what of them depends on it follows when it comes."""

log = logging.getLogger(__name__)


class Informed:
    """`queued` is called for everything that may change rules, with the seconds that may pass before they do."""

    def __init__(
        self,
        client: Client,
        config: Config,
        node: str,
        trackers: Sequence[Tracker],
        metrics: Metrics,
        queued: Callable[[float], None],
    ) -> None:
        self._services = Informer(
            client, objects.SERVICES, label_selector=SERVICES_SELECTOR, field_selector=SERVICES_FIELDS
        )
        self._slices = Informer(client, objects.ENDPOINTSLICES, label_selector=SLICES_SELECTOR)
        self._nodes = Informer(client, NODES, field_selector=f"metadata.name={node}")
        self._ranges: Informer[objects.ServiceCIDR] | None = None
        if config.mode == "nftables":  # iptables mode has no rules about them
            self._ranges = Informer(client, objects.SERVICE_CIDRS)
            self._ranges.subscribe(lambda _change: queued(0.0))
        self._ranges_known = asyncio.Event()
        if self._ranges is None:
            self._ranges_known.set()
        self._client = client
        self._name = node
        self._by_node_cidr = config.detect_local_mode == "NodeCIDR"
        self._trackers = trackers
        self._metrics = metrics
        self._queued = queued
        self._pods_from: tuple[str, ...] = ()
        self._has_range = asyncio.Event()
        self._services.subscribe(self._service_changed)
        self._slices.subscribe(self._slice_changed)
        self._nodes.subscribe(self._node_changed)

    def start(self, group: asyncio.TaskGroup) -> None:
        for informer in (self._services, self._slices, self._nodes):
            group.create_task(informer.run())
        if self._ranges is not None:
            group.create_task(self._follow_ranges(self._ranges))

    async def synced(self) -> None:
        """Both kinds of which rules are made are here, and the Node if it can be had."""
        await self._services.synced.wait()
        await self._slices.synced.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NODE_PATIENCE):
                await self._nodes.synced.wait()
                await self._ranges_known.wait()
        if self._by_node_cidr and not self._has_range.is_set():
            log.info("detectLocalMode NodeCIDR: waiting until Node %s has a podCIDR", self._name)
            await self._has_range.wait()

    async def _follow_ranges(self, ranges: Informer[objects.ServiceCIDR]) -> None:
        """A server may not have the kind, or not show it to us: then it is not asked again."""
        while not self._ranges_known.is_set():
            try:
                await self._client.list(objects.SERVICE_CIDRS)
            except (NotFound, Forbidden) as error:
                log.info(
                    "addresses without a Service are not refused, the API server tells of no ServiceCIDRs: %s", error
                )
                self._ranges_known.set()
                return
            except (ApiError, ApiUnreachable):
                await asyncio.sleep(_AGAIN)
            else:
                break
        async with asyncio.TaskGroup() as group:
            group.create_task(ranges.run())
            await ranges.synced.wait()
            self._ranges_known.set()

    def service_cidrs(self) -> list[str]:
        """What cluster IPs are allocated from; empty where that is not known."""
        found = self._ranges.items() if self._ranges is not None else []
        return sorted(cidr for each in found for cidr in each.spec.cidrs or ())

    def node(self) -> core.Node | None:
        return self._nodes.get(self._name)

    def service(self, key: str) -> objects.Service | None:
        return self._services.get(key)

    def eligible(self) -> bool:
        """An unknown node is ineligible only once the server has answered."""
        return not self._nodes.synced.is_set() or node_is_eligible(self.node())

    def _service_changed(self, change: Change[objects.Service]) -> None:
        for tracker in self._trackers:
            tracker.service_changed(change)
        self._metrics.changes.service()
        self._queued(_SLICE_PATIENCE if change.old is None and self._services.synced.is_set() else 0.0)

    def _slice_changed(self, change: Change[objects.EndpointSlice]) -> None:
        for tracker in self._trackers:
            tracker.slice_changed(change)
        self._metrics.changes.endpoint()
        self._queued(0.0)

    def _node_changed(self, change: Change[core.Node]) -> None:
        if self._by_node_cidr:
            self._see_range(pod_cidrs(change.new))
        if _shape(change.old) == _shape(change.new):
            return  # a heartbeat
        for tracker in self._trackers:
            tracker.node_changed(change.new)
        self._queued(0.0)

    def _see_range(self, found: tuple[str, ...]) -> None:
        """As upstream, a Node that got another range ends the proxy: its pods are about to be others, too."""
        if self._pods_from and found and found != self._pods_from:
            raise Retry(
                f"Node {self._name} has podCIDR {', '.join(found)} now, was {', '.join(self._pods_from)}:"
                " ending, to be started again with it"
            )
        if found:
            self._pods_from = found
            self._has_range.set()


def _shape(node: core.Node | None) -> object:
    """What of a Node shapes rules."""
    if node is None:
        return None
    addresses = tuple((each.type, each.address) for each in node.status.addresses)
    return addresses, pod_cidrs(node), node.metadata.labels.get(labels.ZONE, "")
