"""What is read, held and closed: descriptors within their budget, parts only when wanted, a group that goes while it is read."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from linux.cgroup import files, pressure
from linux.cgroup.files import Budget, Gone
from linux.cgroup.tree import Hierarchies
from linux.cgroup.usage import Stall
from metrics import observe, processes
from metrics.collector import EVERYTHING, MIXIN, Collector, Identity, Part, Sample, Snapshot
from metrics.identities import identity
from tests.unit.metrics import recorded

LABELS = {"io.kubernetes.pod.uid": "11111111-2222-3333-4444-555555555555", "io.kubernetes.pod.name": "web-1"}
KNOWN = {
    recorded.SANDBOX: identity(recorded.SANDBOX, "k8s_POD_web-1_default_u_0", "pause:1", LABELS, 100.0),
    recorded.APP: identity(recorded.APP, "web", "web:1", {**LABELS, "io.kubernetes.container.name": "web"}, 101.0),
}


def known() -> dict[str, Identity]:
    return KNOWN


def of(snapshot: Snapshot, name: str) -> Sample:
    return next(s for s in snapshot.samples if s.path.endswith(name))


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def trees(request: pytest.FixtureRequest, tmp_path: Path) -> Hierarchies:
    return recorded.version1(tmp_path) if request.param == 1 else recorded.version2(tmp_path)


@pytest.fixture
def collector(trees: Hierarchies) -> Iterator[Collector]:
    one = Collector(known, "/", trees=trees, fresh=-1.0)
    yield one
    one.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_only_what_is_wanted_is_read(collector: Collector) -> None:
    lean = of(collector.snapshot(MIXIN), recorded.APP)
    assert lean.usage.cpu
    assert lean.usage.cpu.periods == 40
    assert lean.usage.memory
    assert (lean.usage.memory.max_usage, lean.usage.pids, lean.usage.oom_kills, lean.usage.pressure) == (
        None,
        None,
        None,
        None,
    )
    assert lean.processes is None
    whole = of(collector.snapshot(EVERYTHING), recorded.APP)
    assert whole.usage.cpu
    assert whole.usage.cpu.user_ns == 1_500_000_000
    assert whole.usage.memory
    assert whole.usage.memory.max_usage == 20 * 2**20
    assert (whole.usage.pids, whole.usage.oom_kills) == (3, 1)
    assert whole.processes
    assert whole.processes.processes == 1
    assert not collector.snapshot(frozenset({Part.CPU, Part.MEMORY})).samples[0].usage.io


def test_one_reading_serves_whoever_wants_no_more(trees: Hierarchies) -> None:
    one = Collector(known, "/", trees=trees)
    first = one.snapshot(MIXIN)
    assert one.snapshot(frozenset({Part.CPU})) is first
    more = one.snapshot(MIXIN | {Part.PIDS})
    assert more is not first
    assert one.snapshot(MIXIN) is more
    one.close()


def test_labels_and_limits_are_the_same_objects_until_they_change(collector: Collector, trees: Hierarchies) -> None:
    first, second = (of(collector.snapshot(), recorded.APP) for _ in range(2))
    assert first.labels is second.labels
    assert first.usage.limits is second.usage.limits
    mount = trees.unified or trees.controllers["memory"]
    name = "memory.max" if trees.unified else "memory.limit_in_bytes"
    (mount / recorded.POD / recorded.APP / name).write_text("134217728\n")
    assert of(collector.snapshot(), recorded.APP).usage.limits.memory_bytes == 2**27


def test_at_most_six_descriptors_a_container_and_none_when_it_is_closed(trees: Hierarchies) -> None:
    before = descriptors()
    one = Collector(known, "/", trees=trees, fresh=-1.0)
    one.snapshot()
    assert 0 < one.descriptors <= 6 * len(one.snapshot().samples)
    one.close()
    assert descriptors() == before


def test_beyond_the_budget_files_are_opened_each_time(trees: Hierarchies) -> None:
    plenty, none = (Collector(known, "/", trees=trees, fresh=-1.0, budget=Budget(size)) for size in (1000, 0))
    assert [s.usage for s in plenty.snapshot().samples[1:]] == [s.usage for s in none.snapshot().samples[1:]]
    assert none.descriptors == 0
    plenty.close()
    none.close()


def test_a_container_that_went_gives_its_descriptors_back(collector: Collector, trees: Hierarchies) -> None:
    collector.snapshot()
    before = collector.descriptors
    for mount in trees.roots():
        shutil.rmtree(mount / recorded.POD / recorded.APP)
    after = collector.snapshot()
    assert not [s for s in after.samples if s.path.endswith(recorded.APP)]
    assert not after.failed
    assert collector.descriptors < before


def test_a_group_that_goes_while_it_is_read_is_no_error(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    collector.snapshot()
    read = files.Folder.read

    def gone(self: files.Folder, name: str, size: int = 1024) -> bytes | None:
        if self.path.endswith(recorded.APP) and "memory" in name:
            raise Gone(19, "No such device")
        return read(self, name, size)

    monkeypatch.setattr(files.Folder, "read", gone)
    snapshot = collector.snapshot()
    assert not snapshot.failed
    assert {s.path for s in snapshot.samples} >= {"/", f"/{recorded.POD}", f"/{recorded.POD}/{recorded.SANDBOX}"}
    assert not [s for s in snapshot.samples if s.path.endswith(recorded.APP)]
    monkeypatch.undo()
    assert of(collector.snapshot(), recorded.APP).usage.memory


def test_services_are_there_when_asked_for(trees: Hierarchies) -> None:
    plain = Collector(dict, "/", trees=trees)
    every = Collector(dict, "/", trees=trees, services=True)
    some = Collector(known, "/", trees=trees, services=True, prefixes=("/user.slice", "/system.sl"))
    assert not [s for s in plain.snapshot().samples if s.kind in ("service", "container")]
    assert {s.path for s in every.snapshot().samples if s.kind == "service"} == {"/system.slice"}
    assert of(every.snapshot(), recorded.APP).labels["name"] == ""  # nobody's, and yet there
    assert [s.path for s in some.snapshot().samples if s.kind == "service"] == ["/system.slice"]
    for one in (plain, every, some):
        one.close()


def test_a_runtime_may_know_a_group_by_any_name(trees: Hierarchies) -> None:
    one = Collector(lambda: {"system.slice": identity("system.slice", "mine", "busybox", {}, 1.0)}, "/", trees=trees)
    sample = of(one.snapshot(), "system.slice")
    assert (sample.kind, sample.labels["name"], sample.labels["image"]) == ("container", "mine", "busybox")
    one.close()


def test_kinds_and_whose_they_are(collector: Collector) -> None:
    snapshot = collector.snapshot()
    assert {s.path.rsplit("/", 1)[-1][:8]: s.kind for s in snapshot.samples} == {
        "": "root",
        "kubepods": "qos",
        "burstabl": "qos",
        "pod11111": "pod",
        "aaaaaaaa": "sandbox",
        "bbbbbbbb": "container",
    }
    pod = of(snapshot, recorded.POD)
    assert pod.identity is KNOWN[recorded.SANDBOX]
    assert (pod.labels["pod"], pod.labels["image"], pod.labels["name"]) == ("web-1", "", "")


def test_a_runtime_in_trouble_is_said(trees: Hierarchies) -> None:
    one = Collector(known, "/", trees=trees, status=lambda: ("Docker does not answer", "29.0.1"))
    assert one.snapshot().failed
    assert one.snapshot().runtime_version == "29.0.1"
    assert of(one.snapshot(), recorded.APP).usage.memory
    one.close()


def test_a_hybrid_machine_has_pressure(tmp_path: Path) -> None:
    plain = recorded.version1(tmp_path / "v1")
    recorded.version2(tmp_path / "v2")
    one = Collector(known, "/", trees=Hierarchies(plain.controllers, None, (), tmp_path / "v2"))
    stalls = of(one.snapshot(), recorded.APP).usage.pressure
    assert stalls
    assert stalls.cpu
    assert (stalls.cpu.some_us, stalls.cpu.full_us, stalls.cpu.some_avg10) == (1_500_000, 250_000, 1.5)
    one.close()


@pytest.mark.parametrize("content", [None, b"", b"some\n", b"some total=x avg10=1\n", b"full avg10=0.00 total=3\n"])
def test_pressure_that_is_not_there(content: bytes | None) -> None:
    assert pressure.parse(content) is None


def test_pressure_of_a_machines_processors_is_some_only() -> None:
    assert pressure.parse(b"some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n") == Stall(
        4, 0, some_avg10=1.0, some_avg60=2.0, some_avg300=3.0
    )


def test_a_files_lines_beyond_a_read_are_there(tmp_path: Path) -> None:
    (tmp_path / "io.stat").write_text("".join(f"8:{i} rbytes=1 wbytes=2 rios=3 wios=4\n" for i in range(500)))
    folder = files.Folder(str(tmp_path), Budget(10))
    data = folder.read("io.stat", 1024)
    assert data
    assert data.count(b"\n") == 500
    folder.close()


def test_our_own_processes() -> None:
    with open("/dev/null"):
        found = processes.count([os.getpid()])
        assert found.descriptors == len(os.listdir("/proc/self/fd")) - 1
    assert found.ulimits["max_open_files"] > 0
    assert found.sockets is not None
    assert processes.count([2**22 + 1]).processes == 1  # gone: it had nothing


def test_a_hierarchy_in_which_the_runtime_is_late(tmp_path: Path) -> None:
    """Version 1: the group is there in one hierarchy before it is in the next; what it may use is read once it is."""
    trees = recorded.version1(tmp_path)
    late, away = tmp_path / "cpu" / recorded.POD / recorded.APP, tmp_path / "away"
    late.rename(away)
    one = Collector(known, "/", trees=trees, fresh=-1.0)
    assert of(one.snapshot(), recorded.APP).usage.limits.cpu_quota_us is None
    shutil.copytree(away, late)
    assert of(one.snapshot(), recorded.APP).usage.limits.cpu_quota_us == 20000
    first, second = (of(one.snapshot(), recorded.APP).usage.limits for _ in range(2))
    assert first is second
    (late / "cpu.cfs_quota_us").write_text("30000\n")
    (tmp_path / "pids" / recorded.POD / recorded.APP / "pids.max").write_text("77\n")
    changed = of(one.snapshot(), recorded.APP).usage.limits
    assert (changed.cpu_quota_us, changed.pids) == (30000, 77)
    one.close()


def test_a_name_that_is_no_text_is_written_as_one(tmp_path: Path) -> None:
    trees = recorded.version2(tmp_path)
    for name in (b"x-\xff", b"x-\xfe", "gr\u00fc\u00df".encode()):
        shutil.copytree(tmp_path / "system.slice", tmp_path / os.fsdecode(name))
    one = Collector(dict, "/", trees=trees, services=True)
    found = {s.path: s.usage.memory for s in one.snapshot().samples if s.kind == "service"}
    assert set(found) == {"/system.slice", "/x-\\xff", "/x-\\xfe", "/gr\u00fc\u00df"}
    assert all(found.values())
    assert all(path.encode() for path in found)
    one.close()


def test_a_process_with_many_interfaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives files of many lines in pieces of a page."""
    read, pieces = os.read, []

    def by_the_page(handle: int, size: int) -> bytes:
        pieces.append(read(handle, min(size, 4096)))
        return pieces[-1]

    header = "Inter-|   Receive\n face |bytes\n"
    (tmp_path / "dev").write_text(header + "".join(f"  veth{i}: {'7 ' * 16}\n" for i in range(200)))
    monkeypatch.setattr(os, "read", by_the_page)
    assert len(observe.parse_interfaces(files.content(str(tmp_path / "dev")) or b"")) == 200
    assert len(pieces) > 2


@pytest.mark.parametrize(
    ("where", "device", "kind", "believed"),
    [
        ("/", "/dev/null", "ext4", False),  # something else answers there: it was mounted over
        ("/", "/dev/nowhere", "ext4", True),
        ("/", "/dev/null", "btrfs", True),
    ],
)
def test_only_the_device_itself_speaks_for_its_size(where: str, device: str, kind: str, believed: bool) -> None:
    assert observe._shows(where, device, kind) is believed


def test_a_root_that_is_not_there_is_said(trees: Hierarchies, caplog: pytest.LogCaptureFixture) -> None:
    one = Collector(known, "/nope", trees=trees, fresh=-1.0)
    for _ in range(3):
        assert one.snapshot().failed
    assert [record.getMessage() for record in caplog.records] == [
        "no cgroup /nope: nothing can be read until there is (--cgroup-root)"
    ]
    one.close()
