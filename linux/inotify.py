"""inotify: a hint that something in a directory has changed; what, whoever is told looks for himself.

The standard library has none, and three calls of libc are all it takes. A directory that is removed takes its watch with
it; `watch` may be called again and again, the kernel keeps one watch for each inode.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Protocol

CHANGES = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""Written, its attributes changed, closed after writing, moved away or here, made, deleted, the directory itself gone."""
_NON_BLOCKING = os.O_NONBLOCK | os.O_CLOEXEC
_READ_SIZE = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class _Loop(Protocol):
    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...


class Inotify:
    """Use it as a context manager. Raises OSError when the kernel has no more instances to give."""

    def __init__(self, loop: _Loop, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        self._fd = -1

    def __enter__(self) -> "Inotify":
        self._fd = _libc.inotify_init1(_NON_BLOCKING)
        if self._fd < 0:
            raise _refusal("inotify_init1")
        self._loop.add_reader(self._fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def watch(self, path: str, mask: int = CHANGES) -> bool:
        """False when `path` is not there or may not be watched."""
        return bool(_libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask)) >= 0)

    def _read(self) -> None:
        try:
            while len(os.read(self._fd, _READ_SIZE)) == _READ_SIZE:
                pass
        except BlockingIOError:
            return
        self._changed()


def _refusal(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
