"""inotify: a hint that something in a directory has changed; what, whoever is told looks for himself.

The standard library has none, and three calls of libc are all it takes. A directory that is removed takes its watch with
it; `watch` may be called again and again, the kernel keeps one watch for each inode.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Protocol

MODIFIED, MADE, REMOVED = 0x2, 0x100 | 0x80, 0x200 | 0x40
ENDED = 0x8000
"""The watch is over: its directory is gone, or it was taken back."""
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


class Polled:
    """The same without a loop, for who looks now and then: `changes` since it was last asked, as (watch, mask, name). Close it.
    Raises OSError when the kernel has no more instances to give."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(_NON_BLOCKING)
        if self._fd < 0:
            raise _refusal("inotify_init1")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def watch(self, path: str, mask: int = CHANGES) -> int | None:
        """The watch's number; None when `path` is not there or may not be watched."""
        number = int(_libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask)))
        return number if number >= 0 else None

    def unwatch(self, number: int) -> None:
        _libc.inotify_rm_watch(self._fd, number)  # one that went with its directory is refused: as it should be

    def changes(self) -> list[tuple[int, int, str]] | None:
        """None: the kernel had more to say than it keeps (16,384 by default), and anything may have changed."""
        found: list[tuple[int, int, str]] = []
        lost = False
        while True:
            try:
                data = os.read(self._fd, _READ_SIZE)
            except BlockingIOError:
                return None if lost else found
            at = 0
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = data[at : at + length].rstrip(b"\0")
                at += length
                lost = lost or bool(mask & _OVERFLOW)
                found.append((number, mask, os.fsdecode(name)))


_EVENT = struct.Struct("iIII")
_OVERFLOW = 0x4000


def _refusal(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
