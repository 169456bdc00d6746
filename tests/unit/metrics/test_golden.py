"""Whole pages of a pod, from recorded trees of both cgroup versions: what a family says may not change unseen."""

from collections.abc import Callable
from pathlib import Path

import pytest

from linux.cgroup.tree import Hierarchies
from metrics.collector import Collector
from metrics.exposition import FULL, Page, select
from metrics.identities import identity
from metrics.model import Part, Snapshot
from tests.unit.metrics import recorded

LABELS = {
    "io.kubernetes.pod.name": "web-1",
    "io.kubernetes.pod.namespace": "default",
    "io.kubernetes.pod.uid": "11111111-2222-3333-4444-555555555555",
}
KNOWN = {
    recorded.SANDBOX: identity(recorded.SANDBOX, "k8s_POD_web-1_default_u_0", "pause:1", LABELS, 100.0),
    recorded.APP: identity(
        recorded.APP, "k8s_web_web-1_default_u_0", "web:1", {**LABELS, "io.kubernetes.container.name": "web"}, 101.0
    ),
}
OTHERS = ["machine_*", "cadvisor_*", "container_scrape_error", "container_last_seen", "container_start_time_seconds"]
"""Of this machine, or of this moment; and those below are read of processes that a recorded tree has not."""
ALIVE = {Part.PROCESSES, Part.NETWORK, Part.LAYERS, Part.FILESYSTEMS}


@pytest.mark.parametrize("tree", [recorded.version1, recorded.version2], ids=["v1", "v2"])
def test_a_pods_page(tree: Callable[[Path], Hierarchies], tmp_path: Path, golden: Callable[[Path, str], None]) -> None:
    alive = [one.name for one in FULL.families if set(one.parts) & ALIVE]
    page = Page(select(["full"], deny=[*OTHERS, *alive]))
    collector = Collector(lambda: KNOWN, "/", trees=tree(tmp_path))
    try:
        seen = collector.snapshot(page.parts)
    finally:
        collector.close()
    pod = tuple(sample for sample in seen.samples if sample.labels["pod"])
    snapshot = Snapshot(seen.when, seen.machine, pod, devices={"254:0": "/dev/vda"})
    lines = [line for line in page.text(snapshot).decode().splitlines(keepends=True) if not line.startswith("# HELP")]
    short = (
        "".join(lines).replace(recorded.APP, "APP").replace(recorded.SANDBOX, "SANDBOX").replace(recorded.POD, "POD")
    )
    golden(Path(__file__).parent / "golden" / f"{tree.__name__}.txt", short)
