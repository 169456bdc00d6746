"""coordination.k8s.io/v1."""

from datetime import datetime

from kube.meta import Object, Typed


class LeaseSpec(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


class Lease(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    spec: LeaseSpec = LeaseSpec()
