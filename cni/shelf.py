"""One directory of reservations as a process sees it: the lock that its threads share, and what the files said.

Between processes the lock is flock(2) on the file `lock`. Within one, threads come and go in a session: the first takes the
flock, those that arrive while it is held join, the last one lets go. While a session lasts no other process can have
written, so nothing is read again; a session older than `_SESSION` takes nobody in until it has ended, or a storm of our calls
would keep other processes out. Inside a session one thread works at a time, except that flushing to the disk (half a
millisecond to ten) is done side by side: the file system commits many in the time of one.

A new session looks whether another process has written meanwhile. The directory's time of change says no at once if it
is what we left it at. File systems before Linux 6.13 stamp with the time of the last tick, so two changes within a few
milliseconds can bear one stamp: what we have changed just now we date back ourselves, to a time that no later change can
bear. Where that does not stick (whole seconds are kept), and where the time differs, names and inode numbers are compared and
only what is new is read. What that can still miss (a file replaced within a tick under its own number) does no harm: see
cni.store.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import time

from linux.rtnetlink import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    Holder = tuple[str, str]

_DRAFT = ".reserving."
_SESSION = 0.05  # seconds
_TICK = 20_000_000  # nanoseconds: no kernel's tick is longer than 10 ms
_BACK = 1_000_000_000
_NEVER = -1  # a time that no directory has


class Shelf:
    """Everything under one lock. Its methods but ``open`` are for the thread between ``open`` and ``close``."""

    __slots__ = (
        "_door",
        "_doubted",
        "_drained",
        "_gate",
        "_known",
        "_lock",
        "_mutex",
        "_opened",
        "_promised",
        "_stamp",
        "_sure",
        "_users",
        "directory",
        "holders",
        "rested",
        "resting",
    )

    def __init__(self, directory: str) -> None:
        self.directory: Final = directory
        self.holders: Final[dict[bytes, Holder]] = {}
        self.resting: Final[dict[bytes, float]] = {}  # what cni.store has read of its file, and how far that was
        self.rested = (0, 0)
        self._promised: Final[dict[bytes, Holder]] = {}  # those of them that are being written
        self._known: dict[str, tuple[int, bytes, Holder | None]] = {}  # name -> inode, address, what it said
        self._stamp = (0, 0)  # inode and time of change of the directory as we left it
        self._sure = False  # whether everything known was read under this lock, or cannot have changed since
        self._doubted = True
        self._door: Final = _thread.allocate_lock()  # who wants in waits here, in turn
        self._drained: Final = _thread.allocate_lock()  # held as long as the session has users
        self._gate: Final = _thread.allocate_lock()  # guards _users
        self._mutex: Final = _thread.allocate_lock()  # held by the one who works
        self._users = 0
        self._lock = -1
        self._opened = 0.0

    # --- sessions --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Joins the session, or begins one: makes the directory when it is missing, and waits for whoever has the lock."""
        with self._door:
            with self._gate:
                joined = self._users > 0 and time.monotonic() - self._opened < _SESSION
                self._users += joined
            if not joined:
                self._begin()
        self._mutex.acquire()

    def _begin(self) -> None:
        self._drained.acquire()
        try:
            os.makedirs(self.directory, 0o755, exist_ok=True)
            self._lock = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                self._refresh()
            except BaseException:
                os.close(self._lock)
                raise
        except BaseException:
            self._doubted = True
            self._drained.release()
            raise
        self._opened = time.monotonic()
        with self._gate:
            self._users = 1

    def close(self) -> None:
        with self._gate:
            self._users -= 1
            last = not self._users
            if last:
                self._stamp = self._stamped()
                os.close(self._lock)
        self._mutex.release()
        if last:
            self._drained.release()

    # --- what is known ---------------------------------------------------------------------------------------

    def reread(self) -> bool:
        """Reads every file again unless nothing can have escaped us; whether it did."""
        if self._sure:
            return False
        self._known = {}
        self._scan(begun=False)
        return True

    def sweep(self) -> None:
        """Removes the files that reserve an address for nobody."""
        for name in [name for name, (_, _, holder) in self._known.items() if holder is None]:
            unlink(f"{self.directory}/{name}")
            del self._known[name]

    def forget(self, address: bytes) -> None:
        self.holders.pop(address, None)

    def _refresh(self) -> None:
        now = self._read_stamp()
        if not self._doubted and now == self._stamp:
            return
        if self._doubted or now[0] != self._stamp[0]:
            self._known = {}
        self._doubted = False
        self._scan(begun=True)

    def _scan(self, *, begun: bool) -> None:
        """Brings what is known in step with the names there are. At a session's begin drafts are dead writers'."""
        before, self._known = self._known, {}
        self._sure = not before
        self.holders.clear()
        with os.scandir(self.directory) as entries:
            for entry in entries:
                name, inode = entry.name, entry.inode()
                there = before.get(name)
                if there is None or there[0] != inode:
                    there = self._look(name, inode, begun=begun)
                if there is not None:
                    self._known[name] = there
                    if there[2] is not None:
                        self.holders[there[1]] = there[2]
        self.holders.update(self._promised)

    def _look(self, name: str, inode: int, *, begun: bool) -> tuple[int, bytes, Holder | None] | None:
        if begun and name.startswith(_DRAFT):
            unlink(f"{self.directory}/{name}")
            return None
        try:
            return inode, packed(name), parse_holder(self.read(name))
        except ValueError:
            return None

    def _read_stamp(self) -> tuple[int, int]:
        try:
            status = os.stat(self.directory)
        except FileNotFoundError:  # removed under our hands: the next session makes it anew
            return 0, 0
        return status.st_ino, status.st_mtime_ns

    def _stamped(self) -> tuple[int, int]:
        """The directory's stamp, made one that the next change, however soon it comes, does not leave as it is."""
        inode, when = self._read_stamp()
        back = time.time_ns() - _BACK
        if not inode or when < back + _BACK - _TICK:
            return inode, when
        try:
            os.utime(self.directory, ns=(back, back))
        except OSError:
            return inode, _NEVER
        return inode, back if self._read_stamp() == (inode, back) else _NEVER

    # --- files -----------------------------------------------------------------------------------------------

    def read(self, name: str, offset: int = 0, most: int = 4096) -> bytes:
        """The file's content, b"" where there is none."""
        try:
            descriptor = os.open(f"{self.directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, most, offset)
        finally:
            os.close(descriptor)

    def extent(self, name: str) -> tuple[int, int]:
        """The file's inode and size, zeros where there is none."""
        try:
            status = os.stat(f"{self.directory}/{name}")
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size

    def reserve(self, address: bytes, name: str, holder: Holder) -> None:
        """The reservation's file, whole and on the disk; FileExistsError when somebody holds the address. While the disk is
        busy other threads work, and see the address as held already."""
        if address in self.holders:
            raise FileExistsError(f"{self.directory}/{name}: the address is held by {self.holders[address][0]}")
        self.holders[address] = self._promised[address] = holder
        draft, final = f"{self.directory}/{_DRAFT}{_thread.get_ident()}", f"{self.directory}/{name}"
        try:
            self._mutex.release()
            try:
                inode = _write(draft, f"{holder[0]}\r\n{holder[1]}".encode(), flush=True)
            finally:
                self._mutex.acquire()
            try:
                os.link(draft, final)
            except FileExistsError:
                if parse_holder(self.read(name)) is not None:  # by a writer that our look missed
                    raise
                os.unlink(final)  # an empty leftover
                os.link(draft, final)
            self._known[name] = inode, address, holder
        except BaseException:
            self.holders.pop(address, None)
            self._doubted = True
            raise
        finally:
            self._promised.pop(address, None)
            unlink(draft)

    def replace(self, name: str, content: bytes) -> None:
        """The file anew, whole, not flushed."""
        draft = f"{self.directory}/{_DRAFT}{_thread.get_ident()}"
        try:
            _write(draft, content, flush=False)
            os.replace(draft, f"{self.directory}/{name}")
        except BaseException:
            unlink(draft)
            raise

    def overwrite(self, name: str, content: bytes) -> None:
        """The file's content in place: for what may be lost or torn. (Replacing a file by rename costs a millisecond on ext4,
        which writes the new one's data out first.)"""
        descriptor = os.open(f"{self.directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size > os.pwrite(descriptor, content, 0):
                os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)

    def append(self, name: str, content: bytes) -> None:
        _write(f"{self.directory}/{name}", content, flush=False, flags=os.O_APPEND)


def shelf(directory: str) -> Shelf:
    """This process's shelf of the directory."""
    return _shelves.get(directory) or _shelves.setdefault(directory, Shelf(directory))


_shelves: dict[str, Shelf] = {}


def parse_holder(content: bytes) -> Holder | None:
    """Who a file says holds its address, None when it says nobody. What follows the container's line and is no interface of
    ours to know is kept as it is: it is somebody's."""
    text = content.decode("utf-8", "replace").strip(" \t\r\n\0")
    if not text:
        return None
    container, _, ifname = text.partition("\n")
    return container.strip(), ifname.strip()


def unlink(path: str) -> None:
    """Idempotent."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _write(path: str, content: bytes, *, flush: bool, flags: int = os.O_EXCL) -> int:
    """The file's inode. A draft is made anew: a killed process may have left it as a second name of a live reservation."""
    if flags & os.O_EXCL:
        unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if flush:
            os.fdatasync(descriptor)
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)
