"""What was looked at before is known again by its bytes, and nothing else is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from apiserver import seen
from apiserver.codec.conform import Mismatch, conform
from apiserver.schema import GVK
from apiserver.validation import validate_create
from tests.unit.apiserver.manifests import manifest

POD = GVK("", "v1", "Pod")
TYPE = "io.k8s.api.core.v1.Pod"


def pod(**spec: Any) -> dict[str, Any]:
    made = manifest(POD)
    made["metadata"]["namespace"] = "default"
    made["spec"] |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30} | spec
    made["spec"]["containers"][0] |= {"imagePullPolicy": "Always", "terminationMessagePolicy": "File"}
    return made


def test_what_is_wrong_is_told_every_time() -> None:
    right, wrong = pod(), pod(restartPolicy="Sometimes")
    for _ in range(3):
        assert validate_create(POD, right) == []
        assert [one.field for one in validate_create(POD, wrong)] == ["spec.restartPolicy"]


def test_what_is_pruned_is_pruned_every_time() -> None:
    for _ in range(3):
        obj, unknown = conform(pod(colour="red", nodeSelector=None), TYPE)
        assert unknown == ["spec.colour"]
        assert "colour" not in obj["spec"]
        assert "nodeSelector" not in obj["spec"]


def test_no_null_vouches_for_what_is_no_number() -> None:
    """JSON writes both alike; only what a walk leaves alone is remembered, and it leaves no null."""
    conform(pod(activeDeadlineSeconds=None), TYPE)
    conform(pod(activeDeadlineSeconds=None), TYPE)
    with pytest.raises(Mismatch):
        conform(pod(activeDeadlineSeconds=math.nan), TYPE)
    conform(pod(priority=1), TYPE)
    with pytest.raises(Mismatch):
        conform(pod(priority="1"), TYPE)


def test_what_json_cannot_write_is_never_known() -> None:
    known = seen.Seen()
    for value in (1 << 70, {1: 2}, {"a": object()}, "x" * (seen.LARGEST + 1)):
        key, found = known.look(value)
        assert (key, found) == (b"", False)
        known.keep(key)
    assert not known.look("")[1]


def test_the_oldest_are_forgotten() -> None:
    known = seen.Seen()
    for number in range(seen.MOST + 1):
        known.keep(known.look(number)[0])
    assert [known.look(number)[1] for number in (0, 1, seen.MOST)] == [False, True, True]
