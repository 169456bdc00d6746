"""The node lifecycle loop: a key is one node; its Lease, its status and the end of its grace wake it.

Silence is measured here, by this process's clock, from the last time that the node's Lease or heartbeat was *seen* to
change; so clocks need not agree, and a restarted controller gives everyone a fresh grace. Before a node is declared silent
its Lease is read from the server once more: while the API itself does not answer, no node could have renewed anything, and
once it answers again everyone gets a fresh grace.
"""

import time
from typing import Any

from controllers import apply
from controllers.observe import World
from controllers.plan import nodes as plan
from kube.coordination import Lease
from kube.core import Node
from kube.errors import ApiUnreachable, NotFound
from kube.events import Recorder
from kube.informer import Change
from kube.labels import NODE_LEASE_NAMESPACE
from kube.meta import now
from kube.reconcile import Backoff, Keys, by_key
from kube.resources import LEASES


class Nodes:
    """`grace` and `startup_grace` in seconds: --node-monitor-grace-period, --node-startup-grace-period."""

    def __init__(self, world: World, recorder: Recorder, grace: float, startup_grace: float) -> None:
        self._world = world
        self._recorder = recorder
        self._grace = grace
        self._startup_grace = startup_grace
        self._heard: dict[str, tuple[Any, float]] = {}
        self._blind = False
        self.keys: Keys[str] = Keys()
        world.nodes.subscribe(self._node_changed)
        world.leases.subscribe(self._lease_changed)

    async def run(self) -> None:
        await by_key(self.sync, self.keys, workers=2, backoff=Backoff(first=0.1, most=1.0), name="node")

    def _node_changed(self, change: Change[Node]) -> None:
        self.keys.add(change.key)
        if change.new is None:
            self._heard.pop(change.key, None)
        statuses = [plan.ready_status(n) if n else None for n in (change.old, change.new)]
        if statuses[0] != statuses[1]:  # whether anybody is ready concerns all
            for node in self._world.nodes.items():
                self.keys.add(node.metadata.name)

    def _lease_changed(self, change: Change[Lease]) -> None:
        namespace, _, name = change.key.partition("/")
        if namespace == NODE_LEASE_NAMESPACE and self._world.nodes.get(name):
            self.keys.add(name)

    async def sync(self, name: str) -> float | None:
        node = self._world.nodes.get(name)
        if node is None:
            return None
        left = self._left(node)
        if left <= 0 and plan.ready_status(node) != "Unknown":
            left = await self._asked(node)
        client, moment = self._world.client, now()
        if left <= 0:
            await apply.carry_out(plan.silent(node, moment), client, self._recorder)
        if plan.ready_status(node) == "Unknown":
            pods = self._world.pods_by_node.get(name)
            await apply.carry_out(plan.unready_pods(pods, moment), client, self._recorder)
        evict = plan.may_evict(self._world.nodes.items())
        await apply.carry_out(plan.retaint(node, moment, evict=evict), client, self._recorder)
        return left if left > 0 else None

    def _left(self, node: Node) -> float:
        """Seconds of grace that the node has left."""
        if not plan.has_reported(node):
            return plan.startup_left(node, self._startup_grace, now())
        name = node.metadata.name
        sign = _sign(node, self._world.node_lease(name))
        known = self._heard.get(name)
        if known is None or known[0] != sign:
            known = (sign, time.monotonic())
            self._heard[name] = known
        return known[1] + self._grace - time.monotonic()

    async def _asked(self, node: Node) -> float:
        """The same with the Lease as the server has it now. Raises ApiUnreachable."""
        name = node.metadata.name
        try:
            lease: Lease | None = await self._world.client.get(LEASES, name, NODE_LEASE_NAMESPACE)
        except NotFound:
            lease = None
        except ApiUnreachable:
            self._blind = True
            raise
        if self._blind:
            self._blind = False
            self._heard.clear()
            for other in self._world.nodes.items():
                self.keys.add(other.metadata.name)
        elif _sign(node, lease) == self._heard.get(name, (None, 0.0))[0] or not plan.has_reported(node):
            return 0.0
        self._heard[name] = (_sign(node, lease), time.monotonic())
        return self._grace


def _sign(node: Node, lease: Lease | None) -> tuple[object, object]:
    """What changes while a kubelet lives."""
    ready = next((c.last_heartbeat_time for c in node.status.conditions if c.type == "Ready"), None)
    return (lease.spec.renew_time if lease else None), ready
