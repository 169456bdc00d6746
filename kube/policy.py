"""policy/v1, and the core kind that limits a namespace. A quota's spec and status stay plain JSON: `kube.quota` reads them."""

from datetime import datetime
from typing import Any

from kube.meta import Condition, LabelSelector, Object, Typed


class PodDisruptionBudgetSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Counts or percentages (`"50%"`), one of the two."""

    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    selector: LabelSelector | None = None
    unhealthy_pod_eviction_policy: str = ""


class PodDisruptionBudgetStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`disrupted_pods`: evictions that were granted, by pod, with the moment."""

    observed_generation: int = 0
    disrupted_pods: dict[str, datetime] = {}
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    conditions: tuple[Condition, ...] = ()


class PodDisruptionBudget(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: PodDisruptionBudgetSpec = PodDisruptionBudgetSpec()
    status: PodDisruptionBudgetStatus = PodDisruptionBudgetStatus()


class ResourceQuota(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}
