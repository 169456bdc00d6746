"""Running other programs from the event loop, with a deadline and their words when they fail."""

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Completed:
    stdout: bytes
    stderr: bytes
    returncode: int


class CommandFailed(Exception):
    """A program that could not be started, ended non-zero or ran past its deadline (`returncode` None)."""

    def __init__(self, argv: Sequence[str], returncode: int | None, stderr: str) -> None:
        how = "did not end in time" if returncode is None else f"exit status {returncode}"
        super().__init__(f"{shlex.join(argv)}: {how}: {stderr.strip() or 'it said nothing'}")
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr


async def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,  # noqa: A002  subprocess's own name for it
    timeout: float = 30.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end; after `timeout` seconds it and its children are killed. Raises CommandFailed (with `check`;
    always when the program cannot be started or runs out of time)."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if input is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(env) if env is not None else None,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(argv, 127, f"{error.strerror}: {argv[0]}") from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(input)
    except TimeoutError as error:
        raise CommandFailed(argv, None, f"killed after {timeout:g} s") from error
    finally:
        if process.returncode is None:
            # With all that it started: a child that holds on to our pipes would keep us waiting for its own end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode is not None
    if check and process.returncode:
        raise CommandFailed(argv, process.returncode, err.decode(errors="replace"))
    return Completed(out, err, process.returncode)
