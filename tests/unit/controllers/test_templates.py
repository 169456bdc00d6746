import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from controllers.plan.templates import canonical, safe, template_hash


def raw(template: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(template).encode())


def template(cpu: str = "500m", **labels: str) -> dict[str, Any]:
    container = {"name": "c", "image": "x", "resources": {"limits": {"cpu": cpu}}}
    return {"metadata": {"labels": labels}, "spec": {"containers": [container]}}


def test_the_hash_label_does_not_count() -> None:
    assert canonical(raw(template(app="a"))) == canonical(raw(template(app="a", **{"pod-template-hash": "x"})))


def test_neither_do_spelling_order_and_nulls() -> None:
    spelled = template(cpu="0.5", app="a")
    spelled["metadata"]["creationTimestamp"] = None
    assert canonical(raw(spelled)) == canonical(raw(template(app="a")))
    assert canonical(raw(dict(reversed(template(app="a").items())))) == canonical(raw(template(app="a")))


def test_everything_else_does() -> None:
    changed = template(app="a")
    changed["spec"]["aFieldOfTomorrow"] = {}
    hashes = {template_hash(raw(t), 0) for t in (template(app="a"), template(app="b"), template("1", app="a"), changed)}
    assert len(hashes) == 4


def test_a_collision_makes_another_name() -> None:
    assert template_hash(raw(template()), 0) != template_hash(raw(template()), 1)


def test_hashes_do_not_change_from_release_to_release() -> None:
    """A new hash would only make new names, but why should it?"""
    assert template_hash(raw(template(app="a")), 0) == "958f876cd"


@given(st.integers(0, 2**32 - 1))
def test_names_are_safe(number: int) -> None:
    assert set(safe(number)) <= set("bcdfghjklmnpqrstvwxz2456789")
    assert 1 <= len(safe(number)) <= 10
