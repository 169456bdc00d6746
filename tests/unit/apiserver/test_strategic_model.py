"""Strategic merge patch against a model: containers as a dictionary of dictionaries, in which merging is assignment.

The model has no lists, no directives and no order; what those do is turned into assignments and deletions when the patch is
made. Order, which only lists have, is checked on its own.
"""

from __future__ import annotations

import copy
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver import patch
from apiserver.schema import GVK

Obj = dict[str, Any]
POD = GVK("", "v1", "Pod")
SERVICE = GVK("", "v1", "Service")

names = st.sampled_from("abcd")
images = st.sampled_from(["1", "2"])
environments = st.dictionaries(st.sampled_from("XYZ"), images, max_size=3)
containers = st.dictionaries(names, st.fixed_dictionaries({"image": images, "env": environments}), min_size=1)
# None deletes: the field, the variable, the container
changes = st.dictionaries(
    names,
    st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "image": st.none() | images,
            "env": st.dictionaries(st.sampled_from("XYZ"), st.none() | images, min_size=1),
        },
    ),
    max_size=4,
)


def to_pod(model: dict[str, Obj]) -> Obj:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": to_list(model)}}


def to_list(model: dict[str, Obj]) -> list[Obj]:
    return [
        {"name": name, **{key: value for key, value in one.items() if key == "image"}}
        | ({"env": [{"name": key, "value": value} for key, value in one["env"].items()]} if one.get("env") else {})
        for name, one in model.items()
    ]


def to_model(pod: Obj) -> dict[str, Obj]:
    return {
        one["name"]: {key: value for key, value in one.items() if key == "image"}
        | {"env": {each["name"]: each["value"] for each in one.get("env", ())}}
        for one in pod["spec"].get("containers", ())
    }


def to_patch(change: dict[str, Obj | None]) -> Obj:
    elements: list[Obj] = []
    for name, one in change.items():
        if one is None:
            elements.append({"name": name, "$patch": "delete"})
            continue
        element: Obj = {"name": name} | {key: value for key, value in one.items() if key == "image"}
        if "env" in one:
            element["env"] = [
                {"name": key, "$patch": "delete"} if value is None else {"name": key, "value": value}
                for key, value in one["env"].items()
            ]
        elements.append(element)
    return {"spec": {"containers": elements}}


def changed(model: dict[str, Obj], change: dict[str, Obj | None]) -> dict[str, Obj]:
    after = copy.deepcopy(model)
    for name, one in change.items():
        if one is None:
            after.pop(name, None)
            continue
        target = after.setdefault(name, {"env": {}})
        for key, value in one.get("env", {}).items():
            target["env"].pop(key, None) if value is None else target["env"].update({key: value})
        if "image" in one:
            target.pop("image", None) if one["image"] is None else target.update({"image": one["image"]})
    return after


def smp(document: Obj, change: Obj, gvk: GVK = POD) -> Obj:
    return patch.apply(patch.STRATEGIC_MERGE_PATCH, orjson.dumps(change), document, gvk)


@given(containers, changes)
@settings(max_examples=80, deadline=None)
def test_merging_is_assignment(model: dict[str, Obj], change: dict[str, Obj | None]) -> None:
    after = smp(to_pod(model), to_patch(change))
    assert to_model(after) == changed(model, change)
    assert smp(after, to_patch(change)) == after


@given(containers, changes, changes)
@settings(max_examples=60, deadline=None)
def test_changes_of_different_elements_commute(
    model: dict[str, Obj], first: dict[str, Obj | None], second: dict[str, Obj | None]
) -> None:
    second = {name: one for name, one in second.items() if name not in first}
    one, two = to_patch(first), to_patch(second)
    left, right = smp(smp(to_pod(model), one), two), smp(smp(to_pod(model), two), one)
    assert to_model(left) == to_model(right) == changed(changed(model, first), second)


@given(containers, changes)
@settings(max_examples=60, deadline=None)
def test_old_elements_keep_their_order(model: dict[str, Obj], change: dict[str, Obj | None]) -> None:
    after = [name for name in to_model(smp(to_pod(model), to_patch(change))) if name in model]
    if not set(change) & set(model):
        assert after == [name for name in model if name in after]


@given(containers, containers, st.permutations("abcd"))
@settings(max_examples=60, deadline=None)
def test_an_order_that_is_given_is_kept(model: dict[str, Obj], wanted: dict[str, Obj], order: list[str]) -> None:
    """kubectl sends the whole order it wants; with deletions for the rest it gets exactly that list."""
    listed = {name: wanted[name] for name in order if name in wanted}
    change = to_patch({**{name: None for name in model if name not in wanted}})
    change["spec"]["containers"] += [{"$patch": "delete", "name": name} for name in listed if name in model]
    emptied = smp(to_pod(model), change)
    change = {
        "spec": {"$setElementOrder/containers": [{"name": name} for name in listed], "containers": to_list(listed)}
    }
    assert emptied["spec"].get("containers", []) == []
    assert smp(emptied, change)["spec"]["containers"] == to_list(listed)


@given(st.dictionaries(st.integers(1, 4), images, min_size=1), st.dictionaries(st.integers(1, 4), st.none() | images))
@settings(max_examples=60, deadline=None)
def test_ports_of_a_service_are_merged_by_number(model: dict[int, str], change: dict[int, str | None]) -> None:
    ports = [{"port": port, "name": name} for port, name in model.items()]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}}
    elements = [
        {"port": port, "$patch": "delete"} if name is None else {"port": port, "name": name}
        for port, name in change.items()
    ]
    after = smp(service, {"spec": {"ports": elements}}, SERVICE)
    expected = {port: name for port, name in (model | change).items() if name is not None}
    assert {one["port"]: one["name"] for one in after["spec"].get("ports", ())} == expected
