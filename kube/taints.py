"""Taints and tolerations: who may stay where.

k8s.io/api/core/v1, Toleration.ToleratesTaint: an empty effect tolerates every effect, an empty key with operator Exists
every key; otherwise key, effect and (operator Equal) value are the taint's.
"""

from collections.abc import Iterable

from kube.core import Taint
from kube.pods import Toleration


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator in ("", "Equal") and bool(toleration.key) and toleration.value == taint.value


def tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    return any(tolerates(t, taint) for t in tolerations)
