"""The watches of single objects: that they end when they are told to."""

import asyncio
from collections.abc import Callable

import pytest

from kubelet.observe import objects
from kubelet.volumes import References


class Slow:
    """A watch that takes its time to end."""

    def __init__(self, *_: object, **__: object) -> None:
        self.synced = asyncio.Event()

    def subscribe(self, tell: Callable[[object], None]) -> None: ...

    async def run(self) -> None:
        RUNNING.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            RUNNING.append("ending")
            await asyncio.sleep(0)
            await asyncio.sleep(0)


RUNNING: list[str] = []


async def until(word: str) -> None:
    while word not in RUNNING:
        await asyncio.sleep(0)


async def test_it_can_be_cancelled_while_it_ends_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "Informer", Slow)
    RUNNING.clear()
    subject = objects.Objects(None, lambda _uid: None, lambda: True)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(subject.run())
        subject.need("u", "d", References(config_maps=frozenset({"a"}), secrets=frozenset()))
        await until("begun")
        subject.forget("u")
        await until("ending")
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=1)
        task.cancel()
    assert done
