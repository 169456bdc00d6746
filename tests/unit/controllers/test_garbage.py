from typing import Any

import msgspec
import pytest

from controllers.plan import namespaces
from controllers.plan.garbage import (
    Collect,
    Forget,
    Item,
    Keep,
    State,
    Verdict,
    blocks,
    state_of,
    verdict,
    without_finalizer,
)
from kube.core import Namespace
from kube.meta import ObjectMeta, Typed
from kube.resources import CONFIGMAPS, DEPLOYMENTS, PODS
from tests.unit.controllers.objects import NOW, ago, decode

SOLID, ABSENT, WAITING = State.SOLID, State.ABSENT, State.WAITING


def item(*owners: str, deleting: bool = False, finalizers: tuple[str, ...] = (), block: bool = True) -> Item:
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid, "blockOwnerDeletion": block}
        for uid in owners
    ]
    meta: dict[str, Any] = {
        "name": "x",
        "namespace": "default",
        "uid": "x",
        "resourceVersion": "5",
        "ownerReferences": references,
    }
    if deleting:
        meta["deletionTimestamp"] = ago(1)
    return Item(CONFIGMAPS, msgspec.convert({**meta, "finalizers": list(finalizers)}, ObjectMeta))


@pytest.mark.parametrize(
    ("found", "owners", "dependents", "wanted"),
    [
        (item(), {}, False, Keep),
        (item("a"), {"a": SOLID}, False, Keep),
        (item("a"), {"a": ABSENT}, False, "Background"),
        (item("a", "b"), {"a": ABSENT, "b": ABSENT}, True, "Background"),
        (item("a", "b"), {"a": ABSENT, "b": SOLID}, False, Forget),
        (item("a", "b"), {"a": WAITING, "b": SOLID}, False, Forget),
        (item("a"), {"a": WAITING}, False, "Background"),
        (item("a"), {"a": WAITING}, True, "Foreground"),
        (item("a", finalizers=("orphan",)), {"a": ABSENT}, False, "Orphan"),
        (item("a", finalizers=("foregroundDeletion",)), {"a": ABSENT}, False, "Foreground"),
        (item("a", deleting=True), {"a": ABSENT}, False, Keep),
    ],
)
def test_verdict(found: Item, owners: dict[str, State], dependents: bool, wanted: type[Verdict] | str) -> None:
    given = verdict(found, owners, has_dependents=dependents)
    if isinstance(wanted, str):
        assert given == Collect(wanted)  # type: ignore[arg-type]
    else:
        assert isinstance(given, wanted)


def test_references_to_what_is_gone_are_dropped_at_the_version_that_was_judged() -> None:
    given = verdict(item("a", "b"), {"a": ABSENT, "b": SOLID}, has_dependents=False)
    assert isinstance(given, Forget)
    meta = given.amend.body["metadata"]
    assert (meta["uid"], meta["resourceVersion"]) == ("x", "5")
    assert [r["uid"] for r in meta["ownerReferences"]] == ["b"]


def test_owners_that_wait() -> None:
    waiting = item(deleting=True, finalizers=("foregroundDeletion", "mine"))
    assert state_of(waiting) is WAITING
    assert without_finalizer(waiting, "foregroundDeletion").body["metadata"]["finalizers"] == ["mine"]
    assert blocks("a", item("a"))
    assert not blocks("a", item("a", block=False))
    assert not blocks("a", item("b"))


def held(name: str, *finalizers: str, deleting: bool = False) -> Typed:
    meta: dict[str, Any] = {"name": name, "finalizers": list(finalizers)}
    return decode(Typed, {"metadata": meta | ({"deletionTimestamp": ago(1)} if deleting else {})})  # type: ignore[no-any-return]


def test_pods_go_before_everything_else() -> None:
    content = {CONFIGMAPS: (held("c"),), PODS: (held("p"), held("q", deleting=True)), DEPLOYMENTS: ()}
    assert [o.metadata.name for _, o in namespaces.to_delete(content)] == ["p"]
    content[PODS] = (held("q", deleting=True),)
    assert namespaces.to_delete(content) == []
    content[PODS] = ()
    assert [o.metadata.name for _, o in namespaces.to_delete(content)] == ["c"]


def test_a_namespace_says_what_it_waits_for_once() -> None:
    namespace = decode(Namespace, {"metadata": {"name": "team", "uid": "u"}})
    content = {CONFIGMAPS: (held("c", "example.com/hold"),), DEPLOYMENTS: (held("d"), held("e"))}
    conditions = namespaces.conditions(content, ["pods x: no"], NOW)
    words = {c.type: c.message for c in conditions if c.status == "True"}
    assert words == {
        "NamespaceDeletionContentFailure": "pods x: no",
        "NamespaceContentRemaining": "Some resources are remaining: "
        "configmaps. has 1 resource instances, deployments.apps has 2 resource instances",
        "NamespaceFinalizersRemaining": "Some content in the namespace has finalizers remaining: "
        "example.com/hold in 1 resource instances",
    }
    patch = namespaces.report(namespace, conditions)
    assert patch is not None
    told = decode(Namespace, {"metadata": {"name": "team"}, "status": patch.body["status"]})
    assert namespaces.report(told, conditions) is None
