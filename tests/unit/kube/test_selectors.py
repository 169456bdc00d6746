"""Selectors mean what upstream's mean."""

import pytest

from kube.meta import LabelSelector, LabelSelectorRequirement
from kube.selectors import from_label_selector, parse_fields, parse_labels

LABELS = {"app": "web", "tier": "front", "n": "5"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("app in (web, db)", True),
        ("app notin (web)", False),
        ("missing notin (x)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("n>4", True),
        ("n<4", False),
        ("!service.kubernetes.io/headless", True),
    ],
)
def test_labels(text: str, matches: bool) -> None:
    assert parse_labels(text).matches(LABELS) is matches


@pytest.mark.parametrize("text", ["app in web", "=x", "a b", "a in (x y)", "app=web,,b"])
def test_labels_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(ValueError, match="unable to parse requirement"):
        parse_labels(text)


def test_fields() -> None:
    selector = parse_fields("spec.nodeName=node1,status.phase!=Failed")
    assert selector.matches({"spec.nodeName": "node1", "status.phase": "Running"})
    assert not selector.matches({"spec.nodeName": "node1", "status.phase": "Failed"})
    assert selector.required("spec.nodeName") == "node1"
    assert selector.required("status.phase") is None
    assert parse_fields("spec.clusterIP!=None").matches({"spec.clusterIP": "10.96.0.1"})


def test_a_selector_object() -> None:
    assert not from_label_selector(None).matches(LABELS)
    assert from_label_selector(LabelSelector()).matches(LABELS)
    wanted = LabelSelector(
        match_labels={"app": "web"},
        match_expressions=(LabelSelectorRequirement(key="tier", operator="NotIn", values=("back",)),),
    )
    assert from_label_selector(wanted).matches(LABELS)
