"""Whom a critical pod sends away when the node has no room for it: pure.

Candidates are pods of lower standing: others when the newcomer is critical and they are not, or those of lower priority.
As few and as cheap as possible are taken: Guaranteed pods only as far as all Burstable and BestEffort ones together would
not do, then Burstable ones likewise. Within a class the pod whose requests come nearest to what is missing goes first.
(pkg/kubelet/preemption/preemption.go)
"""

from collections.abc import Iterable, Mapping, Sequence

from kube.pods import Pod
from kubelet.admission.fit import Shortage, counted
from kubelet.resources import BEST_EFFORT, BURSTABLE, GUARANTEED, is_critical, qos_class

REASON = "Preempting"
MESSAGE = "Preempted in order to admit critical pod"

Missing = Mapping[str, int]


def victims(pod: Pod, others: Iterable[Pod], shortages: Sequence[Shortage]) -> tuple[Pod, ...]:
    """Empty when the pod is not critical, or when not even everybody's leaving would make room."""
    if not is_critical(pod) or not shortages:
        return ()
    below = [other for other in others if _yields(pod, other)]
    by_class = {qos: [p for p in below if qos_class(p) == qos] for qos in (BEST_EFFORT, BURSTABLE, GUARANTEED)}
    missing = {shortage.resource: shortage.missing for shortage in shortages}
    if _less(missing, below):
        return ()
    cheap, middle, dear = (by_class[qos] for qos in (BEST_EFFORT, BURSTABLE, GUARANTEED))
    from_dear = _nearest(dear, _less(missing, [*cheap, *middle]))
    from_middle = _nearest(middle, _less(missing, [*cheap, *from_dear]))
    from_cheap = _nearest(cheap, _less(missing, [*from_middle, *from_dear]))
    return (*from_cheap, *from_middle, *from_dear)


def _yields(pod: Pod, other: Pod) -> bool:
    if is_critical(pod) and not is_critical(other):
        return True
    mine, theirs = pod.spec.priority, other.spec.priority
    return mine is not None and theirs is not None and mine > theirs


def _less(missing: Missing, gone: Iterable[Pod]) -> dict[str, int]:
    """What is still missing once those are gone."""
    left = dict(missing)
    for pod in gone:
        given = counted(pod)
        left = {name: amount - given.get(name, 0) for name, amount in left.items()}
    return {name: amount for name, amount in left.items() if amount > 0}


def _nearest(pods: Sequence[Pod], missing: Missing) -> list[Pod]:
    """As many as it takes, the nearest to what is still missing first; of equals the smallest."""
    left, taken, rest = dict(missing), [], list(pods)
    while left and rest:
        best = min(rest, key=lambda pod: (_distance(pod, left), _size(pod)))
        rest.remove(best)
        taken.append(best)
        left = _less(left, [best])
    return taken


def _distance(pod: Pod, missing: Missing) -> float:
    given = counted(pod)
    parts = (max(0, amount - given.get(name, 0)) / amount for name, amount in missing.items())
    return sum(float(part * part) for part in parts)


def _size(pod: Pod) -> tuple[int, int]:
    given = counted(pod)
    return given.get("memory", 0), given.get("cpu", 0)
