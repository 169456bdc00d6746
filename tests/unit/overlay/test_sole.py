"""One overlay to a network namespace: who holds the name, who is waited for, and who is passed over."""

import asyncio
import os
import socket
import uuid

import pytest

from kube.errors import UsageError
from overlay import sole


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name of this test's: a real daemon may run in this namespace."""
    made = f"\0wherry-test-{uuid.uuid4().hex}"
    monkeypatch.setattr(sole, "NAME", made)
    return made


async def test_a_second_one_is_refused_as_long_as_there_is_a_first() -> None:
    sole.refuse()
    async with sole.held():
        for _ in range(200):  # more than wait at a door that nobody opens
            assert sole.holder() == (os.getpid(), os.geteuid())
            await asyncio.sleep(0)
        with pytest.raises(UsageError, match=f"process {os.getpid()}.* stop it first"):
            async with sole.held(patience=0.0):
                raise AssertionError("there are two")
        with pytest.raises(UsageError, match="stop it first"):
            sole.refuse()
    sole.refuse()
    assert sole.holder() is None


async def test_a_predecessor_that_ends_is_waited_for() -> None:
    async with asyncio.TaskGroup() as group, asyncio.timeout(20):
        first, waits = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with sole.held():
                first.set()
                await waits.wait()

        async def follow() -> None:
            await first.wait()
            asyncio.get_running_loop().call_soon(waits.set)
            async with sole.held():
                pass

        group.create_task(hold())
        group.create_task(follow())


async def test_somebody_elses_socket_by_that_name_keeps_nobody_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole, "_counts", lambda user: False)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(name)
        theirs.listen()
        sole.refuse()
        async with sole.held():
            pass
