"""One overlay to a network namespace.

Everything on our devices that is not wanted is removed, and a device of ours with another name is a leftover: two daemons in
one namespace would take each other's devices away for ever, and --cleanup beside a daemon would be undone at once. So a daemon
holds a name that each namespace has once: an abstract Unix socket's. The kernel gives it back with the process, however
that ends. Anybody may take such a name, so a holder counts only when it is root, or runs as we do.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator

from kube.errors import UsageError

log = logging.getLogger(__name__)

NAME = "\0wherry-overlay"
_PATIENCE = 5.0
"""Seconds for which a predecessor that is being stopped is waited for."""
_PAUSE = 0.1
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@contextlib.asynccontextmanager
async def held(*, patience: float = _PATIENCE) -> AsyncIterator[None]:
    """This namespace is ours until the end of the block. Raises UsageError when another overlay keeps it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    with _socket() as door:
        while not _take(door):
            found = holder()
            if found is not None and not _counts(found[1]):
                log.warning("process %d of user %d holds this overlay's name and is not root: passed over", *found)
                yield
                return
            if loop.time() > deadline:
                raise UsageError(_words(found[0] if found else 0))
            await asyncio.sleep(_PAUSE)
        loop.add_reader(door, _answer, door)
        try:
            yield
        finally:
            loop.remove_reader(door)


def refuse() -> None:
    """Raises UsageError when an overlay keeps this namespace."""
    found = holder()
    if found is not None and _counts(found[1]):
        raise UsageError(_words(found[0]))


def holder() -> tuple[int, int] | None:
    """Process (0: of another pid namespace) and user of the overlay that keeps this network namespace."""
    with _socket() as caller:
        try:
            caller.connect(NAME)
        except OSError:
            return None
        process, user, _ = _CREDENTIALS.unpack(
            caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
    return process, user


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def _take(door: socket.socket) -> bool:
    try:
        door.bind(NAME)
    except OSError:
        return False
    door.listen()
    return True


def _answer(door: socket.socket) -> None:
    """Whoever calls has learnt from the kernel who we are."""
    with contextlib.suppress(OSError):
        door.accept()[0].close()


def _counts(user: int) -> bool:
    return user in (0, os.geteuid())


def _words(process: int) -> str:
    who = f"process {process}" if process else "in another container"
    return f"a wherry-overlay ({who}) keeps this network namespace already, and there can be one only: stop it first"
