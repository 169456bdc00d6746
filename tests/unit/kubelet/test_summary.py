"""/stats/summary: names and arithmetic, rates from two looks, volumes and logs on disk."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubelet.runtime import ContainerRecord, ContainerState, PodIdentity, PodRecord, SandboxRecord, SandboxState
from kubelet.server.summary import Site, Summary, Volumes, disk_usage
from linux.cgroup.usage import Cpu, Limits, Memory, Usage
from metrics.collector import Interface, Machine, Sample, Snapshot

UID = "11111111-2222-3333-4444-555555555555"
POD = PodIdentity("web", "default", UID)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MEMORY = Memory(
    usage=300, working_set=200, max_usage=None, rss=100, cache=0, mapped_file=0, swap=7, active_file=0,
    inactive_file=100, failcnt=0, page_faults=5, major_page_faults=1,
)  # fmt: skip


def sample(path: str, cpu: int, *, name: str = "", limit: int | None = None, pids: int = 3) -> Sample:
    labels = {"container": "", "id": path, "image": "", "name": name, "namespace": "", "pod": ""}
    usage = Usage(Cpu(cpu, 0, 0), MEMORY, pids, limits=Limits(memory_bytes=limit))
    network = (Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8),) if "pod" in path and not name else ()
    return Sample(path, labels, usage, interfaces=network)


def snapshot(seconds: float, cpu: int = 0) -> Snapshot:
    return Snapshot(
        when=1_800_000_000 + seconds,
        machine=Machine(2, 2, 1000, 0, "", ""),
        samples=(
            sample("/lab", cpu * 10),
            sample("/lab/kubepods", cpu * 5),
            sample(f"/lab/kubepods/burstable/pod{UID}", cpu * 2),
            sample(f"/lab/kubepods/burstable/pod{UID}/abc", cpu, name="abc", limit=250),
        ),
    )


RECORD = PodRecord(
    pod=POD,
    sandboxes=(SandboxRecord(id="s", attempt=0, state=SandboxState.READY, created_at=WHEN),),
    containers=(
        ContainerRecord(
            id="abc", sandbox_id="s", name="main", attempt=1, image="i", state=ContainerState.RUNNING, created_at=WHEN
        ),
        ContainerRecord(
            id="dead", sandbox_id="s", name="main", attempt=0, image="i", state=ContainerState.EXITED, created_at=WHEN
        ),
    ),
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    log = tmp_path / "logs" / f"default_web_{UID}" / "main" / "1.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 100)
    log.with_name("1.log.20260101-000000.gz").write_bytes(b"x" * 11)
    volume = tmp_path / "kubelet" / "pods" / UID / "volumes" / "kubernetes.io~empty-dir" / "cache"
    volume.mkdir(parents=True)
    (volume / "file").write_bytes(b"x" * 8192)
    return Site(
        node="node1", cgroup_root="/lab", root_dir=str(tmp_path / "kubelet"), pod_logs_dir=str(tmp_path / "logs")
    )


def test_the_document(site: Site) -> None:
    summary = Summary(site)
    summary.make(snapshot(0), [RECORD], site.root_dir, brief=False)
    found = summary.make(snapshot(10, cpu=20_000_000_000), [RECORD], site.root_dir, brief=False)
    node = found["node"]
    assert node["nodeName"] == "node1"
    assert node["cpu"] == {
        "time": "2027-01-15T08:00:10Z",
        "usageNanoCores": 20_000_000_000,
        "usageCoreNanoSeconds": 200_000_000_000,
    }
    assert (node["memory"]["availableBytes"], node["memory"]["workingSetBytes"]) == (800, 200)
    assert node["fs"]["capacityBytes"] == node["runtime"]["imageFs"]["capacityBytes"] > 0
    assert node["rlimit"]["maxpid"] > node["rlimit"]["curproc"] > 0
    assert [each["name"] for each in node["systemContainers"]] == ["pods"]
    (pod,) = found["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "default", "uid": UID}
    assert pod["cpu"]["usageNanoCores"] == 4_000_000_000
    assert pod["swap"]["swapUsageBytes"] == 7
    assert pod["process_stats"] == {"process_count": 3}
    assert (pod["network"]["name"], pod["network"]["rxBytes"], pod["network"]["txErrors"]) == ("eth0", 1, 7)
    (container,) = pod["containers"]
    assert (container["name"], container["startTime"]) == ("main", "2026-01-01T00:00:00Z")
    assert container["memory"]["availableBytes"] == 50
    assert (container["logs"]["usedBytes"], container["logs"]["inodesUsed"]) == (111, 2)
    (volume,) = pod["volume"]
    assert volume["name"] == "cache"
    assert volume["usedBytes"] >= 8192
    assert volume["inodesUsed"] == 2
    assert pod["ephemeral-storage"]["usedBytes"] == volume["usedBytes"] + 111


def test_only_cpu_and_memory(site: Site) -> None:
    found = Summary(site).make(snapshot(0), [RECORD], "", brief=True)
    assert set(found["node"]) == {"nodeName", "startTime", "cpu", "memory", "swap", "systemContainers"}
    (pod,) = found["pods"]
    assert set(pod) == {"podRef", "startTime", "containers", "cpu", "memory", "swap"}
    assert "usageNanoCores" not in pod["cpu"]  # one look is no rate


def test_rates_of_quick_questions_reach_back(site: Site) -> None:
    summary = Summary(site)
    for second in range(12):
        found = summary.make(snapshot(second, cpu=second * 1_000_000_000), [RECORD], "", brief=True)
        rate = found["pods"][0]["cpu"].get("usageNanoCores")
        assert rate == (None if second == 0 else 2_000_000_000)


def test_a_pod_that_is_gone_or_has_nothing_to_say_is_left_out(site: Site) -> None:
    bare = replace(snapshot(0), samples=())
    dead = PodRecord(pod=POD, sandboxes=RECORD.sandboxes, containers=RECORD.containers[1:])
    assert Summary(site).make(bare, [dead], "", brief=True)["pods"] == []


def test_a_volume_is_counted_now_and_then(tmp_path: Path) -> None:
    now = 0.0
    volumes = Volumes(60.0, lambda: now)
    before = volumes.used(str(tmp_path))
    (tmp_path / "file").write_bytes(b"x" * 5000)
    os.link(tmp_path / "file", tmp_path / "again")
    assert volumes.used(str(tmp_path)) == before
    now = 61.0
    after = volumes.used(str(tmp_path))
    assert after == disk_usage(str(tmp_path))
    assert before is not None
    assert after[1] == before[1] + 1  # a link is no second file
    assert Volumes(-1.0).used(str(tmp_path)) is None
