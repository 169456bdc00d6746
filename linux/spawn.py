"""Running another program to its end from a process that lives for 20 ms: `subprocess` alone is 25 ms of imports.

Input and output are files in memory, so nobody has to read while the other writes, and a grandchild that keeps them open
holds up nobody. The child stands in the network namespace of the thread that calls. Daemons have an event loop, and
`linux.process` for it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are when nobody says."""

_SIGPIPE, _SIGKILL = 13, 9


class Ended:
    """How a program ended; the status of one that a signal ended is negative."""

    __slots__ = ("argv", "status", "stderr", "stdout")

    def __init__(self, argv: Sequence[str], status: int, stdout: bytes, stderr: bytes) -> None:
        self.argv: Final = tuple(argv)
        self.status: Final = status
        self.stdout: Final = stdout
        self.stderr: Final = stderr

    def __str__(self) -> str:
        """What it was and what it said, in one line."""
        said = b" ".join((self.stderr or self.stdout).split()).decode(errors="replace")
        return f"{' '.join(self.argv)}: exit status {self.status}: {said or 'it said nothing'}"


def find(name: str, path: str = "") -> str | None:
    """The program of this name on the search path, None where there is none."""
    for folder in (path or os.environ.get("PATH") or PATH).split(":"):
        program = os.path.join(folder, name)
        if os.access(program, os.X_OK) and not os.path.isdir(program):
            return program
    return None


def run(
    argv: Sequence[str],
    stdin: bytes = b"",
    *,
    timeout: float = 60.0,
    environment: Mapping[str, str] | None = None,
    kept: Sequence[int] = (),
) -> Ended:
    """``argv[0]`` is a path. After `timeout` seconds it is killed: TimeoutError. OSError when it cannot be started.
    `environment` is the whole one; this process' own where it is None. The program has the files `kept` open too, as numbers 3
    and on: what is locked by them stays so while it runs, even without us."""
    files = [os.memfd_create("stdin"), os.memfd_create("stdout"), os.memfd_create("stderr")]
    try:
        _write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            os.environ if environment is None else environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate((*files, *kept))],
            setsigdef=[_SIGPIPE],  # the interpreter ignores it, and a child would inherit that
        )
        status = _ended(pid, argv, timeout)
        return Ended(argv, status, _content(files[1]), _content(files[2]))
    finally:
        for file in files:
            os.close(file)


def _ended(pid: int, argv: Sequence[str], timeout: float) -> int:
    import select

    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        late = not poll.poll(timeout * 1000)
        if late:
            os.kill(pid, _SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(descriptor)
    if late:
        raise TimeoutError(f"{' '.join(argv)}: did not end within {timeout:g} s and was killed")
    return os.waitstatus_to_exitcode(status)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _content(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0) if size else b""
