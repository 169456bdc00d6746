"""/stats/summary: names and arithmetic, rates from two looks, volumes and logs on disk."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubelet.runtime import (
    ContainerRecord,
    ContainerState,
    FsUsage,
    PodIdentity,
    PodRecord,
    SandboxRecord,
    SandboxState,
)
from kubelet.server.containers import identities
from kubelet.server.disks import Disks, filesystem, part_of
from kubelet.server.summary import BRIEF, WHOLE, Site, Summary
from linux.cgroup.usage import Cpu, Limits, Memory, Pressure, Stall, Usage
from metrics.collector import Collector, Counted, Interface, Machine, Sample, Snapshot, Walks
from tests.unit.metrics import recorded

UID = "11111111-2222-3333-4444-555555555555"
POD = PodIdentity("web", "default", UID)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MEMORY = Memory(
    usage=300, working_set=200, max_usage=None, rss=100, cache=0, mapped_file=0, swap=7, active_file=0,
    inactive_file=100, failcnt=0, page_faults=5, major_page_faults=1,
)  # fmt: skip


def sample(path: str, cpu: int, *, name: str = "", limit: int | None = None, pids: int = 3) -> Sample:
    labels = {"container": "", "id": path, "image": "", "name": name, "namespace": "", "pod": ""}
    limits = Limits(memory_bytes=limit, swap_bytes=17 if name else None)
    stalls = Pressure(cpu=Stall(5, 0), memory=Stall(70, 60, 1.5), io=Stall(8, 7)) if name else None
    usage = Usage(Cpu(cpu, 0, 0), MEMORY, pids, limits=limits, pressure=stalls)
    network = (Interface("eth0", 1, 2, 3, 4, 5, 6, 7, 8),) if "pod" in path and not name else ()
    layer = Counted(4096, 2, 1_800_000_000.0) if name else None
    return Sample(path, labels, usage, interfaces=network, layer=layer)


def snapshot(seconds: float, cpu: int = 0) -> Snapshot:
    return Snapshot(
        when=1_800_000_000 + seconds,
        machine=Machine(2, 2, 1000, 50, "", ""),
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


@pytest.fixture
def walks() -> Iterator[Walks]:
    walks = Walks(0.0)
    yield walks
    walks.close()


def counted(walks: Walks, path: Path) -> Counted:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (found := walks.counted(str(path))) is not None:
            return found
        time.sleep(0.001)
    raise TimeoutError(f"{path} was not counted")


def test_the_document(site: Site, walks: Walks) -> None:
    summary, images = Summary(site, walks), FsUsage(mountpoint=site.root_dir, used_bytes=12345)
    summary.make(snapshot(0), [RECORD], images, brief=False)
    counted(walks, Path(site.root_dir, "pods", UID, "volumes", "kubernetes.io~empty-dir", "cache"))
    found = summary.make(snapshot(10, cpu=20_000_000_000), [RECORD], images, brief=False)
    node = found["node"]
    assert node["nodeName"] == "node1"
    assert node["cpu"] == {
        "time": "2027-01-15T08:00:10Z",
        "usageNanoCores": 20_000_000_000,
        "usageCoreNanoSeconds": 200_000_000_000,
    }
    assert (node["memory"]["availableBytes"], node["memory"]["workingSetBytes"]) == (800, 200)
    assert node["swap"] == {"time": "2027-01-15T08:00:10Z", "swapAvailableBytes": 43, "swapUsageBytes": 7}
    runtime = node["runtime"]
    assert node["fs"]["capacityBytes"] == runtime["imageFs"]["capacityBytes"] == runtime["containerFs"]["capacityBytes"]
    assert runtime["imageFs"]["usedBytes"] == 12345 < runtime["containerFs"]["usedBytes"]
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
    assert container["memory"]["psi"] == {
        "full": {"total": 60, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0},
        "some": {"total": 70, "avg10": 1.5, "avg60": 0.0, "avg300": 0.0},
    }
    assert container["cpu"]["psi"]["some"]["total"] == 5
    assert container["io"]["psi"]["full"]["total"] == 7
    assert container["swap"]["swapAvailableBytes"] == 10
    rootfs = container["rootfs"]
    assert (rootfs["usedBytes"], rootfs["inodesUsed"], rootfs["time"]) == (4096, 2, "2027-01-15T08:00:00Z")
    assert (container["logs"]["usedBytes"], container["logs"]["inodesUsed"]) == (111, 2)
    (volume,) = pod["volume"]
    assert volume["name"] == "cache"
    assert volume["usedBytes"] >= 8192
    assert volume["inodesUsed"] == 2
    assert pod["ephemeral-storage"]["usedBytes"] == volume["usedBytes"] + 4096 + 111


def test_only_cpu_and_memory(site: Site, walks: Walks) -> None:
    found = Summary(site, walks).make(snapshot(0), [RECORD], None, brief=True)
    assert set(found["node"]) == {"nodeName", "startTime", "cpu", "memory", "swap", "systemContainers"}
    (pod,) = found["pods"]
    assert set(pod) == {"podRef", "startTime", "containers", "cpu", "memory", "swap"}
    assert set(pod["containers"][0]) == {"name", "startTime", "cpu", "memory", "swap"}
    assert "usageNanoCores" not in pod["cpu"]  # one look is no rate


def test_rates_of_quick_questions_reach_back(site: Site, walks: Walks) -> None:
    summary = Summary(site, walks)
    for second in range(12):
        found = summary.make(snapshot(second, cpu=second * 1_000_000_000), [RECORD], None, brief=True)
        rate = found["pods"][0]["cpu"].get("usageNanoCores")
        assert rate == (None if second == 0 else 2_000_000_000)


def test_a_burst_counts_the_same_whenever_it_is_asked_for(site: Site, walks: Walks) -> None:
    summary = Summary(site, walks)
    for second in range(12):
        summary.make(snapshot(second), [RECORD], None, brief=True)
    found = summary.make(snapshot(12, cpu=12_000_000_000), [RECORD], None, brief=True)
    assert found["pods"][0]["cpu"]["usageNanoCores"] == 2_000_000_000


def test_a_pod_that_is_gone_or_has_nothing_to_say_is_left_out(site: Site, walks: Walks) -> None:
    bare = replace(snapshot(0), samples=())
    dead = PodRecord(pod=POD, sandboxes=RECORD.sandboxes, containers=RECORD.containers[1:])
    assert Summary(site, walks).make(bare, [dead], None, brief=True)["pods"] == []


def test_what_is_not_counted_has_no_number(site: Site, tmp_path: Path) -> None:
    whole = filesystem(str(tmp_path), "now")
    for half in (None, Counted(1, 1, 0.0, whole=False)):
        assert "usedBytes" not in part_of(whole, half)
    assert part_of({}, Counted(1, 1, 0.0)) == {}
    never = Disks(site.root_dir, site.pod_logs_dir, None)
    (volume,) = (volume for volume, _ in never.volumes(UID, "now"))
    assert volume["capacityBytes"] > 0
    assert "usedBytes" not in volume


RECORDED = PodRecord(
    pod=PodIdentity("web-1", "default", UID),
    sandboxes=(SandboxRecord(id=recorded.SANDBOX, attempt=0, state=SandboxState.READY, created_at=WHEN),),
    containers=(
        ContainerRecord(
            id=recorded.APP, sandbox_id=recorded.SANDBOX, name="web", attempt=0, image="web:1",
            state=ContainerState.RUNNING, created_at=WHEN,
        ),
    ),
)  # fmt: skip
STALLED = "some avg10=1.00 avg60=0.50 avg300=0.10 total={0}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2\n"
PSI = {
    "full": {"total": 2, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0},
    "some": {"total": 1, "avg10": 1.0, "avg60": 0.5, "avg300": 0.1},
}


def golden(version: int) -> dict[str, object]:
    """A container's numbers as the recorded files have them; only version 2 tells pressure."""
    psi = {"psi": PSI} if version == 2 else {}
    return {
        "cpu": {"usageCoreNanoSeconds": 2_500_000_000, **psi},
        "memory": {
            "availableBytes": 56 << 20,
            "usageBytes": 10 << 20,
            "workingSetBytes": 8 << 20,
            "rssBytes": 5 << 20,
            "pageFaults": 300,
            "majorPageFaults": 3,
            **psi,
        },
        "swap": {**({"swapAvailableBytes": 64 << 20} if version == 1 else {}), "swapUsageBytes": 0},
        **({"io": psi} if psi else {}),
    }


@pytest.mark.parametrize("version", [1, 2])
def test_from_recorded_trees(tmp_path: Path, site: Site, walks: Walks, version: int) -> None:
    trees = (recorded.version1 if version == 1 else recorded.version2)(tmp_path / "cgroup")
    if version == 2:
        for group in (recorded.POD, f"{recorded.POD}/{recorded.APP}"):
            for resource in ("cpu", "memory", "io"):
                (tmp_path / "cgroup" / group / f"{resource}.pressure").write_text(STALLED.format(1))
    collector = Collector(lambda: identities([RECORDED], [], "pause:1"), "/", trees=trees)
    try:
        summary = Summary(replace(site, cgroup_root="/"), walks)
        whole = summary.make(collector.snapshot(WHOLE), [RECORDED], None, brief=False)
        brief = summary.make(collector.snapshot(BRIEF), [RECORDED], None, brief=True)
    finally:
        collector.close()
    for found in (whole, brief):
        json.dumps(found)
        (pod,) = found["pods"]
        (container,) = pod["containers"]
        assert container["name"] == "web"
        for each in (pod, container):
            wanted = golden(version)
            if found is brief:
                wanted.pop("io", None)
            told = {name: each[name] for name in ("cpu", "memory", "swap", "io") if name in each}
            assert {name: {k: v for k, v in part.items() if k != "time"} for name, part in told.items()} == wanted
        assert found["node"]["cpu"]["usageCoreNanoSeconds"] == 2_500_000_000
        assert found["node"]["memory"]["workingSetBytes"] > 0
        assert found["node"]["systemContainers"][0]["memory"]["usageBytes"] == 10 << 20
    assert whole["pods"][0]["process_stats"] == {"process_count": 3}
    assert set(whole["node"]) == {
        "nodeName", "startTime", "cpu", "memory", "swap", "systemContainers", "network", "fs", "rlimit",
    }  # fmt: skip
