"""What is expected of the machine at the door."""

from pathlib import Path
from typing import Any

import pytest

from kube.errors import UsageError
from kubelet.config import Config
from kubelet.nodestatus import host


def proc(folder: Path, swap: str = "", **kernel: str) -> str:
    (folder / "swaps").write_text("Filename Type Size Used Priority\n" + swap)
    for name, wanted in host.KERNEL.items():
        path = folder / "sys" / Path(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kernel.get(name.replace(".", "_"), wanted) + "\n")
    return str(folder)


def check(folder: Path, **more: Any) -> None:
    host.check(Config(kubeconfig="/k", **more), str(folder), str(folder))


def test_swap_is_refused_unless_asked_for(tmp_path: Path) -> None:
    proc(tmp_path, "/dev/sda2 partition 1000 0 -2\n")
    with pytest.raises(UsageError, match=r"swap is on \(/dev/sda2\).*failSwapOn: false"):
        check(tmp_path)
    check(tmp_path, fail_swap_on=False)
    check(Path(proc(tmp_path)))


def test_cgroup_v1_is_refused_only_where_asked(tmp_path: Path) -> None:
    proc(tmp_path)
    check(tmp_path)
    with pytest.raises(UsageError, match="failCgroupV1"):
        check(tmp_path, fail_cgroup_v1=True)
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    check(tmp_path, fail_cgroup_v1=True)


def test_the_kernel_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    proc(tmp_path, vm_overcommit_memory="0")
    check(tmp_path)
    with pytest.raises(UsageError, match=r"vm\.overcommit_memory is 0, 1 is needed: sysctl -w"):
        check(tmp_path, protect_kernel_defaults=True)
    assert (tmp_path / "sys/vm/overcommit_memory").read_text() == "0\n"
