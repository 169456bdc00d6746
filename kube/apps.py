"""apps/v1.

A pod template stays the bytes it came as (`msgspec.Raw`): a ReplicaSet made from a Deployment and a Pod made from a
ReplicaSet carry every field, also those that no type here names.
"""

import msgspec

from kube.meta import Condition, LabelSelector, Object, Typed


class RollingUpdateDeployment(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Counts or percentages (`"25%"`)."""

    max_unavailable: int | str | None = None
    max_surge: int | str | None = None


class DeploymentStrategy(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: str = "RollingUpdate"
    rolling_update: RollingUpdateDeployment | None = None


class DeploymentSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    replicas: int | None = None
    selector: LabelSelector | None = None
    template: msgspec.Raw = msgspec.Raw(b"{}")
    strategy: DeploymentStrategy = DeploymentStrategy()
    min_ready_seconds: int = 0
    revision_history_limit: int | None = None
    paused: bool = False
    progress_deadline_seconds: int | None = None


class DeploymentStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    terminating_replicas: int | None = None
    conditions: tuple[Condition, ...] = ()
    collision_count: int | None = None


class Deployment(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSetSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    replicas: int | None = None
    selector: LabelSelector | None = None
    template: msgspec.Raw = msgspec.Raw(b"{}")
    min_ready_seconds: int = 0


class ReplicaSetStatus(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    terminating_replicas: int | None = None
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()


class ReplicaSet(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()
