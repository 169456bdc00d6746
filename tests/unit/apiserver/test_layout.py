"""Keys lie where Kubernetes puts them, and a key says whose it is."""

import itertools

import pytest

from apiserver import layout, schema
from apiserver.conversion import PAIRS


@pytest.mark.parametrize(
    ("group", "plural", "namespace", "name", "key"),
    [
        ("", "pods", "default", "web", "/registry/pods/default/web"),
        ("", "nodes", "", "n1", "/registry/minions/n1"),
        ("", "namespaces", "", "default", "/registry/namespaces/default"),
        ("", "services", "default", "web", "/registry/services/specs/default/web"),
        ("", "endpoints", "default", "web", "/registry/services/endpoints/default/web"),
        ("", "replicationcontrollers", "default", "web", "/registry/controllers/default/web"),
        ("apps", "deployments", "default", "web", "/registry/deployments/default/web"),
        ("networking.k8s.io", "ingresses", "default", "web", "/registry/ingress/default/web"),
        ("coordination.k8s.io", "leases", "kube-node-lease", "n1", "/registry/leases/kube-node-lease/n1"),
        ("rbac.authorization.k8s.io", "clusterroles", "", "system:node", "/registry/clusterroles/system:node"),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "",
            "a.b.c",
            "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c",
        ),
    ],
)
def test_keys(group: str, plural: str, namespace: str, name: str, key: str) -> None:
    assert layout.key(group, plural, namespace, name) == key
    assert layout.split(key) == (layout.prefix(group, plural), namespace, name)


def test_every_stored_resource_has_a_place_of_its_own() -> None:
    stored = {(one.group, one.plural) for one in schema.served() if (one.group, one.version, one.plural) not in PAIRS}
    prefixes = sorted(layout.prefix(*address) for address in stored)
    assert len(prefixes) == len(stored)
    assert not [(one, other) for one, other in itertools.pairwise(prefixes) if other.startswith(one)]
    for prefix in prefixes:
        assert layout.split(f"{prefix}ns/name") == (prefix, "ns", "name")
        assert layout.split(f"{prefix}name") == (prefix, "", "name")


@pytest.mark.parametrize("key", ["compact_rev_key", "/registry/", "/registry/pods", "/registry/pods/", "/other/pods/a/b",
                                 "/registry/pods/a/b/c", "/registry/services/specs", "/registry/pods/a/"])  # fmt: skip
def test_other_keys_are_no_objects(key: str) -> None:
    assert layout.split(key) is None


def test_the_first_layout_moves_without_collision() -> None:
    moved = layout.moved()
    assert moved["/registry/core/pods/"] == "/registry/pods/"
    assert moved["/registry/discovery.k8s.io/endpointslices/"] == "/registry/endpointslices/"
    assert len(set(moved.values())) == len(moved)
