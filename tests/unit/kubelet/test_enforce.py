"""All pods together, held to what is not reserved."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from kube.errors import UsageError
from kubelet import config as door
from kubelet.config import Config
from kubelet.nodestatus.enforce import UNLIMITED, Enforcer, check, limits
from linux.cgroup import tree
from tests.unit.kubelet.test_node import GI, MACHINE


def held(**more: Any) -> tree.Limits:
    return limits(Config(kubeconfig="/k", **more), dataclasses.replace(MACHINE, pids=1000))


def test_what_is_reserved_is_kept_back_and_thresholds_are_not() -> None:
    assert held() == tree.Limits(cpu_shares=4096, memory_bytes=8 * GI, pids=UNLIMITED)
    reserved = held(kube_reserved={"cpu": "500m", "memory": "1Gi", "pid": "100"}, system_reserved={"memory": "1Gi"})
    assert reserved == tree.Limits(cpu_shares=3584, memory_bytes=6 * GI, pids=900)


def test_more_is_reserved_than_there_is() -> None:
    words = "kubeReserved, systemReserved: memory: 4Gi + 4Gi is reserved, and this machine has 8Gi; leave some for pods"
    reserved = {"memory": "4Gi"}
    with pytest.raises(UsageError, match=re.escape(words)):
        check(Config(kubeconfig="/k", kube_reserved=reserved, system_reserved=reserved), MACHINE)
    check(Config(kubeconfig="/k", kube_reserved=reserved), MACHINE)


def test_none_lifts_what_was_there() -> None:
    assert held(enforce_node_allocatable=("none",)) == tree.Limits(memory_bytes=UNLIMITED, pids=UNLIMITED)
    assert held(enforce_node_allocatable=()) == tree.Limits(memory_bytes=UNLIMITED, pids=UNLIMITED)


def test_groups_of_daemons_are_refused_in_words() -> None:
    config = Config(kubeconfig="/k", enforce_node_allocatable=("pods", "system-reserved"))
    with pytest.raises(UsageError, match=r"enforceNodeAllocatable: 'system-reserved': .*write \[pods\] or \[none\]"):
        door.check(config)


async def test_it_is_said_when_it_holds_and_when_it_does_not(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    (tmp_path / "memory").mkdir()
    trees = tree.Hierarchies({"memory": tmp_path / "memory"})
    wanted = tree.Limits(memory_bytes=1 << 30)
    enforcer = Enforcer(trees, "/kubepods", wanted, lambda kind, reason, _message: said.append((kind, reason)))
    file = tmp_path / "memory/kubepods/memory.limit_in_bytes"
    for _ in range(2):
        await enforcer.sync()
    assert file.read_text() == str(1 << 30)
    file.unlink()
    file.mkdir()  # as good a refusal as the kernel's
    for _ in range(2):
        await enforcer.sync()
    assert said == [("Normal", "NodeAllocatableEnforced"), ("Warning", "FailedNodeAllocatableEnforcement")]
