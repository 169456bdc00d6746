"""Kernel files, read again and again at the lowest price.

A pread on a descriptor that is kept open costs a sixth of what opening, reading and closing costs, so a group's frequent
files are held. Each held descriptor pins about 5 KiB of kernel memory, so there is a `Budget` for all of them; beyond it
files are opened for each reading. A group that is removed answers ENODEV on what is held: it is `Gone`.
"""

import errno
import os
import resource
from typing import Final

_MOST: Final = 8192
"""Descriptors that all groups together may hold: 40 MB of the kernel's memory."""
_SHARE: Final = 2
"""... and no more than this part of what the process may open: one half."""


class Gone(OSError):
    """The group was removed."""


class Budget:
    """Descriptors that may still be held."""

    __slots__ = ("left",)

    def __init__(self, left: int | None = None) -> None:
        self.left = min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE) if left is None else left


class Folder:
    """One group's directory in one hierarchy."""

    __slots__ = ("_budget", "_held", "path")

    def __init__(self, path: str, budget: Budget) -> None:
        self.path = path
        self._budget = budget
        self._held: dict[str, int] = {}

    def read(self, name: str, size: int = 1024) -> bytes | None:
        """The content of a file that is held from now on, or None where there is none. Raises Gone."""
        handle = self._held.get(name)
        if handle is None:
            if self._budget.left <= 0:
                return self.once(name)
            try:
                handle = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            self._budget.left -= 1
            self._held[name] = handle
        try:
            data = os.pread(handle, size, 0)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise Gone(errno.ENODEV, f"cgroup {self.path} was removed") from error
            return None
        return data if len(data) < size else self.read(name, size * 8)

    def once(self, name: str) -> bytes | None:
        """The content of a file that is seldom asked for."""
        return content(f"{self.path}/{name}")

    @property
    def descriptors(self) -> int:
        return len(self._held)

    def close(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])
            self._budget.left += 1


def content(path: str, folder: int | None = None) -> bytes | None:
    """A kernel file's content, or None where it cannot be read; `path` may be relative to an open directory."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        found = os.read(handle, 1 << 14)
        while found and (more := os.read(handle, 1 << 16)):  # files of many lines come in pieces
            found += more
    except OSError:
        return None
    else:
        return found
    finally:
        os.close(handle)


def text(path: str) -> str | None:
    found = content(path)
    return None if found is None else found.decode("ascii", "replace")


def number(data: bytes | None) -> int | None:
    """What a file of one number says; None for `max` and for what is none."""
    try:
        return int(data) if data else None
    except ValueError:
        return None


def field(data: bytes, key: bytes) -> int:
    """The number behind `key` (a newline, the name, a blank) in lines of `name value`; 0 where there is none."""
    at = data.find(key)
    if at < 0:
        return 0
    at += len(key)
    try:
        return int(data[at : data.find(b"\n", at)])
    except ValueError:
        return 0


def pairs(data: bytes | None) -> dict[bytes, bytes]:
    """Short files of `name value` lines."""
    words = data.split() if data else ()
    return dict(zip(words[::2], words[1::2], strict=False))
