"""Health of two families: late in one is late; a pass that fails takes nothing off what waits."""

from __future__ import annotations

from typing import Any

import msgspec

from kube.core import Node
from proxy.health import TAINT_TO_BE_DELETED, Health, node_is_eligible


def test_the_start_counts_as_a_change_that_waits() -> None:
    health = Health(30.0, ("IPv4", "IPv6"), now=0.0)
    assert health.is_healthy(59.9)
    assert not health.is_healthy(60.0)


def test_one_family_that_lags_makes_the_proxy_unhealthy() -> None:
    health = Health(30.0, ("IPv4", "IPv6"), now=0.0)
    four, six = health.families["IPv4"], health.families["IPv6"]
    four.taken()
    four.done(10.0)
    assert health.report(20.0, eligible=True)[0] == 200
    status, body = health.report(100.0, eligible=True)
    assert (status, body["healthy"]) == (503, False)
    assert {name: each["healthy"] for name, each in body["status"].items()} == {"IPv4": True, "IPv6": False}
    assert body["lastUpdated"] == "1970-01-01T00:00:10.000000Z"
    assert body["status"]["IPv6"]["lastUpdated"] == "1970-01-01T00:00:00.000000Z"
    six.taken()
    six.done(101.0)
    status, body = health.report(102.0, eligible=True)
    assert (status, body["lastUpdated"]) == (200, "1970-01-01T00:01:42.000000Z")


def test_a_failed_pass_gives_back_what_waited_and_the_oldest_change_counts() -> None:
    health = Health(1.0, ("IPv4",), now=0.0)
    four = health.families["IPv4"]
    four.taken()
    four.queued(10.0)
    since = four.taken()
    four.queued(11.5)
    four.failed(since)
    assert health.is_healthy(11.9)
    assert not health.is_healthy(12.0)
    four.failed(four.taken())
    assert not health.is_healthy(12.0)


def test_liveness_does_not_ask_for_the_nodes_fate() -> None:
    health = Health(30.0, ("IPv4",), now=0.0)
    status, body = health.report(1.0, eligible=False)
    assert (status, body["healthy"], body["nodeEligible"]) == (503, False, False)
    status, body = health.report(1.0, eligible=None)
    assert (status, body["healthy"], "nodeEligible" in body) == (200, True, False)


def test_nodes_that_should_get_nothing_new() -> None:
    def node(**parts: Any) -> Node:
        return msgspec.convert({"metadata": {"name": "n"}} | parts, Node)

    assert node_is_eligible(node())
    assert not node_is_eligible(None)
    assert not node_is_eligible(node(metadata={"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert not node_is_eligible(node(spec={"taints": [{"key": TAINT_TO_BE_DELETED, "effect": "NoSchedule"}]}))
