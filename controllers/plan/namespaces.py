"""The end of a namespace: its content first, then the finalizer `kubernetes`, with conditions that say what it waits for.

Pods go first, and while there are any nothing else does: what they mount and who may speak for them stays until they have
ended (KEP-5080). Upstream: kubernetes/pkg/controller/namespace/deletion.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from controllers.model import Amend, AnyResource
from controllers.plan.conditions import wire
from kube.core import Namespace
from kube.meta import Condition, Typed, to_wire
from kube.resources import NAMESPACES

FINALIZER = "kubernetes"

Content = Mapping[AnyResource, Sequence[Typed]]


def is_terminating(namespace: Namespace) -> bool:
    return namespace.metadata.deletion_timestamp is not None and FINALIZER in namespace.spec.finalizers


def to_delete(content: Content) -> list[tuple[AnyResource, Typed]]:
    """What to delete now: pods alone while there are any."""
    stages = [r for r in content if (r.group, r.plural) == ("", "pods") and content[r]] or list(content)
    return [(r, obj) for r in stages for obj in content[r] if obj.metadata.deletion_timestamp is None]


def conditions(content: Content, failures: Sequence[str], now: datetime) -> tuple[Condition, ...]:
    """Upstream's five, in its words; a condition that never was true is not shown as false."""
    counts = {f"{r.plural}.{r.group}": len(objects) for r, objects in content.items() if objects}
    remain = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(counts.items()))
    finalizers = Counter(f for objects in content.values() for o in objects for f in o.metadata.finalizers)
    waiting = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    table = (
        ("NamespaceDeletionContentFailure", "ContentDeletionFailed", "; ".join(sorted(failures)),
         "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ("NamespaceContentRemaining", "SomeResourcesRemain", remain and f"Some resources are remaining: {remain}",
         "ContentRemoved", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", "SomeFinalizersRemain",
         waiting and f"Some content in the namespace has finalizers remaining: {waiting}",
         "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    )  # fmt: skip
    return (
        *_all_well("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered", now),
        *_all_well("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions",
                   "All legacy kube types successfully parsed", now),
        *(
            Condition(
                type=kind,
                status="True" if trouble else "False",
                reason=reason if trouble else fine,
                message=trouble or words,
                last_transition_time=now,
            )
            for kind, reason, trouble, fine, words in table
        ),
    )  # fmt: skip


def _all_well(kind: str, reason: str, message: str, now: datetime) -> tuple[Condition, ...]:
    return (Condition(type=kind, status="False", reason=reason, message=message, last_transition_time=now),)


def report(namespace: Namespace, wanted: Sequence[Condition]) -> Amend | None:
    """The status patch; None when it says so already. A condition whose status stays keeps its time."""
    known = {c.type: c for c in namespace.status.conditions}
    changed = [
        c
        for c in wanted
        if c.type not in known
        or (known[c.type].status, known[c.type].reason, known[c.type].message) != (c.status, c.reason, c.message)
    ]
    if not changed:
        return None
    written = []
    for condition in changed:
        before = known.get(condition.type)
        (body,) = wire([condition])
        if before and before.status == condition.status and before.last_transition_time:
            body["lastTransitionTime"] = to_wire(before.last_transition_time)
        written.append(body)
    patch = {"metadata": {"uid": namespace.metadata.uid}, "status": {"conditions": written}}
    return Amend(NAMESPACES, "", namespace.metadata.name, patch, kind="strategic", subresource="status")
