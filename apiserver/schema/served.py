"""What this server serves: every stable resource of the table but those of `LEFT_OUT`, in upstream's order.

Which of their subresources, and of the kinds that can only be created, really answer is known where the handlers are
(`http.subresources`); discovery and OpenAPI show what `offered` leaves of these rows, and of those in `beside`.
"""

from collections.abc import Container, Iterable, Iterator
from typing import Final

import msgspec

from apiserver.schema.beside import BESIDE
from apiserver.schema.model import ResourceInfo

Address = tuple[str, str, str]  # group, version, plural

# Upstream lists its groups in this order (pkg/controlplane/instance.go, by group priority); the core group comes first.
_GROUPS: Final = (
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
)
LEFT_OUT: Final[frozenset[Address]] = frozenset(
    {
        ("apiregistration.k8s.io", "v1", "apiservices"),  # nothing is aggregated
    }
)


def stored(one: ResourceInfo) -> bool:
    """False for reviews, which are only created, and componentstatuses, which are only read."""
    return "get" in one.verbs and "create" in one.verbs


def in_order(resources: Iterable[ResourceInfo]) -> list[ResourceInfo]:
    """The served ones; within a group the newest version first, as clients prefer it."""
    kept = [one for one in resources if one.group in _GROUPS and (one.group, one.version, one.plural) not in LEFT_OUT]
    kept.sort(key=lambda one: (_GROUPS.index(one.group), -int(one.version.removeprefix("v"))))
    return kept


def offered(
    resources: Iterable[ResourceInfo],
    subresources: Container[tuple[str, str]],
    creations: Container[Address],
    extensions: Container[tuple[str, str]] = (),
) -> Iterator[ResourceInfo]:
    """Those that somebody answers, with the subresources that somebody answers: (plural, subresource) for those, and
    (group, version) for what is beside. `status` is the object itself, so whoever serves that answers it."""
    for one in resources:
        if stored(one) or (one.group, one.version, one.plural) in creations:
            yield msgspec.structs.replace(
                one,
                subresources=tuple(
                    sub for sub in one.subresources if sub.name == "status" or (one.plural, sub.name) in subresources
                ),
            )
    yield from (one for one in BESIDE if (one.group, one.version) in extensions)
