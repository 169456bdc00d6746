"""The node's door: admission with what is known of this node right now.

Until the API has told the own Node once, only static pods and pods that are in already are looked at: labels that others put
on the Node decide about the rest. Where there is no API, or it does not say, what the node would register with stands in.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from kube.core import Node
from kube.informer import Informer
from kube.pods import Pod
from kubelet.admission import preemption
from kubelet.admission.fit import Ground, Rejection, objection
from kubelet.nodestatus.machine import Pressure
from kubelet.plan import is_static


def has_apparmor() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        return False


log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that pods wait for the own Node to be known


class Gate:
    def __init__(self, own: Ground, nodes: Informer[Node], pressure: Callable[[], Pressure]) -> None:
        """`own` is what the node knows of itself, `nodes` holds its object, or nothing."""
        self._own = own
        self._nodes = nodes
        self._pressure = pressure
        self._patience: float | None = None

    def ready(self, pod: Pod) -> bool:
        """Whether there is enough known to decide; who is asked for long enough says yes."""
        if is_static(pod) or self._nodes.synced.is_set():
            return True
        if self._patience is None:
            self._patience = time.monotonic() + PATIENCE
        if time.monotonic() < self._patience:
            return False
        log.warning("the API does not tell of node %s: pods are held against what it registered with", self._own.name)
        return True

    def ground(self) -> Ground:
        now = self._pressure()
        conditions = (("MemoryPressure", now.memory), ("DiskPressure", now.disk), ("PIDPressure", now.pids))
        ground = replace(self._own, pressure=tuple(name for name, there in conditions if there))
        node = next((node for node in self._nodes.items() if node.metadata.name == ground.name), None)
        if node is None:
            return ground
        return replace(
            ground,
            labels=node.metadata.labels,
            taints=node.spec.taints,
            allocatable=node.status.allocatable or ground.allocatable,
        )

    def objection(self, pod: Pod, others: Iterable[Pod]) -> Rejection | None:
        return objection(pod, others, self.ground())

    def victims(self, pod: Pod, others: Iterable[Pod], rejection: Rejection) -> tuple[Pod, ...]:
        return preemption.victims(pod, others, rejection.shortages)
