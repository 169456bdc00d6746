"""What a placement is decided on: pods and nodes, reduced to what filters and scores look at.

Amounts are integers by resource name: `cpu` in thousandths of a core, everything else in whole units (bytes, counts),
rounded up, as upstream's Resource is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kube.core import Taint
from kube.pods import NodeSelector, Toleration

Amounts = Mapping[str, int]

CPU = "cpu"
MEMORY = "memory"
PODS = "pods"


def plus(left: Amounts, right: Amounts) -> Amounts:
    return {**left, **{name: left.get(name, 0) + amount for name, amount in right.items()}}


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node's own that a container asks for; `ip` 0.0.0.0 stands for all of the node's addresses."""

    protocol: str
    ip: str
    port: int

    def conflicts(self, other: "HostPort") -> bool:
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        return self.ip == other.ip or "0.0.0.0" in (self.ip, other.ip)


@dataclass(frozen=True, slots=True)
class PodView:
    """`group` names the pods that should be spread: those of one controller, or of the same Services; "" is none.
    `scored` is `requests` with upstream's assumption for containers that ask for nothing (100m, 200Mi)."""

    namespace: str
    name: str
    uid: str
    requests: Amounts
    scored: Amounts
    group: str = ""
    node_name: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: NodeSelector | None = None
    tolerations: tuple[Toleration, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node and what its pods take of it; `groups` counts the pods of each group that are here to stay."""

    name: str
    labels: Mapping[str, str]
    allocatable: Amounts
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    requested: Amounts = field(default_factory=dict)
    scored: Amounts = field(default_factory=dict)
    pods: int = 0
    host_ports: tuple[HostPort, ...] = ()
    groups: Mapping[str, int] = field(default_factory=dict)

    def with_pod(self, pod: PodView, *, staying: bool = True) -> "NodeView":
        """This node with `pod` on it; a pod that is terminating takes its resources but is not `staying`."""
        groups = plus(self.groups, {pod.group: 1}) if staying and pod.group else self.groups
        return replace(
            self,
            requested=plus(self.requested, pod.requests),
            scored=plus(self.scored, pod.scored),
            pods=self.pods + 1,
            host_ports=self.host_ports + pod.host_ports,
            groups=groups,
        )


@dataclass(frozen=True, slots=True)
class Bind:
    """Give the pod this node."""

    pod: PodView
    node: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """No node will do now; `message` says why, in upstream's words."""

    pod: PodView
    message: str


Decision = Bind | Refuse
