"""A real Prometheus in the lab, run against deploy/prometheus: every daemon of every node, and what it says of pods."""

import json
import subprocess
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest

from tests.cluster.conftest import Lab, curl, until
from tests.cluster.world import World
from tests.requirements import requires, tool

TARGETS = {
    "apiserver": 1,
    "scheduler": 1,
    "controllers": 1,
    "kubelet": 3,
    "kubelet-cadvisor": 3,
    "proxy": 3,
    "overlay": 3,
    "metrics": 3,
}
SERIES = ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes")


def ask(lab: Lab, path: str) -> Any:
    """Prometheus' own HTTP API, where the lab publishes it; None while it does not answer."""
    text = curl(f"http://127.0.0.1:{lab.topology['lab']['prometheus_port']}/api/v1/{path}")
    return json.loads(text)["data"] if text else None


def targets(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (ask(lab, "targets?state=active") or {}).get("activeTargets", [])
    return found


def query(lab: Lab, expression: str) -> list[dict[str, str]]:
    """The label sets of an instant query's answer."""
    answer = ask(lab, f"query?query={quote(expression)}") or {"result": ()}
    return [entry["metric"] for entry in answer["result"]]


def promtool(*words: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    requires("promtool")
    argv = [tool("promtool") or "promtool", *words]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_every_target_is_up(demo: Lab) -> None:
    def down() -> list[str]:
        seen = targets(demo)
        lacking = Counter(TARGETS) - Counter(t["labels"]["job"] for t in seen)
        bad = [f"{t['scrapeUrl']}: {t['health']} {t['lastError']}" for t in seen if t["health"] != "up"]
        return [*bad, *(f"no target for {job}" for job in lacking)]

    until(down, lambda found: not found, seconds=60)
    assert Counter(t["labels"]["job"] for t in targets(demo)) == TARGETS


def test_its_configuration_is_clean(demo: Lab) -> None:
    done = promtool("check", "config", f"{demo.state}/prometheus/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("job", TARGETS)
def test_what_it_scrapes_is_clean(demo: Lab, job: str) -> None:
    """`promtool check metrics` on the text of each target, fetched as Prometheus fetches it."""
    tls = f"{demo.state}/prometheus/tls"
    world = World(demo)
    mine = until(lambda: [t for t in targets(demo) if t["labels"]["job"] == job], lambda t: len(t) == TARGETS[job])
    for target in mine:
        url = target["scrapeUrl"]
        text = world.inside("", "curl", "-sSfk", "--cert", f"{tls}/client.crt", "--key", f"{tls}/client.key", url)
        assert text.count("\n") > 10, f"{url} says next to nothing"
        done = promtool("check", "metrics", text=text)
        assert done.returncode == 0, f"{url}:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("job", ["metrics", "kubelet-cadvisor"])
@pytest.mark.parametrize("name", SERIES)
def test_container_series_carry_pod_namespace_and_container(demo: Lab, job: str, name: str) -> None:
    pods = {(p["metadata"]["name"], p["spec"]["nodeName"]) for p in demo.pods("app=hello")}
    expression = f'{name}{{job="{job}",namespace="default",container="hello",pod=~"hello-.+"}} > 0'
    found = until(
        lambda: query(demo, expression), lambda seen: pods <= {(s["pod"], s["node"]) for s in seen}, seconds=40
    )
    for series in found:
        assert series["image"]
        assert series["id"].startswith(f"/wherry/{demo.name}/{series['node']}/kubepods/")
    once = Counter((s["pod"], s.get("cpu", "")) for s in found)
    assert set(once.values()) == {1}, f"a container is told of twice: {found}"
