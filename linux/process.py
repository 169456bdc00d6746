"""Running other programs from the event loop, with a deadline and their words when they fail.

Not by asyncio's subprocesses: uvloop forks, which in a process of 60 MB stops the loop for 15 ms and more, where vfork (Popen's
way) takes 0.2. Input and output are files in memory: they need no reader, and a grandchild that keeps them open holds up nobody.
A pidfd tells of the end.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO


async def run_all(commands: Iterable[Sequence[str]], *, timeout: float = 30.0) -> None:
    """Run programs to their ends, side by side. Raises CommandFailed for the first that fails, when the others are ended too."""
    try:
        async with asyncio.TaskGroup() as group:
            for argv in commands:
                group.create_task(run(argv, timeout=timeout))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


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
    input: bytes | Iterable[bytes] | None = None,  # noqa: A002  subprocess's own name for it
    timeout: float = 30.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    started: Callable[[int], None] | None = None,
) -> Completed:
    """Run a program to its end; after `timeout` seconds it and its children are killed. `started` hears its process id.
    Raises CommandFailed (with `check`; always when the program cannot be started or runs out of time)."""
    with contextlib.ExitStack() as stack:
        given, out, err = (_memory(stack) for _ in range(3))
        for piece in (input or b"",) if isinstance(input, bytes | None) else input:
            given.write(piece)
        given.seek(0)
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  it returns once the child has exec'd
                argv, stdin=given, stdout=out, stderr=err, env=env, start_new_session=True
            )
        except OSError as error:
            raise CommandFailed(argv, 127, f"{error.strerror}: {argv[0]}") from error
        if started is not None:
            started(process.pid)
        try:
            async with asyncio.timeout(timeout):
                await _ended(process.pid)
        except TimeoutError as error:
            raise CommandFailed(argv, None, f"killed after {timeout:g} s") from error
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await _ended(process.pid)
            code = process.wait()
        found = Completed(_content(out), _content(err), code)
    if check and code:
        raise CommandFailed(argv, code, found.stderr.decode(errors="replace"))
    return found


def _memory(stack: contextlib.ExitStack) -> BinaryIO:
    return stack.enter_context(os.fdopen(os.memfd_create("output"), "w+b", buffering=0))


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


async def _ended(pid: int) -> None:
    """Of a child that nobody has waited for yet."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
