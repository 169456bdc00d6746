"""Mounts: what is mounted where, tmpfs and bind mounts, and removing directories without ever crossing into one.
 `/proc/self/mountinfo` is the truth (stat's device number misses bind mounts within one filesystem). The deletion here
exists because a node agent deletes as root in directories where other people's data may be mounted (NFS, a hostPath
bind): it looks first, refuses to descend into anything mounted below, and tells which mount stood in the way.
"""

import ctypes
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


class StillMounted(OSError):
    """A directory that should go still has something mounted on or below it."""


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    source: str
    root: str


def _unescape(text: str) -> str:
    # The kernel writes blanks and backslashes of paths as octal: \040 \011 \012 \134.
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def parse(mountinfo: str) -> tuple[Mount, ...]:
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        found.append(Mount(_unescape(left[4]), right[0], _unescape(right[1]), _unescape(left[3])))
    return tuple(found)


def table() -> tuple[Mount, ...]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def below(path: str, mounts: Sequence[Mount] | None = None) -> tuple[Mount, ...]:
    """Mounts on `path` or under it, deepest first: the order in which they come off."""
    top = os.path.realpath(path)
    found = [m for m in (table() if mounts is None else mounts) if m.point == top or m.point.startswith(top + "/")]
    return tuple(sorted(found, key=lambda mount: mount.point.count("/"), reverse=True))


def mounted_at(path: str, mounts: Sequence[Mount] | None = None) -> Mount | None:
    """What is mounted exactly at `path` (the topmost, if several), or None."""
    top = os.path.realpath(path)
    found = [mount for mount in (table() if mounts is None else mounts) if mount.point == top]
    return found[-1] if found else None


_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() if data else None
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or 'bind'} on {target}: {os.strerror(number)}")


def tmpfs(target: str, *, size_bytes: int | None = None, mode: int = 0o777, executable: bool = True) -> None:
    """Mount a tmpfs on an existing directory."""
    options = [f"mode={mode:o}"] + ([f"size={size_bytes}"] if size_bytes else [])
    flags = MS_NOSUID | MS_NODEV | (0 if executable else MS_NOEXEC)
    _mount("tmpfs", target, "tmpfs", flags, ",".join(options))


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    _mount(source, target, "", MS_BIND, "")
    if read_only:
        _mount("none", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY, "")


def unmount(target: str, *, lazy: bool = False) -> None:
    """Take the topmost mount off; nothing mounted there is success."""
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)) == 0:
        return
    number = ctypes.get_errno()
    if number not in (22, 2):  # EINVAL: not a mount point. ENOENT: gone.
        raise OSError(number, f"umount {target}: {os.strerror(number)}")


def remove_tree(path: str) -> None:
    """Delete a directory and all in it, unless anything is mounted on or below it: then raise StillMounted and delete
    nothing.

    Absent is done. Symbolic links are removed, never followed."""
    if not os.path.lexists(path):
        return
    if os.path.islink(path):
        os.unlink(path)
        return
    held = below(path)
    if held:
        raise StillMounted(16, f"not deleting {path}: {held[0].kind} is mounted at {held[0].point}")
    shutil.rmtree(path)
