"""/metrics/resource, read as metrics-server reads it: two scrapes, names and labels by heart, a rate between two times."""

import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubelet.server import resource
from linux.cgroup.tree import Hierarchies
from linux.cgroup.usage import Limits
from metrics.collector import Collector, Identity, Snapshot, identity
from tests.unit.metrics import recorded

LABELS = {
    "io.kubernetes.pod.name": "web-1",
    "io.kubernetes.pod.namespace": "default",
    "io.kubernetes.pod.uid": "11111111-2222-3333-4444-555555555555",
}
KNOWN = {
    recorded.SANDBOX: identity(
        recorded.SANDBOX, recorded.SANDBOX, "pause:1", LABELS | {"io.kubernetes.container.name": "POD"}, 100.0
    ),
    recorded.APP: identity(
        recorded.APP, recorded.APP, "web:1", LABELS | {"io.kubernetes.container.name": "web"}, 101.5
    ),
}
TREES = {"v1": recorded.version1, "v2": recorded.version2}
OF_CONTAINER = '{container="web",namespace="default",pod="web-1"}'
OF_POD = '{namespace="default",pod="web-1"}'


@pytest.fixture(params=list(TREES))
def trees(request: pytest.FixtureRequest, tmp_path: Path) -> Hierarchies:
    return TREES[request.param](tmp_path)


def snapshot(trees: Hierarchies, known: dict[str, Identity] = KNOWN) -> Snapshot:
    return Collector(lambda: known, "/", trees=trees).snapshot(resource.PARTS)


def test_names_types_labels_and_times(trees: Hierarchies) -> None:
    seen = snapshot(trees)
    lines = resource.page(seen, "/").splitlines()
    when = int(seen.when * 1000)
    assert {
        f"node_cpu_usage_seconds_total 2.5 {when}",
        f"container_cpu_usage_seconds_total{OF_CONTAINER} 2.5 {when}",
        f"container_memory_working_set_bytes{OF_CONTAINER} {8 << 20} {when}",
        f"container_swap_usage_bytes{OF_CONTAINER} 0 {when}",
        f"container_start_time_seconds{OF_CONTAINER} 101.5",
        f"pod_cpu_usage_seconds_total{OF_POD} 2.5 {when}",
        f"pod_memory_working_set_bytes{OF_POD} {8 << 20} {when}",
        f"pod_swap_usage_bytes{OF_POD} 0 {when}",
        "resource_scrape_error 0",
    } <= set(lines)
    assert any(re.fullmatch(rf"node_memory_working_set_bytes \d+ {when}", line) for line in lines)
    families = {each.name: each for each in text_string_to_metric_families("\n".join(lines) + "\n")}
    assert {name for name, each in families.items() if each.type == "counter"} == {
        f"{scope}_cpu_usage_seconds" for scope in ("node", "container", "pod")
    }
    assert len(families["container_cpu_usage_seconds"].samples) == 1  # the sandbox is in no container's row


@pytest.mark.parametrize(("with_memory", "told"), [(True, 30), (False, 130)])
def test_a_limit_of_swap_is_told_without_the_memory_that_version_1_counts_in(
    trees: Hierarchies, with_memory: bool, told: int
) -> None:
    seen = snapshot(trees)
    limits = Limits(memory_bytes=100, swap_bytes=130, swap_with_memory=with_memory)
    rows = tuple(
        msgspec.structs.replace(
            each,
            usage=msgspec.structs.replace(each.usage, limits=limits),
        )
        for each in seen.samples
    )
    text = resource.page(Snapshot(seen.when, seen.machine, rows, failed=True), "/")
    assert f"container_swap_limit_bytes{OF_CONTAINER} {told} " in text
    assert text.endswith("\nresource_scrape_error 1\n")


def test_nothing_to_say_is_no_line_and_an_odd_name_is_escaped(tmp_path: Path) -> None:
    odd = KNOWN | {recorded.APP: msgspec.structs.replace(KNOWN[recorded.APP], container='a"b\\c\n', started=None)}
    text = resource.page(snapshot(recorded.version2(tmp_path), odd), "/nowhere")
    assert "node_" not in text
    assert "start_time" not in text
    assert 'container="a\\"b\\\\c\\n"' in text


class Point(NamedTuple):
    """What metrics-server keeps of one scrape (pkg/scraper/client/resource/decode.go)."""

    when: int
    cpu: float
    memory: int


LINE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)(?: (?P<when>\d+))?$")


def decoded(text: str) -> dict[tuple[str, ...], Point]:
    """By (namespace, pod, container), or () for the node. Lines without a time are no measurements to it."""
    found: dict[tuple[str, ...], dict[str, tuple[float, str]]] = {}
    for line in text.splitlines():
        if line.startswith("#") or (match := LINE.match(line)) is None or match["when"] is None:
            continue
        scope, _, family = match["name"].partition("_")
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"] or ""))
        who = tuple(labels[name] for name in ("namespace", "pod", "container")) if scope == "container" else ()
        if scope != "pod":
            found.setdefault(who, {})[family] = (float(match["value"]), match["when"])
    return {
        who: Point(int(row["cpu_usage_seconds_total"][1]), row["cpu_usage_seconds_total"][0],
                   int(row["memory_working_set_bytes"][0]))
        for who, row in found.items()
    }  # fmt: skip


def test_two_scrapes_are_a_rate(tmp_path: Path) -> None:
    trees = recorded.version2(tmp_path)
    collector = Collector(lambda: KNOWN, "/", trees=trees, fresh=0.0)
    before = decoded(resource.page(collector.snapshot(resource.PARTS), "/"))
    file = tmp_path / recorded.POD / recorded.APP / "cpu.stat"
    file.write_text(file.read_text().replace("usage_usec 2500000", "usage_usec 2700000"))
    later = collector.snapshot(resource.PARTS)
    later = Snapshot(before[()].when / 1000 + 0.5, later.machine, later.samples)
    after = decoded(resource.page(later, "/"))
    who = ("default", "web-1", "web")
    assert set(before) == set(after) == {(), who}
    seconds = (after[who].when - before[who].when) / 1000
    assert (after[who].cpu - before[who].cpu) / seconds == pytest.approx(0.4, rel=0.02)
    assert after[who].memory == 8 << 20
    assert after[()].cpu == before[()].cpu
