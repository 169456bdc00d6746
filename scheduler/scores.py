"""Scores: of the nodes on which a pod may run, which suits it best? Each function gives every node 0 to 100.

The weights are upstream's defaults. Resource scores look at what is requested, not at what is used: that is what the
filters count with as well. Spreading looks at where the pods of the same controller (or Services) are, per node, as
upstream's default PodTopologySpread constraint on the hostname does.
"""

from collections.abc import Callable, Sequence

from scheduler.model import CPU, MEMORY, NodeView, PodView

Score = Callable[[PodView, Sequence[NodeView]], list[float]]

BEST = 100.0


def _fraction(pod: PodView, node: NodeView, resource: str) -> float:
    """How much of the resource is requested once the pod is there, 0 to 1."""
    allocatable = node.allocatable.get(resource, 0)
    wanted = node.scored.get(resource, 0) + pod.scored.get(resource, 0)
    return min(1.0, wanted / allocatable) if allocatable > 0 else 1.0


def least_allocated(pod: PodView, nodes: Sequence[NodeView]) -> list[float]:
    return [BEST * (2 - _fraction(pod, n, CPU) - _fraction(pod, n, MEMORY)) / 2 for n in nodes]


def balanced_allocation(pod: PodView, nodes: Sequence[NodeView]) -> list[float]:
    """The standard deviation of two fractions is half of their distance."""
    return [BEST * (1 - abs(_fraction(pod, n, CPU) - _fraction(pod, n, MEMORY)) / 2) for n in nodes]


def spread(pod: PodView, nodes: Sequence[NodeView]) -> list[float]:
    counts = [n.groups.get(pod.group, 0) if pod.group else 0 for n in nodes]
    most, least = max(counts), min(counts)
    return [BEST * (most + least - count) / most if most else BEST for count in counts]


WEIGHTS: tuple[tuple[Score, float], ...] = ((least_allocated, 1.0), (balanced_allocation, 1.0), (spread, 2.0))


def best(pod: PodView, nodes: Sequence[NodeView]) -> NodeView:
    """The node with the highest weighted sum; of equals the one with the fewest pods, then the first by name, so that the
    same question always has the same answer."""
    totals = [0.0] * len(nodes)
    for score, weight in WEIGHTS:
        for index, value in enumerate(score(pod, nodes)):
            totals[index] += weight * value
    return min(zip(totals, nodes, strict=True), key=lambda pair: (-pair[0], pair[1].pods, pair[1].name))[1]
