"""What a disk may hold after a power cut: a recorded run of a program, replayed up to any moment.

`record` runs a program under strace and reads what it did to files below a directory: names made and removed, bytes written,
lengths cut, and what it asked to be on disk. `Disk` replays that with two states of everything: what must be on disk (an fsync
or fdatasync has returned since), and what was done since, of which POSIX lets the power cut keep any part: some writes and not
others, in any order, torn at sectors; of the names of a directory a beginning of what was done to it. A file's fsync does not
make its name durable, only its directory's does.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

SECTOR = 512
_CALLS = "openat,mkdir,pwrite64,write,fsync,fdatasync,ftruncate,unlink,rename"
_LINE = re.compile(rb"^\d+ +(\w+)\((.*)$")
_FILE = re.compile(rb"^\d+<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    path: str
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    path: str


@dataclass(frozen=True, slots=True)
class Create:
    path: str
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Unlink:
    path: str


@dataclass(frozen=True, slots=True)
class Said:
    """The program wrote this to its stdout."""

    text: bytes


Step = Write | Truncate | Sync | Create | Unlink | Said


def record(argv: Sequence[str], directory: Path, trace: Path) -> list[Step]:
    """What the program did below `directory`, in order."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "1000000", "--seccomp-bpf", "-e", f"trace={_CALLS}", "-o", str(trace)]
    with subprocess.Popen([*strace, *argv], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.read()
    assert program.returncode == 0
    known: set[str] = set()
    with trace.open("rb") as lines:
        return [step for line in lines for step in _steps(line, str(directory), known)]


def _texts(rest: bytes) -> list[bytes]:
    """What stands between quotes: strace's -xx leaves none inside."""
    return rest.split(b'"')[1::2]


def _plain(escaped: bytes) -> bytes:
    return bytes.fromhex(escaped.replace(b"\\x", b"").decode())


def _steps(line: bytes, below: str, known: set[str]) -> Iterator[Step]:
    found = _LINE.match(line)
    if found is None:
        return
    call, rest = found[1].decode(), found[2]
    if b") = -1 " in rest[-120:]:
        return
    assert b"<unfinished" not in rest[-40:] or call not in ("fsync", "fdatasync"), "a sync whose end is not known"
    if call == "write" and rest.startswith(b"1<"):
        yield Said(_plain(_texts(rest)[0]))
        return
    if call in ("openat", "mkdir", "unlink", "rename"):
        texts = [_plain(one).decode() for one in _texts(rest)]
        path = texts[0] if texts else ""
        if not path.startswith(f"{below}/"):
            return
        assert call != "rename", "renames are not modelled"
        if call == "unlink":
            known.discard(path)
            yield Unlink(path)
        elif call == "mkdir" or (b"O_CREAT" in rest and path not in known):
            known.add(path)
            yield Create(path, call == "mkdir")
        return
    where = _FILE.match(rest)
    path = _plain(where[1]).decode() if where else ""
    if path != below and not path.startswith(f"{below}/"):
        return
    match call:
        case "pwrite64":
            offset = int(rest.rsplit(b'"', 1)[1].split(b",")[2].split(b")")[0].split(b" ")[1])
            yield Write(path, offset, _plain(_texts(rest)[0]))
        case "ftruncate":
            yield Truncate(path, int(rest.rsplit(b", ", 1)[1].split(b")")[0]))
        case "fsync" | "fdatasync":
            yield Sync(path)
        case other:
            raise AssertionError(f"{other} on {path} is not modelled")


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)


def _apply(content: bytearray, step: Write | Truncate) -> None:
    match step:
        case Write(_, offset, data):
            if len(content) < offset:
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(data)] = data
        case Truncate(_, length):
            if len(content) < length:
                content.extend(bytes(length - len(content)))
            del content[length:]


class Disk:
    """`root` is there from the start; shared memory (`-shm`) is no file's content and is left out."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._now: dict[str, _File | None] = {}  # None: a directory
        self._durable: dict[str, _File | None] = {}
        self._names: dict[str, list[tuple[str, _File | None, bool]]] = {}

    def do(self, step: Step) -> None:
        match step:
            case Write(path) | Truncate(path):
                file = self._now.get(path)
                if file is not None:
                    file.pending.append(step)
            case Create(path, directory):
                made = None if directory else _File()
                self._now[path] = made
                self._name(path, made, there=True)
            case Unlink(path):
                self._name(path, self._now.pop(path), there=False)
            case Sync(path):
                file = self._now.get(path)
                if file is None:
                    self._settle(path, len(self._names.get(path, ())), self._durable)
                    self._names[path] = []
                else:
                    for one in file.pending:
                        _apply(file.durable, one)
                    file.pending.clear()
            case Said():
                pass

    def _name(self, path: str, file: _File | None, *, there: bool) -> None:
        self._names.setdefault(str(PurePosixPath(path).parent), []).append((path, file, there))

    def _settle(self, directory: str, count: int, names: dict[str, _File | None]) -> None:
        for path, file, there in self._names.get(directory, ())[:count]:
            if there:
                names[path] = file
            else:
                names.pop(path, None)

    def cut(self, target: Path, rng: random.Random) -> None:
        """Writes below `target` what may be left."""
        keep = rng.choice([0.0, 0.5, 0.5, 0.9, 1.0])
        names = dict(self._durable)
        for directory, done in self._names.items():
            self._settle(directory, rng.randint(0, len(done)) if 0 < keep < 1 else int(keep) * len(done), names)
        for path, file in sorted(names.items()):
            place = target / PurePosixPath(path).relative_to(self._root)
            if file is None:
                place.mkdir()
            elif place.parent.exists() and not path.endswith("-shm"):
                place.write_bytes(self._content(file, keep, rng))

    @staticmethod
    def _content(file: _File, keep: float, rng: random.Random) -> bytes:
        content = bytearray(file.durable)
        for step in file.pending:
            if rng.random() >= keep:
                continue
            match step:
                case Write(path, offset, data) if 0 < keep < 1 and rng.random() < 0.2:
                    for start in range(0, len(data), SECTOR):
                        if rng.random() < 0.5:
                            _apply(content, Write(path, offset + start, data[start : start + SECTOR]))
                case _:
                    _apply(content, step)
        return bytes(content)
