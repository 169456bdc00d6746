"""From files to text: both cgroup versions say the same, under cAdvisor's names, with the labels people join on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from linux.cgroup.tree import Hierarchies
from metrics.collector import Collector
from metrics.exposition import FULL, Page
from metrics.identities import identity
from metrics.model import Identity, Snapshot
from metrics.observe import parse_interfaces
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

Series = dict[tuple[str, str, tuple[tuple[str, str], ...]], float]


def whole(snapshot: Snapshot) -> str:
    """Its page with all families."""
    return Page(FULL).text(snapshot).decode()


def known() -> dict[str, Identity]:
    return KNOWN


def series(text: str) -> Series:
    """Value by (metric, container label, the labels that are not the six)."""
    found: Series = {}
    six = ("container", "id", "image", "name", "namespace", "pod")
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("id", "").endswith(recorded.APP):
                extra = tuple(sorted((k, v) for k, v in sample.labels.items() if k not in six))
                found[sample.name, sample.labels["container"], extra] = sample.value
    return found


@pytest.fixture(params=[recorded.version1, recorded.version2], ids=["v1", "v2"])
def collector(request: pytest.FixtureRequest, tmp_path: Path) -> Collector:
    make: Callable[[Path], Hierarchies] = request.param
    return Collector(known, "/", trees=make(tmp_path))


def test_values(collector: Collector) -> None:
    found = series(whole(collector.snapshot()))
    expected = {
        ("container_cpu_usage_seconds_total", (("cpu", "total"),)): 2.5,
        ("container_cpu_user_seconds_total", ()): 1.5,
        ("container_cpu_system_seconds_total", ()): 0.8,
        ("container_cpu_cfs_periods_total", ()): 40,
        ("container_cpu_cfs_throttled_seconds_total", ()): 0.9,
        ("container_memory_usage_bytes", ()): 10 * 2**20,
        ("container_memory_working_set_bytes", ()): 8 * 2**20,
        ("container_memory_rss", ()): 5 * 2**20,
        ("container_memory_cache", ()): 4 * 2**20,
        ("container_memory_max_usage_bytes", ()): 20 * 2**20,
        ("container_spec_memory_limit_bytes", ()): 64 * 2**20,
        ("container_spec_cpu_quota", ()): 20000,
        ("container_threads", ()): 3,
        ("container_start_time_seconds", ()): 101,
    }
    for (name, extra), value in expected.items():
        assert found[name, "web", extra] == pytest.approx(value), name
    io = {name: value for (name, _, _), value in found.items() if name.startswith("container_fs_")}
    assert io == {
        "container_fs_reads_bytes_total": 4096,
        "container_fs_reads_total": 1,
        "container_fs_writes_bytes_total": 8192,
        "container_fs_writes_total": 2,
    }


def test_labels(collector: Collector) -> None:
    text = whole(collector.snapshot())
    who = 'image="web:1",name="k8s_web_web-1_default_u_0",namespace="default",pod="web-1"'
    app = f'container="web",id="/{recorded.POD}/{recorded.APP}",{who}'
    assert f"container_memory_rss{{{app}}}" in text
    # A pod's own cgroup: pod and namespace, no image, so that sums over containers leave it out.
    assert (
        f'container_memory_rss{{container="",id="/{recorded.POD}",image="",name="",namespace="default",pod="web-1"}}'
        in text
    )
    assert "system.slice" not in text


def test_a_container_of_another_node_is_not_reported(tmp_path: Path) -> None:
    snapshot = Collector(dict, "/", trees=recorded.version2(tmp_path)).snapshot()
    assert not [s for s in snapshot.samples if s.path.endswith(recorded.APP)]


def test_scrapes_within_a_second_share_one_reading(collector: Collector) -> None:
    assert collector.snapshot() is collector.snapshot()


def test_label_values_are_escaped(tmp_path: Path) -> None:
    nasty = 'a "quoted"\nname\\' + "x" * 4096
    odd = {recorded.APP: identity(recorded.APP, nasty, nasty, {}, None)}
    text = whole(Collector(lambda: odd, "/", trees=recorded.version2(tmp_path)).snapshot())
    names = {s.labels["name"] for f in text_string_to_metric_families(text) for s in f.samples if s.labels.get("image")}
    assert names == {nasty}


def test_interfaces() -> None:
    table = (
        "Inter-|   Receive  |  Transmit\n"
        " face |bytes  packets errs drop fifo frame compressed multicast|bytes  packets errs drop fifo colls carrier compressed\n"
        "  lo:  100  1  0  0  0  0  0  0  100  1  0  0  0  0  0  0\n"
        "  eth0:  1506  17  1  2  0  0  0  0  906  11  3  4  0  0  0  0\n"
    )
    (eth0,) = parse_interfaces(table.encode())
    assert (eth0.name, eth0.receive_bytes, eth0.receive_errors, eth0.receive_dropped) == ("eth0", 1506, 1, 2)
    assert (eth0.transmit_bytes, eth0.transmit_packets, eth0.transmit_errors, eth0.transmit_dropped) == (906, 11, 3, 4)


def test_the_root_of_either_version_has_memory(collector: Collector) -> None:
    root = next(s for s in collector.snapshot().samples if s.path == "/")
    assert root.usage.memory
    assert root.usage.memory.usage > 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("memory.current", "soon\n"),
        ("memory.current", ""),
        ("memory.stat", "anon\n\nfile many\n"),
        ("cpu.stat", "usage_usec\n"),
        ("cpu.max", "\n"),
        ("io.stat", "\n254:0\n254:0 rbytes=x wbytes=\n"),
        ("pids.current", "²\n"),
    ],
)
def test_a_file_that_is_not_as_the_kernels_never_breaks_a_scrape(tmp_path: Path, name: str, content: str) -> None:
    trees = recorded.version2(tmp_path)
    (tmp_path / recorded.POD / recorded.APP / name).write_text(content)
    snapshot = Collector(known, "/", trees=trees).snapshot()
    assert whole(snapshot)
    assert not snapshot.failed


def test_a_group_that_cannot_be_read_is_said_and_the_others_are_there(tmp_path: Path) -> None:
    trees = recorded.version2(tmp_path)
    for name in ("cpu.stat", "memory.current"):
        (tmp_path / recorded.POD / recorded.APP / name).unlink()
    snapshot = Collector(known, "/", trees=trees).snapshot()
    assert snapshot.failed
    assert "container_scrape_error 1" in whole(snapshot)
    assert [s for s in snapshot.samples if s.path.endswith(recorded.SANDBOX)]


def test_a_container_that_went_leaves_nothing_and_somebody_elses_is_no_error(tmp_path: Path) -> None:
    trees = recorded.version2(tmp_path)
    ours = Collector(lambda: {recorded.SANDBOX: KNOWN[recorded.SANDBOX]}, "/", trees=trees, fresh=0.0)
    assert not ours.snapshot().failed
    both = Collector(known, "/", trees=trees, fresh=-1.0)
    assert recorded.APP in whole(both.snapshot())
    shutil.rmtree(tmp_path / recorded.POD / recorded.APP)
    after = both.snapshot()
    assert recorded.APP not in whole(after)
    assert not after.failed
