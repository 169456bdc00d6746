"""Programs run from the loop."""

import asyncio
import os
import time
from pathlib import Path

import pytest
import uvloop

from linux.process import CommandFailed, run, run_all


async def test_input_output_and_exit_code() -> None:
    done = await run(["sh", "-c", "cat; echo err >&2; echo $A; exit 3"], input=b"in\n", env={"A": "b"}, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"in\nb\n", b"err\n", 3)
    with pytest.raises(CommandFailed, match="sh -c 'echo no >&2; exit 1': exit status 1: no"):
        await run(["sh", "-c", "echo no >&2; exit 1"])
    with pytest.raises(CommandFailed, match="No such file"):
        await run(["/no/such/program"])


async def test_more_than_a_pipe_holds_both_ways() -> None:
    text = os.urandom(500_000)
    assert (await run(["cat"], input=text)).stdout == text


async def test_it_and_its_children_are_killed_when_time_is_up() -> None:
    begun = time.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end in time: killed after 0\.1 s") as failed:
        await run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.1)
    assert failed.value.returncode is None
    assert time.monotonic() - begun < 5


async def test_a_grandchild_that_keeps_the_output_holds_up_nobody() -> None:
    done = await run(["sh", "-c", "sleep 5 & echo $!"])
    os.kill(int(done.stdout), 9)


async def test_cancelled_is_killed() -> None:
    task = asyncio.get_running_loop().create_task(run(["sleep", "1000"]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_on_uvloop() -> None:
    assert uvloop.run(run(["echo", "x"])).stdout == b"x\n"


async def test_several_at_once_fail_as_one_does(tmp_path: Path) -> None:
    await run_all([["true"], ["sh", "-c", f"echo done > {tmp_path}/it"]])
    assert (tmp_path / "it").read_text() == "done\n"
    with pytest.raises(CommandFailed, match="exit status 3: no"):
        await run_all([["sleep", "60"], ["sh", "-c", "echo no >&2; exit 3"]])
