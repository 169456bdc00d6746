"""What a ResourceQuota's namespace uses, counted anew: `status.hard` as the spec says, `status.used` for each of it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

from controllers.model import Amend
from kube import quota
from kube.policy import ResourceQuota
from kube.resources import RESOURCEQUOTAS

Objects = Mapping[str, Iterable[Mapping[str, Any]]]


def used(spec: Mapping[str, Any], objects: Objects, now: datetime) -> quota.Amounts:
    """`objects` by kind (`pods`, `deployments.apps`): all of the namespace."""
    hard = spec.get("hard") or {}
    found = {name: Fraction(0) for name in hard}
    for kind, several in objects.items():
        names = quota.matching(kind, hard)
        for obj in several:
            if quota.in_scope(spec, kind, obj):
                of_one = quota.usage(kind, obj, now)
                for name in names & of_one.keys():
                    found[name] += of_one[name]
    return found


def report(limited: ResourceQuota, objects: Objects, now: datetime) -> Amend | None:
    """The status patch; None when it says so already. Refused when the quota was charged since it was read."""
    hard = {name: str(amount) for name, amount in (limited.spec.get("hard") or {}).items()}
    amounts = used(limited.spec, objects, now)
    before = limited.status
    if before.get("hard", {}) == hard and quota.amounts(before.get("used")) == amounts:
        return None
    gone = {
        field: dict.fromkeys(name for name in before.get(field) or {} if name not in hard) for field in ("hard", "used")
    }
    meta = limited.metadata
    body = {
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {"hard": gone["hard"] | hard, "used": gone["used"] | quota.written(amounts)},
    }
    return Amend(RESOURCEQUOTAS, meta.namespace, meta.name, body, subresource="status")
