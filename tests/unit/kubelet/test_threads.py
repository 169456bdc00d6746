"""Calls that hang: what they hold up, and what they do not."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from kube.errors import Retry
from kubelet import threads
from kubelet.threads import Threads


class Filesystem:
    """It hangs until it answers; `calls` counts who went in."""

    def __init__(self) -> None:
        self.calls = 0
        self._answers = threading.Event()

    def call(self) -> str:
        self.calls += 1
        self._answers.wait(30)
        return "late"

    def answer(self) -> None:
        self._answers.set()


async def _gives_up(pool: Threads, what: str, work: Callable[[], str]) -> str:
    with pytest.raises(Retry) as found:
        await pool.do(what, work)
    return str(found.value)


async def test_a_pod_that_hangs_holds_one_thread_however_often_it_is_tried() -> None:
    pool, hangs = Threads(timeout=0.02), Filesystem()
    for _ in range(threads.AT_ONCE + 1):
        assert "volumes of hung: not done within 0.02 s" in await _gives_up(pool, "volumes of hung", hangs.call)
    assert hangs.calls == 1
    assert await pool.do("volumes of fine", lambda: "fine") == "fine"
    hangs.answer()
    pool.close()


async def test_many_that_hang_hold_up_nobody_else_and_there_is_an_end_to_them() -> None:
    pool, hangs, many = Threads(timeout=0.05, left_behind=20), Filesystem(), 20
    for batch in range(0, many, threads.AT_ONCE):
        names = [f"volumes of {n}" for n in range(batch, min(many, batch + threads.AT_ONCE))]
        await asyncio.gather(*(_gives_up(pool, name, hangs.call) for name in names))
        if batch + threads.AT_ONCE < many:
            assert await pool.do("volumes of fine", lambda: "fine") == "fine"
    assert hangs.calls == many
    assert "20 calls hang" in await _gives_up(pool, "volumes of fine", lambda: "fine")
    hangs.answer()
    pool.close()


async def test_once_it_answers_the_work_is_done_anew() -> None:
    pool, hangs = Threads(timeout=0.02), Filesystem()
    await _gives_up(pool, "volumes of p", hangs.call)
    pool._timeout = 30.0
    async with asyncio.TaskGroup() as group:
        again = group.create_task(pool.do("volumes of p", lambda: "new"))
        await asyncio.sleep(0)
        assert not again.done()
        hangs.answer()
    assert again.result() == "new"
    assert not pool._left
    pool.close()


async def test_what_is_cut_short_is_waited_for_too() -> None:
    pool, hangs = Threads(), Filesystem()
    async with asyncio.TaskGroup() as group:
        cut = group.create_task(pool.do("volumes of p", hangs.call))
        while not hangs.calls:
            await asyncio.sleep(0)
        cut.cancel()
        await asyncio.wait([cut])
        again = group.create_task(pool.do("volumes of p", lambda: "new"))
        await asyncio.sleep(0)
        assert list(pool._left) == ["volumes of p"]
        hangs.answer()
    assert again.result() == "new"
    pool.close()
