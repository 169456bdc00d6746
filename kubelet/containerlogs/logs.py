"""A container's log, as people ask for it: whole, its tail, since a moment, with timestamps, to be followed.

Two formats are read, told apart by their first byte:

    CRI     2026-01-02T03:04:05.678901234Z stdout F text           (P: the line goes on in the next record)
    Docker  {"log":"text\\n","stream":"stdout","time":"2026-..."}   (no \\n at the end: likewise)

`parse` makes a record of a line; `read` walks a file: from the end backwards in blocks for a tail, and on past the end for a
follower, who also survives rotation: the file that was open is read to its end before the one that took its name is
opened. A follower sleeps until the kernel says that the directory has changed (inotify), and asks now and then whether
the container still runs. Files that were rotated away are not read, as upstream does not.

A pod that mounts the node's log directory can put anything in a log's place. So a log is opened by `open_log` alone: regular
files, no links (Docker's own file is read where Docker has it), and a line longer than any runtime writes is passed over.
(Upstream: pkg/kubelet/kuberuntime/logs/logs.go.)
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from kubelet import beneath
from linux.inotify import Inotify

_BLOCK = 256 * 1024
_TAIL_BLOCK = 64 * 1024
_LONGEST = 1 << 20  # bytes of a record; runtimes cut a line after 16 KiB
_POLL = 0.1  # seconds between looks at a quiet file, where the kernel has no inotify instance left
_LETTING_GO = 0.02
_ALIVE = 0.5  # seconds between questions whether its container still runs


class BadOption(Exception):
    """A query parameter that cannot be; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since: datetime | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None
    stream: str = ""  # stdout or stderr; both when empty


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the file: a whole line of output, or, `partial`, a piece of one."""

    time: str
    stream: str
    text: bytes  # with its newline, unless partial
    partial: bool


class _DockerLine(msgspec.Struct):
    log: str
    stream: str = "stdout"
    time: str = ""


_docker = msgspec.json.Decoder(_DockerLine)


def open_log(path: str) -> io.BufferedReader:
    """<pod>/<container>/<restart>.log, none of them a link. Raises OSError."""
    return os.fdopen(beneath.open_file(path, 3), "rb")


def options_from(query: Mapping[str, str], now: datetime) -> LogOptions:
    """PodLogOptions from a query string, validated as upstream does."""
    since: datetime | None = None
    if "sinceSeconds" in query and "sinceTime" in query:
        raise BadOption("sinceSeconds, sinceTime: at most one of them may be given")
    if (seconds := _number(query, "sinceSeconds", 1)) is not None:
        since = now - timedelta(seconds=min(seconds, 10**9))
    if query.get("sinceTime"):
        try:
            since = datetime.fromisoformat(query["sinceTime"])
        except ValueError:
            raise BadOption(f"sinceTime: {query['sinceTime']!r} is not an RFC 3339 time") from None
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
    return LogOptions(
        follow=_flag(query, "follow"),
        previous=_flag(query, "previous"),
        timestamps=_flag(query, "timestamps"),
        since=since,
        tail_lines=_number(query, "tailLines", 0),
        limit_bytes=_number(query, "limitBytes", 1),
        stream=_stream(query),
    )


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "").lower()
    if text in ("", "0", "false", "f"):
        return False
    if text in ("1", "true", "t"):
        return True
    raise BadOption(f"{name}: {text!r} is neither true nor false")


def _stream(query: Mapping[str, str]) -> str:
    text = query.get("stream", "")
    if text not in ("", "All", "Stdout", "Stderr"):
        raise BadOption(f"stream: {text!r} is none of All, Stdout, Stderr")
    return "" if text == "All" else text.lower()


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        raise BadOption(f"{name}: {text!r} is not a number") from None
    if value < least:
        raise BadOption(f"{name}: must be at least {least}, not {value}")
    return value


def parse(line: bytes) -> Record | None:
    """A record from a line of the file without its newline; None for what is no record (a torn write)."""
    if line[:1] == b"{":
        try:
            found = _docker.decode(line)
        except (msgspec.DecodeError, RecursionError):
            return None
        text = found.log.encode("utf-8", "surrogateescape")
        return Record(found.time, found.stream, text, not text.endswith(b"\n"))
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    partial = parts[2].split(b":", 1)[0] == b"P"
    return Record(
        parts[0].decode("ascii", "replace"), parts[1].decode(), parts[3] + (b"" if partial else b"\n"), partial
    )


def _ends_line(raw: bytes, stream: str) -> bool:
    """Whether a raw record is the end of an output line of `stream` (of either where it is empty)."""
    record = parse(raw)
    return record is not None and not record.partial and stream in ("", record.stream)


def _backwards(file: io.BufferedIOBase, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines from the last to the first, each with the offset at which it ends; empty where it is too long."""
    position, edge, rest, lost = end, end, b"", 0
    while position > 0:
        size = min(_TAIL_BLOCK, position)
        position -= size
        file.seek(position)
        rest, *whole = (file.read(size) + rest).split(b"\n")
        for line in reversed(whole):
            yield edge, b"" if lost else line
            edge -= len(line) + lost + 1
            lost = 0
        if len(rest) > _LONGEST:
            rest, lost = b"", lost + len(rest)
    yield edge, b"" if lost else rest


def tail_offset(file: io.BufferedIOBase, lines: int, stream: str = "") -> int:
    """Where the last `lines` lines of output begin; an unfinished one at the end counts as one. `stream`: only its lines
    count. Blocking."""
    end = file.seek(0, os.SEEK_END)
    if not lines:
        return end
    seen = 0
    for edge, line in _backwards(file, end):
        newest = not stream and (edge == end - 1 or (edge == end and line != b""))
        if newest or _ends_line(line, stream):
            seen += 1
            if seen > lines:
                return edge + 1
    return 0


class _Lines:
    """Whole lines out of blocks."""

    def __init__(self) -> None:
        self._rest = b""
        self._lost = False  # the rest of a line that is too long is still to come

    def of(self, block: bytes) -> list[bytes]:
        lines = (self._rest + block).split(b"\n")
        if self._lost and len(lines) > 1:
            self._lost = False
            del lines[0]
        self._rest = lines.pop()
        if self._lost or len(self._rest) > _LONGEST:
            self._rest, self._lost = b"", True
        return lines

    def end(self) -> list[bytes]:
        """What has no newline; the next block begins anew."""
        rest, self._rest, self._lost = self._rest, b"", False
        return [rest]


class _Printer:
    """Records as the bytes that are sent: since, timestamps, the byte limit."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._left = options.limit_bytes
        self._fresh = True  # at the beginning of a line

    @property
    def full(self) -> bool:
        return self._left == 0

    def print(self, lines: Iterable[bytes]) -> bytes:
        out: list[bytes] = []
        for line in lines:
            record = parse(line)
            if record is None or self._too_old(record) or self._options.stream not in ("", record.stream):
                continue
            if self._options.timestamps and self._fresh:
                out.append(record.time.encode() + b" ")
            out.append(record.text)
            self._fresh = not record.partial
        data = b"".join(out)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data

    def _too_old(self, record: Record) -> bool:
        if self._options.since is None:
            return False
        try:
            return datetime.fromisoformat(record.time) < self._options.since
        except (ValueError, TypeError):
            return False


class _Changes:
    """Sleeps until a file's directory has changed, and no longer than asked."""

    def __init__(self, stack: ExitStack, path: str) -> None:
        self._changed = asyncio.Event()
        self._directory = os.path.dirname(os.path.realpath(path))
        self._inotify: Inotify | None = None
        try:
            self._inotify = stack.enter_context(Inotify(asyncio.get_running_loop(), self._changed.set))
        except OSError:
            return
        if not self._inotify.watch(self._directory):
            self._inotify = None

    def look(self) -> None:
        """What changes from now on counts."""
        self._changed.clear()

    async def wait(self, seconds: float) -> None:
        if self._inotify is None:
            await asyncio.sleep(min(seconds, _POLL))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass


async def read(path: str, options: LogOptions, running: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes, None]:
    """The log in pieces of whole records. With `follow` it goes on until `running` says no and the end is reached.

    The first piece is empty and says that the file could be opened (OSError otherwise).
    """
    printer, lines = _Printer(options), _Lines()
    file = open_log(path)  # held across the iteration
    loop = asyncio.get_running_loop()
    asked = loop.time()
    watching = ExitStack()
    changes: _Changes | None = None
    successor: io.BufferedReader | None = None
    try:
        yield b""
        if options.tail_lines is not None:
            file.seek(await asyncio.to_thread(tail_offset, file, options.tail_lines, options.stream))
        last_look = False  # one more read after the container has ended
        while not printer.full:
            if changes is not None:
                changes.look()
            block = file.read(_BLOCK)
            if block:
                if data := printer.print(lines.of(block)):
                    yield data
                await asyncio.sleep(0)
                continue
            if successor is not None:
                if data := printer.print(lines.end()):
                    yield data
                file.close()
                file, successor = successor, None
                continue
            if not options.follow or last_look:
                break
            successor = _successor(path, file)
            if successor is not None:
                # What was written between our last read and the renaming is still in the old file, and a runtime opens
                # the new one a moment before it lets go of the old.
                await asyncio.sleep(_LETTING_GO)
                continue
            if changes is None:
                changes = _Changes(watching, path)
                last_look = not await running()  # what was written before we watched is read once more
                continue
            await changes.wait(max(0.01, asked + _ALIVE - loop.time()))
            if loop.time() - asked >= _ALIVE:
                last_look = not await running()
                asked = loop.time()
        if not printer.full and (data := printer.print(lines.end())):
            yield data
    finally:
        watching.close()
        file.close()
        if successor is not None:
            successor.close()


def _successor(path: str, file: io.BufferedReader) -> io.BufferedReader | None:
    """The file that has taken the name, or the same one cut short, from its start. What is no log is none."""
    ours = os.fstat(file.fileno())
    try:
        theirs = os.stat(path, follow_symlinks=False)
    except OSError:
        return None  # between the renaming and the new file
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) and ours.st_size >= file.tell():
        return None
    try:
        return open_log(path)
    except OSError:
        return None
