"""Where each resource lies in the store, as Kubernetes lays it out under `/registry`.

    /registry/pods/NAMESPACE/NAME            most resources: the plural, whatever their group
    /registry/minions/NAME                   cluster scope has no namespace; a few keep a name older than the API's
    /registry/GROUP/customresourcedefinitions/NAME      what kube-aggregator and apiextensions store has its group in front

So people find with `etcdctl get --prefix /registry/pods/default` what they expect, and a stock server reads where we wrote.
Upstream: pkg/kubeapiserver/default_storage_factory_builder.go (SpecialDefaultResourcePrefixes) and
k8s.io/apiserver/pkg/server/storage/storage_factory.go (ResourcePrefix).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ROOT: Final = "/registry/"

_SPECIAL: Final = {
    ("", "endpoints"): "services/endpoints",
    ("", "nodes"): "minions",
    ("", "replicationcontrollers"): "controllers",
    ("", "services"): "services/specs",
    ("networking.k8s.io", "ingresses"): "ingress",
}
_WITH_GROUP: Final = frozenset({"apiextensions.k8s.io", "apiregistration.k8s.io"})

# What a file of the first layout (`/registry/GROUP/PLURAL/`, the core group spelt "core") may hold.
_BEFORE: Final = (
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "events"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("coordination.k8s.io", "leases"),
    ("discovery.k8s.io", "endpointslices"),
)


def prefix(group: str, plural: str) -> str:
    """`/registry/pods/`: everything of one resource is below it, and nothing else is."""
    own = f"{group}/{plural}" if group in _WITH_GROUP else _SPECIAL.get((group, plural), plural)
    return f"{ROOT}{own}/"


def key(group: str, plural: str, namespace: str, name: str) -> str:
    """The object's key; `namespace` is empty for cluster scope."""
    below = prefix(group, plural)
    return f"{below}{namespace}/{name}" if namespace else f"{below}{name}"


def split(stored: str) -> tuple[str, str, str] | None:
    """(prefix, namespace, name) of a key; None for what is no object's key (allocator state, `compact_rev_key`).

    A prefix has one segment or two, and the segments that begin a pair are known: so this needs no list of resources.
    """
    first, _, rest = stored.removeprefix(ROOT).partition("/")
    if not stored.startswith(ROOT) or not rest:
        return None
    head = f"{ROOT}{first}/"
    if first == "services" or "." in first:
        second, _, rest = rest.partition("/")
        head = f"{head}{second}/"
    namespace, slash, name = rest.partition("/")
    if not slash:
        namespace, name = "", namespace
    return (head, namespace, name) if name and "/" not in name else None


def moved() -> Mapping[str, str]:
    """Old prefix -> new prefix, for stores that were written with the first layout."""
    return {f"{ROOT}{group or 'core'}/{plural}/": prefix(group, plural) for group, plural in _BEFORE}
