"""The node IPAM loop: one pass over all nodes, because ranges must not overlap; woken by nodes that come and go."""

from collections.abc import Sequence

from controllers import apply
from controllers.observe import World
from controllers.plan import podcidrs as plan
from kube.core import Node
from kube.errors import ApiError, ApiUnreachable, Conflict
from kube.events import Recorder
from kube.informer import Change
from kube.reconcile import Wake, forever
from kube.resources import NODES


class PodCIDRs:
    """The only writer of podCIDR while it leads. What it has written counts as taken before the informer shows it."""

    def __init__(self, world: World, recorder: Recorder, pools: Sequence[plan.Pool]) -> None:
        self._world = world
        self._recorder = recorder
        self._pools = pools
        self._given: dict[str, Sequence[plan.Network]] = {}
        self._unsure = False
        self._wake = Wake()
        world.nodes.subscribe(self._node_changed)

    async def run(self) -> None:
        await forever(self.sync, self._wake, resync=300.0, name="podcidr")

    def _node_changed(self, change: Change[Node]) -> None:
        if change.new is None or not change.new.spec.pod_cidr:
            self._wake.set()

    async def sync(self) -> None:
        nodes: Sequence[Node] = self._world.nodes.items()
        if self._unsure:  # a write may have happened unseen: only the server knows what is taken
            nodes = (await self._world.client.list(NODES)).items
            self._given.clear()
            self._unsure = False
        unseen = {n.metadata.uid for n in nodes if not n.spec.pod_cidr}
        self._given = {uid: ranges for uid, ranges in self._given.items() if uid in unseen}
        lost: Conflict | None = None
        for node, ranges in plan.assignments(nodes, self._pools, self._given):
            if ranges is None:
                await apply.carry_out([plan.exhausted(node)], self._world.client, self._recorder)
                continue
            try:
                await apply.amend(plan.assign(node, ranges), self._world.client)
            except Conflict as error:
                lost = error  # its kubelet was faster; the informer shows the node anew in a moment
            except (ApiError, ApiUnreachable):
                self._unsure = True
                raise
            else:
                self._given[node.metadata.uid] = ranges
        if lost:
            raise lost
