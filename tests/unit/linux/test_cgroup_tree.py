"""The layout of both versions, on directories that stand for the kernel's."""

from pathlib import Path

import pytest

from linux.cgroup import tree
from linux.cgroup.tree import Hierarchies, Limits

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
"""
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_hybrid_is_version_1() -> None:
    found = tree.hierarchies(V1)
    assert found.version == 1
    assert found.controllers["cpu"] == found.controllers["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert found.others == (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))
    assert len(found.roots()) == 4


def test_unified_is_version_2() -> None:
    found = tree.hierarchies(V2)
    assert found.version == 2
    assert found.roots() == (Path("/sys/fs/cgroup"),)


def test_weight_is_the_kubelets_linear_formula() -> None:
    assert tree.weight(2) == 1
    assert tree.weight(1024) == 39
    assert tree.weight(262144) == 10000


def v1(root: Path) -> Hierarchies:
    controllers = {name: root / name for name in ("cpu", "memory", "pids")}
    for path in (*controllers.values(), root / "systemd"):
        path.mkdir()
    return Hierarchies(controllers, None, (root / "systemd",))


def test_create_v1_writes_each_limit_where_its_controller_is(tmp_path: Path) -> None:
    trees = v1(tmp_path)
    tree.create(trees, "/k/pod1", Limits(cpu_shares=512, cpu_quota_us=50_000, memory_bytes=1 << 20, pids=-1))
    assert (tmp_path / "cpu/k/pod1/cpu.shares").read_text() == "512"
    assert (tmp_path / "cpu/k/pod1/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "memory/k/pod1/memory.limit_in_bytes").read_text() == "1048576"
    assert (tmp_path / "pids/k/pod1/pids.max").read_text() == "max"
    assert not (tmp_path / "systemd/k").exists()


def test_create_v2_turns_controllers_on_from_the_top(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "k"):
        path.mkdir(exist_ok=True)
        (path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
        (path / "cgroup.subtree_control").write_text("memory\n")
    tree.create(Hierarchies(unified=tmp_path), "/k/pod1", Limits(cpu_shares=1024, cpu_quota_us=0, memory_bytes=1 << 20))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +pids +cpuset +io"
    assert (tmp_path / "k/pod1/cpu.weight").read_text() == "39"
    assert (tmp_path / "k/pod1/cpu.max").read_text() == "max 100000"
    assert (tmp_path / "k/pod1/memory.max").read_text() == "1048576"


def test_remove_clears_every_hierarchy_and_is_done_when_there_is_nothing(tmp_path: Path) -> None:
    trees = v1(tmp_path)
    for top in ("cpu", "memory", "systemd"):
        (tmp_path / top / "k/pod1/container").mkdir(parents=True)
    assert tree.children(trees, "/k") == {"pod1"}
    assert tree.exists(trees, "/k/pod1")
    tree.remove(trees, "/k/pod1")
    tree.remove(trees, "/k/pod1")
    assert not tree.exists(trees, "/k/pod1")
    assert (tmp_path / "cpu/k").is_dir()


def test_remove_of_a_busy_group_says_so(tmp_path: Path) -> None:
    trees = v1(tmp_path)
    (tmp_path / "cpu/k/pod1").mkdir(parents=True)
    (tmp_path / "cpu/k/pod1/held").write_text("what rmdir of a group with processes looks like from here")
    with pytest.raises(tree.CgroupBusy, match="pod1"):
        tree.remove(trees, "/k/pod1")


@pytest.mark.parametrize("path", ["/", "", "/k/../../etc"])
def test_only_groups_below_the_root_have_names(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="below the root"):
        tree.remove(v1(tmp_path), path)
