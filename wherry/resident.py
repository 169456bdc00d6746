"""The CNI plugins' agent beside `wherry agent`: a child process, because its calls move threads between namespaces and must not
wait for the others' event loop.

It tells its state by sd_notify to a socket of ours, in the abstract namespace. It ends with us: by SIGTERM when we are
cancelled, by SIGKILL of the kernel's (setpriv) when we are killed.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from kube.errors import UsageError

_GOODBYE = 25.0  # seconds; it gives its calls twenty


def load(words: Sequence[str]) -> tuple[str, ...]:
    """Its flags, as its own door takes them: `wherry-cni-agent --help` has them. Raises UsageError."""
    for word in words:
        if word.partition("=")[0] not in ("--socket", "--run-dir") or "=" not in word:
            raise UsageError(f"{word}: expected --socket=PATH or --run-dir=PATH")
    return tuple(words)


async def run(words: tuple[str, ...], ready: Callable[[], None]) -> None:
    """Until it ends, which it does not by itself."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as told:
        name = f"wherry-agent-cni-{os.getpid()}"
        told.bind(f"\0{name}")
        tied = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        child = subprocess.Popen(  # noqa: ASYNC220  it returns once the child has exec'd
            [*tied, sys.executable, "-m", "cni.agent", *words], env={**os.environ, "NOTIFY_SOCKET": f"@{name}"}
        )
        pidfd = os.pidfd_open(child.pid)
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)

        def hear() -> None:
            if b"READY=1" in told.recv(4096):
                ready()

        loop.add_reader(told.fileno(), hear)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(told.fileno())
            if not ended.is_set():
                child.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(_GOODBYE):
                        await ended.wait()
                except TimeoutError:
                    child.kill()
            loop.remove_reader(pidfd)
            os.close(pidfd)
            child.wait()
