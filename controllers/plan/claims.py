"""Whose is this object? A controller's selector and the objects' owner references, brought into agreement.

An object with our uid as its controller is ours while the selector matches, else it is released; an orphan that matches is
adopted; what somebody else controls is theirs. Nothing is adopted by an owner that is being deleted
(kubernetes/pkg/controller/controller_ref_manager.go).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from controllers.model import Amend, AnyResource
from controllers.plan.pods import owner_reference
from kube.meta import Typed
from kube.selectors import Selector

T = TypeVar("T", bound=Typed)


@dataclass(frozen=True, slots=True)
class Claims(Generic[T]):
    """`owned` are ours, `adopted` would be, `released` no longer are."""

    owned: tuple[T, ...]
    adopted: tuple[T, ...]
    released: tuple[T, ...]


def claims(owner: Typed, selector: Selector, objects: Iterable[T]) -> Claims[T]:
    owned: list[T] = []
    adopted: list[T] = []
    released: list[T] = []
    deleting = owner.metadata.deletion_timestamp is not None
    for obj in objects:
        reference = obj.metadata.controller
        matches = selector.matches(obj.metadata.labels)
        if reference is not None:
            if reference.uid != owner.metadata.uid:
                continue
            if matches or deleting:
                owned.append(obj)
            else:
                released.append(obj)
        elif matches and not deleting and obj.metadata.deletion_timestamp is None:
            adopted.append(obj)
    return Claims(tuple(owned), tuple(adopted), tuple(released))


def adopt(resource: AnyResource, obj: Typed, owner: Typed, owner_resource: AnyResource) -> Amend:
    reference = owner_reference(owner.metadata, owner_resource.api_version, owner_resource.kind)
    body = {"metadata": {"uid": obj.metadata.uid, "ownerReferences": [reference]}}
    return Amend(resource, obj.metadata.namespace, obj.metadata.name, body, kind="strategic")


def release(resource: AnyResource, obj: Typed, owner: Typed) -> Amend:
    gone = {"$patch": "delete", "uid": owner.metadata.uid}
    body = {"metadata": {"uid": obj.metadata.uid, "ownerReferences": [gone]}}
    return Amend(resource, obj.metadata.namespace, obj.metadata.name, body, kind="strategic")
