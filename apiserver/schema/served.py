"""What this server serves: a row for each resource, with its subresources. A kind is added here and nowhere else.

The table knows every stable kind of Kubernetes; discovery and OpenAPI offer exactly these rows.
"""

from typing import Final

SERVED: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("", "v1", "bindings", ()),
    ("", "v1", "configmaps", ()),
    ("", "v1", "endpoints", ()),
    ("", "v1", "events", ()),
    ("", "v1", "namespaces", ("finalize", "status")),
    ("", "v1", "nodes", ("status",)),
    ("", "v1", "pods", ("attach", "binding", "eviction", "exec", "log", "status")),
    ("", "v1", "secrets", ()),
    ("", "v1", "serviceaccounts", ("token",)),
    ("", "v1", "services", ("status",)),
    ("apps", "v1", "deployments", ("scale", "status")),
    ("apps", "v1", "replicasets", ("scale", "status")),
    ("coordination.k8s.io", "v1", "leases", ()),
    ("discovery.k8s.io", "v1", "endpointslices", ()),
    ("events.k8s.io", "v1", "events", ()),
)
