"""The audit log: JSON lines in a file that rotates, or on standard output (`-`), written by one thread.

Rotation as upstream's (lumberjack): before a line that would make the file larger than --audit-log-maxsize megabytes, it is
renamed to NAME-2006-01-02T15-04-05.000.EXT and a new one begun; of the old ones --audit-log-maxbackup are kept, and none
older than --audit-log-maxage days (0: all).
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

from kube.errors import UsageError

STDOUT: Final = "-"
QUEUED: Final = 10_000
QUEUED_BYTES: Final = 64 << 20
END_SECONDS: Final = 5.0
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"

Render = Callable[[], bytes]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rotation:
    """0 is no limit, but for the size, where it is 100."""

    megabytes: int = 0
    backups: int = 0
    days: int = 0

    @property
    def bytes(self) -> int:
        return (self.megabytes or 100) << 20


@dataclass(slots=True)
class Log:
    """`offer`, called by one thread only, takes what makes a line and returns at once; the log's thread calls it. `lost`
    counts what found no room, `failed` what could not be written."""

    path: str
    rotation: Rotation
    lost: int = 0
    failed: int = 0
    written: int = 0
    _queue: queue.Queue[tuple[Render, int] | None] = field(default_factory=lambda: queue.Queue(QUEUED))
    _offered: int = 0  # bytes so far; each of the two has one writer, so neither needs a lock
    _taken: int = 0

    def offer(self, render: Render, size: int = 0) -> None:
        """`size` is what `render` keeps in memory, in bytes. One that is larger than the budget waits alone."""
        waiting = self._offered - self._taken
        if waiting and waiting + size > QUEUED_BYTES:
            self.lost += 1
            return
        try:
            self._queue.put_nowait((render, size))
        except queue.Full:
            self.lost += 1
        else:
            self._offered += size

    def run(self) -> None:
        """Until `None` comes."""
        file = File(self.path, self.rotation)
        while (item := self._queue.get()) is not None:
            render, size = item
            try:
                file.write(render())
                if self._queue.empty():
                    file.flush()
                self.written += 1
            except (OSError, ValueError, TypeError, RecursionError) as error:  # one line, never the thread
                if not self.failed:
                    log.error(
                        "--audit-log-path %s: %s; audit events are lost until it can be written", self.path, error
                    )
                self.failed += 1
            self._taken += size
            del item, render  # what it kept goes now, not with the next one
        file.close()

    def end(self) -> None:
        """No more comes; what waits is still written, as far as that takes no longer than END_SECONDS."""
        try:
            self._queue.put(None, timeout=END_SECONDS)
        except queue.Full:
            log.error("--audit-log-path %s: %d events are lost at the end", self.path, self._queue.qsize())


@contextmanager
def writing(path: str, rotation: Rotation) -> Iterator[Log]:
    """Raises UsageError when nothing can be written there."""
    found = Log(path, rotation)
    try:
        File(path, rotation).close()
    except OSError as error:
        raise UsageError(f"--audit-log-path {path}: {error.strerror}; name a file in a writable directory") from error
    thread = threading.Thread(target=found.run, name="audit", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.end()
        thread.join(END_SECONDS)


class File:
    """One that rotates; opened again when a line could not be written."""

    def __init__(self, path: str, rotation: Rotation) -> None:
        self._path = Path(path)
        self._stdout = path == STDOUT
        self._rotation = rotation
        self._size = 0
        self._file: IO[bytes] | None = None
        self._open()

    def write(self, line: bytes) -> None:
        """Raises OSError."""
        if self._file is None:
            self._open()
        if not self._stdout and self._size and self._size + len(line) > self._rotation.bytes:
            self._rotate()
        assert self._file is not None
        try:
            self._file.write(line)
        except OSError:
            self.close()
            raise
        self._size += len(line)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None and not self._stdout:
            file.close()
        elif file is not None:
            file.flush()

    def _open(self) -> None:
        if self._stdout:
            self._file = sys.stdout.buffer
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
        self._size = self._path.stat().st_size

    def _rotate(self) -> None:
        self.close()
        now = datetime.now(UTC)
        name = f"{self._path.stem}-{now.strftime(_STAMP)}.{now.microsecond // 1000:03d}{self._path.suffix}"
        self._path.rename(self._path.with_name(name))
        self._open()
        for old in self._superfluous(now):
            old.unlink(missing_ok=True)

    def _superfluous(self, now: datetime) -> list[Path]:
        backups = sorted(self._backups(), reverse=True)
        kept = self._rotation.backups or len(backups)
        oldest = now - timedelta(days=self._rotation.days) if self._rotation.days else datetime.min.replace(tzinfo=UTC)
        return [path for index, (moment, path) in enumerate(backups) if index >= kept or moment < oldest]

    def _backups(self) -> Iterator[tuple[datetime, Path]]:
        """Those of this file, by the time in their names."""
        prefix = f"{self._path.stem}-"
        for path in self._path.parent.glob(f"{glob_escape(prefix)}*{glob_escape(self._path.suffix)}"):
            stamp = path.name.removeprefix(prefix).removesuffix(self._path.suffix)
            try:
                moment = datetime.strptime(stamp, f"{_STAMP}.%f").replace(tzinfo=UTC)
            except ValueError:
                continue
            yield moment, path


def glob_escape(text: str) -> str:
    return "".join(f"[{one}]" if one in "*?[" else one for one in text)
