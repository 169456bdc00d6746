"""What is asked for the Node's status, of a runtime and a disk that may hang."""

import asyncio
import threading
from typing import Any

import pytest

from kubelet.config import Config
from kubelet.nodestatus import machine, witness
from kubelet.nodestatus.machine import Pressure
from kubelet.nodestatus.witness import Witness
from tests.fakes.runtime import FakeRuntime
from tests.unit.kubelet.test_node import MACHINE


def asking(runtime: FakeRuntime) -> Witness:
    return Witness(Config(kubeconfig="/k", root_dir="/"), "n", ("10.0.0.1",), MACHINE, runtime)


async def test_a_disk_that_hangs_costs_one_thread_and_no_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    answers = threading.Event()

    def pressure(*_: object) -> Pressure:
        calls.append(None)
        if len(calls) > 1:
            answers.wait(10)
        return Pressure(disk=True)

    monkeypatch.setattr(machine, "pressure", pressure)
    monkeypatch.setattr(witness, "PATIENCE", 0.02)
    found = asking(FakeRuntime())
    try:
        for _ in range(4):
            assert await found.pressure() == Pressure(disk=True)
        assert len(calls) == 2
    finally:
        answers.set()
    async with asyncio.timeout(5):
        while len(calls) < 3:
            await found.pressure()


async def test_a_runtime_that_is_down_leaves_gaps() -> None:
    runtime = FakeRuntime()
    runtime.down = True
    found = asking(runtime)
    assert (await found.portrait()).version is None
    assert await found.images() == ()
    runtime.down = False
    version = (await found.portrait()).version
    assert version is not None
    assert version.name == "docker"
    assert len(await found.images()) == 1
