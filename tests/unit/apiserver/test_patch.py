"""Patches: RFC 6902, RFC 7386, and strategic merge with its directives, as tables and as properties."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver import patch
from apiserver.errors import StatusError
from apiserver.patch import json_patch, merge, strategic
from apiserver.schema import GVK

POD = GVK("", "v1", "Pod")
POD_TYPE = "io.k8s.api.core.v1.Pod"

_KEYS = st.sampled_from(["a", "b", "c"])
_LEAVES = st.booleans() | st.integers(-3, 3) | st.text("xy", max_size=2)
_DOCUMENTS = st.dictionaries(
    _KEYS,
    st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)


def merge_difference(old: Any, new: Any) -> Any:
    """The merge patch that leads from one document without nulls to another."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    found = {key: merge_difference(old[key], value) if key in old else value for key, value in new.items()}
    return found | dict.fromkeys(old.keys() - new.keys())


@given(_DOCUMENTS, _DOCUMENTS)
def test_a_merge_patch_leads_from_any_document_to_any_other(old: Any, new: Any) -> None:
    found = merge.apply(copy.deepcopy(old), merge_difference(old, new))
    assert json.dumps(found, sort_keys=True) == json.dumps(new, sort_keys=True)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ],
)
def test_merge_patch_examples_of_the_rfc(before: Any, change: Any, after: Any) -> None:
    assert merge.apply(before, change) == after


@pytest.mark.parametrize(
    ("before", "operations", "after"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": [1, 2]}, [{"op": "remove", "path": "/a/-1"}], {"a": [1]}),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/b"}], {"b": 1}),
        ({"a": {"x": 1}}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a/b": {"m~n": 1}}, [{"op": "replace", "path": "/a~1b/m~0n", "value": 2}], {"a/b": {"m~n": 2}}),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/a"}], {}),
        ({}, [{"op": "test", "path": "/missing", "value": None}], {}),
    ],
)
def test_json_patch(before: Any, operations: Any, after: Any) -> None:
    assert json_patch.apply(before, operations) == after


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        ({"op": "replace", "path": "/x", "value": 1}, "replace operation does not apply: doc is missing key: /x"),
        ({"op": "remove", "path": "/x"}, "Unable to remove nonexistent key: x"),
        ({"op": "remove", "path": "/x/y"}, 'doc is missing path: "/x/y"'),
        ({"op": "test", "path": "/a", "value": True}, "testing value /a failed"),
        ({"op": "add", "path": "/l/5", "value": 1}, "invalid index"),
        ({"op": "remove", "path": "/l/x"}, "invalid index"),
        ({"op": "replace", "path": "", "value": 1}, 'doc is missing path: ""'),
        ({"op": "frob", "path": "/a"}, "Unexpected kind: frob"),
        ({"op": "add", "path": "/a"}, "missing value"),
        ({"op": "move", "path": "/a"}, "failed to decode from"),
        ({"op": "add"}, "failed to decode path"),
    ],
)
def test_json_patch_refusals(operation: dict[str, Any], why: str) -> None:
    with pytest.raises(json_patch.Refused) as caught:
        json_patch.apply({"a": 1, "l": [1]}, [operation])
    assert why in str(caught.value)


def test_copies_of_copies_have_an_end() -> None:
    doubled = [{"op": "copy", "from": "/l", "path": "/l/-"}] * 40  # a terabyte
    with pytest.raises(
        json_patch.Refused, match=f"accumulated size increase of copy is .* exceeding the limit {3 << 20}"
    ):
        json_patch.apply({"l": ["x"]}, doubled)
    deeper = [{"op": "copy", "from": "/l", "path": "/l" + "/0" * 2**n} for n in range(9)]
    with pytest.raises(json_patch.Refused, match="Unable to complete the copy"):
        json_patch.apply({"l": [[]]}, deeper)


def test_copies_within_the_limit_are_whole_and_their_own() -> None:
    value = {"a": "x" * (1 << 20)}
    copies = [{"op": "copy", "from": "/v", "path": "/w"}] * 2
    after = json_patch.apply({"v": value}, [*copies, {"op": "replace", "path": "/w/a", "value": 1}])
    assert after == {"v": value, "w": {"a": 1}}
    with pytest.raises(json_patch.Refused):
        json_patch.apply({"v": value}, [*copies, *copies[:1]])


@given(_DOCUMENTS, _KEYS, _LEAVES)
def test_adding_and_removing_a_new_key_is_nothing(document: Any, key: str, value: Any) -> None:
    before = {name: item for name, item in document.items() if name != key}
    operations = [{"op": "add", "path": f"/{key}", "value": value}, {"op": "remove", "path": f"/{key}"}]
    assert json_patch.apply(copy.deepcopy(before), operations) == before


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [*containers], **spec}}


def smp(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return strategic.apply(copy.deepcopy(before), change, POD_TYPE)


def names(obj: dict[str, Any]) -> list[str]:
    return [one["name"] for one in obj["spec"]["containers"]]


A = {"name": "a", "image": "1", "args": ["x", "y"]}
B = {"name": "b", "image": "1"}
C = {"name": "c", "image": "1"}


def test_lists_with_a_merge_key_merge_and_others_are_replaced() -> None:
    found = smp(pod(A, B), {"spec": {"containers": [{"name": "a", "image": "2", "args": ["z"]}]}})
    assert found["spec"]["containers"] == [{"name": "a", "image": "2", "args": ["z"]}, B]


def test_a_new_element_goes_in_front_unless_an_order_is_given() -> None:
    assert names(smp(pod(A, B), {"spec": {"containers": [C]}})) == ["c", "a", "b"]
    order = [{"name": "a"}, {"name": "c"}, {"name": "b"}]
    assert names(smp(pod(A, B), {"spec": {"$setElementOrder/containers": order, "containers": [C]}})) == ["a", "c", "b"]


def test_the_servers_own_elements_stay_where_they_stood() -> None:
    order = {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}}
    assert names(smp(pod(A, B, C), order)) == ["b", "c", "a"]  # b stood before c
    kept = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}]}}
    assert names(smp(pod(A, B, C), kept)) == ["a", "b", "c"]


def test_elements_are_deleted_and_lists_replaced() -> None:
    assert names(smp(pod(A, B), {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})) == ["b"]
    assert names(smp(pod(A, B), {"spec": {"containers": [C, {"$patch": "replace"}]}})) == ["c"]


def test_objects_are_deleted_and_replaced() -> None:
    before = pod(A) | {"metadata": {"name": "p", "labels": {"a": "1", "b": "2"}}}
    deleted = smp(before, {"metadata": {"labels": {"$patch": "delete"}}})
    assert deleted["metadata"] == {"name": "p", "labels": {}}
    replaced = smp(before, {"metadata": {"labels": {"$patch": "replace", "c": "3"}}})
    assert replaced["metadata"]["labels"] == {"c": "3"}
    assert smp(before, {"metadata": {"labels": {"a": None}}})["metadata"]["labels"] == {"b": "2"}


def test_retain_keys_changes_one_member_of_a_union_for_another() -> None:
    before = pod(A, volumes=[{"name": "v", "emptyDir": {}}])
    change = {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}
    assert smp(before, change)["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]
    stray = {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]}}
    with pytest.raises(strategic.Malformed, match="retainKeys"):
        smp(before, stray)


def test_sets_of_primitives() -> None:
    before = pod(A)
    before["metadata"]["finalizers"] = ["x/a", "x/b"]
    assert smp(before, {"metadata": {"finalizers": ["x/c"]}})["metadata"]["finalizers"] == ["x/c", "x/a", "x/b"]
    gone = smp(before, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"]}})
    assert gone["metadata"]["finalizers"] == ["x/b"]
    both = {
        "$deleteFromPrimitiveList/finalizers": ["x/a"],
        "$setElementOrder/finalizers": ["x/b", "x/c"],
        "finalizers": ["x/c"],
    }
    assert smp(before, {"metadata": both})["metadata"]["finalizers"] == ["x/b", "x/c"]


def test_a_new_list_or_object_is_stored_without_directives_and_nulls() -> None:
    before = pod()
    del before["spec"]
    change = {
        "spec": {
            "containers": [C, {"name": "d", "$patch": "delete"}],
            "hostNetwork": None,
            "$retainKeys": ["containers"],
        }
    }
    assert smp(before, change)["spec"] == {"containers": [C]}


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"containers": [{"$patch": "delete"}]}},
        {"spec": {"containers": [{"name": "a", "$patch": "frob"}]}},
        {"spec": {"$patch": "frob"}},
        {"spec": {"containers": [{"name": "a"}, 3]}},
        {"spec": {"$setElementOrder/containers": "a"}},
        {"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}},
        {"spec": {"$retainKeys": "a"}},
    ],
)
def test_malformed_strategic_patches(change: dict[str, Any]) -> None:
    with pytest.raises(StatusError) as caught:
        patch.apply(patch.STRATEGIC_MERGE_PATCH, json.dumps(change).encode(), pod(A, B), POD)
    assert caught.value.code == 400


_CONTAINERS = st.lists(
    st.builds(
        lambda name, image, env: {"name": name, "image": image, **({"env": env} if env else {})},
        st.sampled_from("abcd"),
        st.sampled_from(["1", "2"]),
        st.lists(
            st.builds(
                lambda name, value: {"name": name, "value": value}, st.sampled_from("XYZ"), st.sampled_from("12")
            ),
            max_size=3,
            unique_by=lambda one: one["name"],
        ),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one["name"],
)


def strategic_difference(old: list[Any], new: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    """What kubectl would send: the order, and changed, new and deleted elements."""
    before = {one[key]: one for one in old}
    changed = []
    for one in new:
        if one != before.get(one[key]):
            element = copy.deepcopy(one)
            env = before.get(one[key], {}).get("env", [])
            wanted = element.pop("env", [])
            if wanted or env:
                order, difference = strategic_difference(env, wanted, "name")
                element |= {"$setElementOrder/env": order, "env": difference}
            changed.append(element)
    changed += [{key: name, "$patch": "delete"} for name in before if name not in [one[key] for one in new]]
    return [{key: one[key]} for one in new], changed


@settings(deadline=None)
@given(_CONTAINERS, _CONTAINERS)
def test_a_strategic_patch_leads_from_any_pod_to_any_other(old: list[Any], new: list[Any]) -> None:
    order, changed = strategic_difference(old, new, "name")
    change = {"spec": {"$setElementOrder/containers": order, "containers": changed}}
    untouched = copy.deepcopy(change)
    found = smp(pod(*old), change)["spec"]["containers"]
    assert [{key: value for key, value in one.items() if key != "env" or value} for one in found] == new
    assert change == untouched


@settings(deadline=None)
@given(_CONTAINERS, _CONTAINERS)
def test_applying_a_strategic_patch_twice_is_applying_it_once(old: list[Any], new: list[Any]) -> None:
    once = smp(pod(*old), {"spec": {"containers": copy.deepcopy(new)}})
    assert smp(once, {"spec": {"containers": copy.deepcopy(new)}}) == once


def refused(kind: str, body: Any, validation: Any = "Strict") -> StatusError:
    with pytest.raises(StatusError) as caught:
        patch.patched(kind, json.dumps(body).encode(), pod(A), POD, validation)
    return caught.value


def test_the_current_object_is_left_alone() -> None:
    before = pod(A)
    kept = copy.deepcopy(before)
    after = patch.apply(patch.MERGE_PATCH, b'{"spec":{"containers":null},"metadata":{"name":"q"}}', before, POD)
    assert before == kept
    assert after["metadata"]["name"] == "q"


def test_a_result_of_the_wrong_shape_is_422_about_the_patch() -> None:
    error = refused(patch.MERGE_PATCH, {"spec": {"hostNetwork": "yes"}}, "Ignore")
    assert error.code == 422
    assert "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool" in error.message
    assert error.details is not None
    assert error.details["causes"][0]["field"] == "patch"


def test_unknown_fields_refuse_warn_or_vanish() -> None:
    body = {"spec": {"frob": 1}}
    assert 'strict decoding error: unknown field "spec.frob"' in refused(patch.STRATEGIC_MERGE_PATCH, body).message
    raw = json.dumps(body).encode()
    warned = patch.patched(patch.MERGE_PATCH, raw, pod(A), POD, "Warn")
    assert warned.warnings == ('unknown field "spec.frob"',)
    assert "frob" not in warned.obj["spec"]


def test_an_operation_that_does_not_apply_names_itself_in_the_cause() -> None:
    error = refused(patch.JSON_PATCH, [{"op": "remove", "path": "/spec/frob"}])
    assert (error.code, error.reason) == (422, "Invalid")
    assert error.details is not None
    assert "Unable to remove nonexistent key: frob" in error.details["causes"][0]["message"]


@pytest.mark.parametrize("body", ["x", [], 3, [3], {"a": 1}])
def test_bodies_that_are_no_json_patch(body: Any) -> None:
    if body == []:
        assert patch.apply(patch.JSON_PATCH, b"[]", pod(A), POD) == pod(A)
        return
    assert refused(patch.JSON_PATCH, body).code == 400


def test_too_many_operations() -> None:
    many = [{"op": "test", "path": "/kind", "value": "Pod"}] * (json_patch.LIMIT + 1)
    assert refused(patch.JSON_PATCH, many).code == 413


def test_server_side_apply_is_told_what_there_is() -> None:
    error = refused("application/apply-patch+yaml", {})
    assert error.code == 415
    assert "application/strategic-merge-patch+json" in error.message
