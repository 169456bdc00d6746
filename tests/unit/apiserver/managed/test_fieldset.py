"""Sets of paths: the algebra against Python's own sets, and the bytes upstream writes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.managed import elements, fieldset
from apiserver.managed.elements import Malformed
from apiserver.managed.fieldset import FieldSet

Path = tuple[str, ...]

step = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'k:{"name":"y"}', "v:1", 'v:"z"'])
paths = st.lists(st.lists(step, min_size=1, max_size=3).map(tuple), max_size=6)


def members(one: FieldSet) -> set[Path]:
    return set(fieldset.paths(one))


@given(paths, paths)
def test_algebra_is_that_of_sets(left: list[Path], right: list[Path]) -> None:
    one, two = fieldset.of_paths(left), fieldset.of_paths(right)
    assert members(one) == set(left)
    assert members(fieldset.union(one, two)) == set(left) | set(right)
    assert members(fieldset.difference(one, two)) == set(left) - set(right)
    assert members(fieldset.intersection(one, two)) == set(left) & set(right)
    below = {path for path in left if any(path[: len(other)] == other for other in right)}
    assert members(fieldset.without(one, two)) == set(left) - below


@given(paths, paths)
def test_sets_are_values(left: list[Path], right: list[Path]) -> None:
    one, two = fieldset.of_paths(left), fieldset.of_paths(right)
    before = orjson.dumps([one, two])
    for operation in (fieldset.union, fieldset.difference, fieldset.intersection, fieldset.without):
        operation(one, two)
    fieldset.ordered(one)
    assert orjson.dumps([one, two]) == before


@given(paths)
def test_what_is_written_is_read_back(many: list[Path]) -> None:
    one = fieldset.ordered(fieldset.of_paths(many))
    read = fieldset.parse(orjson.loads(orjson.dumps(one)))
    assert members(read) == set(many)
    assert orjson.dumps(fieldset.ordered(read)) == orjson.dumps(one)


def test_order_is_upstreams() -> None:
    many: list[Path] = [
        ("v:10",), ("v:9",), ('v:"a"',), ("f:b",), ("f:a", "f:x"), ("f:a",), ("i:2",), ("i:10",),
        ('k:{"containerPort":80,"protocol":"UDP"}',), ('k:{"containerPort":80,"protocol":"TCP"}',),
        ('k:{"containerPort":9,"protocol":"TCP"}',),
    ]  # fmt: skip
    assert orjson.dumps(fieldset.ordered(fieldset.of_paths(many))).decode() == (
        r'{"f:a":{".":{},"f:x":{}},"f:b":{},"k:{\"containerPort\":9,\"protocol\":\"TCP\"}":{},'
        r'"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{},"k:{\"containerPort\":80,\"protocol\":\"UDP\"}":{},'
        r'"v:9":{},"v:10":{},"v:\"a\"":{},"i:2":{},"i:10":{}}'
    )


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        ('k:{"protocol":"TCP", "containerPort":80}', 'k:{"containerPort":80,"protocol":"TCP"}'),
        ('v: "a"', 'v:"a"'),
        ('v:"<a&b>"', 'v:"\\u003ca\\u0026b\\u003e"'),
        ("f:a b", "f:a b"),
    ],
)
def test_a_step_has_one_spelling(sent: str, canonical: str) -> None:
    assert elements.canonical(sent) == canonical


@pytest.mark.parametrize("sent", ["", "f", "x:1", "k:[1]", "k:{", "v:", 'i:"a"'])
def test_what_is_no_step_is_refused(sent: str) -> None:
    with pytest.raises(Malformed):
        fieldset.parse({sent: {}})


def test_depth_is_bounded() -> None:
    deep: Any = {}
    for _ in range(500):
        deep = {"f:a": deep}
    with pytest.raises(Malformed):
        fieldset.parse(deep)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        ("f:spec", ".spec"),
        ('k:{"containerPort":80,"protocol":"TCP"}', '[containerPort=80,protocol="TCP"]'),
        ('v:"a/f"', '[="a/f"]'),
        ("i:3", "[3]"),
    ],
)
def test_conflicts_show_steps_as_upstream(one: str, text: str) -> None:
    assert elements.shown(one) == text
