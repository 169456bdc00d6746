"""Thirty pods, a real Prometheus: all targets up, families with the right labels, every query of every dashboard, and
nothing left of pods that have gone."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lab.model import DEMO_IMAGE
from tests.cluster.conftest import Lab, ready, until
from tests.cluster.test_prometheus import TARGETS, ask, query, targets

PODS = 27
"""With the three of the demo, thirty."""
WHERE = "crowd"
JOBS = ("kubelet-cadvisor", "metrics")
INSIDE = (
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_memory_cache",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
)
OUTSIDE = (
    "container_network_receive_bytes_total",
    "container_network_receive_packets_total",
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_packets_total",
    "container_network_transmit_packets_dropped_total",
)
DASHBOARDS = sorted((Path(__file__).parents[2] / "deploy" / "grafana").glob("*.json"))
CHOSEN = {"$__rate_interval": "1m", "$job": "kubelet-cadvisor", "$node": ".*", "$namespace": ".*", "$pod": ".*"}
"""What Grafana puts for variables that nobody has touched."""


def _manifest() -> str:
    limits = {"cpu": "100m", "memory": "64Mi"}
    container = {
        "name": "one",
        "image": DEMO_IMAGE,
        "imagePullPolicy": "Never",
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2},  # and so something to do
        "resources": {"limits": limits, "requests": {"cpu": "5m", "memory": "16Mi"}},
    }
    labels = {"app": WHERE}
    template = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}
    spec = {"replicas": PODS, "selector": {"matchLabels": labels}, "template": template}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": WHERE, "namespace": WHERE},
        "spec": spec,
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": WHERE}}
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, deployment]})


@pytest.fixture(scope="module")
def crowd(lab: Lab) -> Iterator[Lab]:
    """The lab with thirty pods, each of which Prometheus has seen at least twice."""
    lab.kubectl("apply", "-f", "-", stdin=_manifest())
    try:
        until(lambda: [p for p in lab.pods(f"app={WHERE}", WHERE) if ready(p)], lambda p: len(p) == PODS, seconds=150)
        twice = f'count_over_time(container_memory_rss{{namespace="{WHERE}",container="one"}}[1m]) >= 2'
        until(lambda: query(lab, twice), lambda seen: len(seen) == PODS * len(JOBS), seconds=60, pause=1)
        yield lab
    finally:
        lab.kubectl("delete", "namespace", WHERE, "--ignore-not-found", "--wait=false")


def test_every_target_is_up(crowd: Lab) -> None:
    def down() -> list[str]:
        return [f"{t['scrapeUrl']}: {t['lastError']}" for t in targets(crowd) if t["health"] != "up"]

    until(down, lambda found: not found, seconds=30)
    assert Counter(t["labels"]["job"] for t in targets(crowd)) == TARGETS


@pytest.mark.parametrize("job", JOBS)
def test_each_family_tells_of_each_container_once(crowd: Lab, job: str) -> None:
    pods = {(p["metadata"]["name"], p["spec"]["nodeName"]) for p in crowd.pods(f"app={WHERE}", WHERE)}
    assert len(pods) == PODS
    for family in INSIDE:
        rows = query(crowd, f'{family}{{job="{job}",namespace="{WHERE}",container!=""}}')
        assert Counter((r["pod"], r["node"]) for r in rows) == Counter(pods), family
        assert {r["container"] for r in rows} == {"one"}
        assert all(r["image"] and r["name"] for r in rows), family
        assert all(r["id"].startswith(f"/wherry/{crowd.name}/{r['node']}/kubepods/") for r in rows), family
    for family in OUTSIDE:
        rows = query(crowd, f'{family}{{job="{job}",namespace="{WHERE}",interface="eth0"}}')
        assert Counter((r["pod"], r["node"]) for r in rows) == Counter(pods), family
        assert not any(r.get("container") for r in rows), family


def _queries() -> Iterator[Any]:
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                name = f"{file.stem}-{panel['title']}-{target['refId']}".replace(" ", "_")
                yield pytest.param(target["expr"], bool(panel["description"]), id=name)


@pytest.mark.parametrize(("expression", "quiet"), [*_queries()])
def test_every_query_of_every_dashboard_has_data(crowd: Lab, expression: str, quiet: bool) -> None:
    """Those of a panel that says it may be empty (no kernel counts pressure of every group) need only be understood."""
    asked = re.sub(r"\$\w+", lambda found: CHOSEN[found[0]], expression)

    def wanting(answer: Any) -> bool:
        if answer is None:  # refused, or not there yet
            return True
        return not quiet and all(row["value"][1] == "NaN" for row in answer["result"])

    until(lambda: ask(crowd, f"query?query={quote(asked)}"), lambda answer: not wanting(answer), seconds=30, pause=1)


def test_rules_are_evaluated_and_none_fires(crowd: Lab) -> None:
    def groups() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (ask(crowd, "rules") or {"groups": []})["groups"]
        return found

    def unhealthy() -> list[str]:
        return [
            f"{r['name']}: {r['health']} {r.get('lastError')}"
            for g in groups()
            for r in g["rules"]
            if r["health"] != "ok"
        ]

    until(unhealthy, lambda found: not found, seconds=90, pause=1)
    assert len(groups()) > 5
    record = "node_namespace_pod_container:container_cpu_usage_seconds_total:sum_rate5m"
    until(lambda: query(crowd, f'{record}{{namespace="{WHERE}"}}'), lambda rows: len(rows) == PODS, seconds=90, pause=1)
    assert query(crowd, 'ALERTS{alertstate="firing"}') == []


def test_nothing_is_left_of_pods_that_have_gone(crowd: Lab) -> None:
    """Within two scrapes of a pod's end its series are marked stale, so that no sum counts it for five minutes more. (What rules
    recorded goes when they are evaluated next, a rate when its window has passed.)"""
    crowd.kubectl("scale", "deployment", WHERE, "-n", WHERE, "--replicas=0")
    until(lambda: crowd.get("pods", "-n", WHERE)["items"], lambda pods: not pods, seconds=120)
    left = f'count by (__name__, job) ({{__name__=~"container_.+",namespace="{WHERE}",job=~"{"|".join(JOBS)}"}})'
    until(lambda: query(crowd, left), lambda rows: not rows, seconds=30, pause=1)
