"""What is under way, so that a kill in the middle of an ADD is undone by whoever comes next.

A file a call, <run>/journal/<number of our network namespace>-<hash of plugin, container and interface>, is there from
before the ADD's first step until its result is with the runtime (or the ADD was undone), and flocked as long by the process
that does the work. So:

    locked                    somebody is at it: the same container's next ADD or DEL waits
    not locked, "B" in front  its worker died before it had made anything: the file goes
    not locked, "W" in front  its worker died in the middle: DEL, then the file goes
    not locked, "D" in front  the ADD was done and answered, and never undone: the file goes

A second ADD of a container that is attached already never comes past "B" (``begin``, which plugins call when they have looked):
its death must not take the first one's work away. An empty or torn file is a worker that died before it began. Programs that
a plugin hands on to inherit the open file: while one of a dead worker's still runs, it counts as locked.

The rest of the file is the call as it came (cni.wire), so that undoing it needs nothing else. The dead are looked for by
the agent at its start and once a minute, by GC, and by each stand-alone ADD. The directory is on a tmpfs: a reboot ends every
half-done ADD by itself, but for its address, which the runtime's DEL or GC frees. Calls of another network namespace are not
ours to undo: their links are elsewhere. When nobody of theirs has come for `_FORGOTTEN`, the namespace is taken to be gone.

A DEL that waits for a worker that never ends would keep a pod for ever: it answers code 11 after `PATIENCE`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from _blake2 import blake2b

from cni import wire
from cni.codec import decode, encode
from cni.spec import IO_FAILURE, NEWEST, TRY_AGAIN_LATER, VALID_ATTACHMENTS, VERSIONS, CniError
from linux.netns import OWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Final

    from cni.codec import Json

    Answer = Callable[[str, Mapping[str, str], bytes, "Entry | None"], tuple[bytes, int]]

RUN = "/run/wherry/cni"
PATIENCE = 20.0  # seconds
_FORGOTTEN = 3600.0  # seconds

_BEGUN, _WORKING, _DONE = b"B", b"W", b"D"
_MARKS = 2  # bytes before the request: the state, and how often undoing it was tried
_ATTEMPTS = 10


class Entry:
    """An ADD under way, or what is left of one; the lock on it is ours."""

    __slots__ = ("_path", "descriptor", "ended")

    def __init__(self, path: str, descriptor: int) -> None:
        self._path: Final = path
        self.descriptor: Final = descriptor
        self.ended = False

    def begin(self) -> None:
        """From here on a DEL is needed to undo it."""
        os.pwrite(self.descriptor, _WORKING, 0)

    def done(self) -> None:
        """From here on only he undoes it who knows that the answer did not arrive."""
        os.pwrite(self.descriptor, _DONE, 0)

    def end(self) -> None:
        """Nothing is under way any more."""
        self.ended = True
        try:
            os.unlink(self._path)
        finally:
            self.leave()

    def leave(self) -> None:
        """As it is, for the next who comes."""
        os.close(self.descriptor)

    def undo(self, answer: Answer) -> str:
        """DELs what the ADD made, as far as it got; a sentence on it. What cannot be undone now stays to be tried again."""
        content = os.pread(self.descriptor, wire.LONGEST, 0)
        if content[:1] == _BEGUN:
            self.end()
            return ""
        try:
            kind, environment, stdin = wire.parse(content[_MARKS + wire.HEADER :])
        except ValueError:
            self.end()
            return ""
        what = f"{kind} {environment.get('CNI_CONTAINERID', '')} {environment.get('CNI_IFNAME', '')}"
        tried = content[1] - ord("0") + 1
        why = "each time it was cut off"
        if tried <= _ATTEMPTS:
            os.pwrite(self.descriptor, _WORKING + bytes([ord("0") + tried]), 0)  # before: being killed in it counts
            said, status = answer(kind, {**environment, "CNI_COMMAND": "DEL"}, stdin, self)
            if not status:
                self.end()
                return f"a half-done ADD is undone: {what}"
            why = said.decode("utf-8", "replace").strip()
        if tried >= _ATTEMPTS:
            self.end()
            return f"a half-done ADD cannot be undone and is given up: {what}: {why}"
        self.leave()
        return f"a half-done ADD cannot be undone yet: {what}: {why}"

    def rests(self, seconds: float) -> bool:
        """Whether undoing it was tried less than so many seconds ago."""
        return (
            seconds > 0
            and os.pread(self.descriptor, 1, 1) > b"0"
            and time.time() - os.fstat(self.descriptor).st_mtime < seconds
        )

    def settle(self, answer: Answer) -> str:
        """``undo`` for what its worker left undone; forgets what was done."""
        if os.pread(self.descriptor, 1, 0) == _WORKING:
            return self.undo(answer)
        self.end()
        return ""


def carry_out(
    run: str, answer: Answer, kind: str, environment: Mapping[str, str], stdin: bytes
) -> tuple[bytes, int, Entry | None]:
    """(stdout, status, entry): the call, kept in this run directory's journal while it lasts. An entry comes with an ADD that
    succeeded: it is ``done`` before the answer is given and has its ``end`` when the runtime has it, or else ``undo``."""
    directory = f"{run}/journal"
    try:
        match environment.get("CNI_COMMAND"):
            case "ADD":
                return _add(directory, answer, kind, environment, stdin)
            case "DEL":
                return *_delete(directory, answer, kind, environment, stdin), None
            case "GC":
                sweep(run, answer)
                return *answer(kind, environment, _with_living(stdin, directory), None), None
            case _:
                return *answer(kind, environment, stdin, None), None
    except CniError as error:
        return *refusal(error, stdin), None
    except OSError as error:
        return *refusal(CniError(IO_FAILURE, f"the journal of calls under way: {error}"), stdin), None


def undo_lost(run: str, answer: Answer, kind: str, environment: Mapping[str, str]) -> None:
    """Takes back the ADD whose worker went away before its answer came, as far as it got."""
    entry = _present(_path(f"{run}/journal", kind, environment))
    if entry is not None:
        entry.undo(answer)


def sweep(run: str, answer: Answer, limit: int = 1 << 20, rest: float = 0.0) -> list[str]:
    """Undoes what dead workers left, looking at so many entries; a sentence for each. What was tried in vain is left alone for
    `rest` seconds."""
    directory = f"{run}/journal"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    told = []
    home = _home()
    for name in names[:limit]:
        path = f"{directory}/{name}"
        ours = name.startswith(home)
        if ours or _is_forgotten(path):
            entry = _present(path, wait=False)
            if entry is not None and ours and entry.rests(rest):
                entry.leave()
            elif entry is not None and ours:
                told.append(entry.settle(answer))
            elif entry is not None:
                entry.end()
    return [each for each in told if each]


def refusal(error: CniError, stdin: bytes) -> tuple[bytes, int]:
    """The error as a plugin answers it, in the caller's version where that is one we speak."""
    version = _decoded(stdin).get("cniVersion")
    spoken = version if isinstance(version, str) and version in VERSIONS else NEWEST
    return (encode(error.as_json(spoken)) + "\n").encode(), 1


def asks_for_agent(stdin: bytes) -> bool:
    """Whether the configuration says that the agent does this network's ADDs."""
    return _decoded(stdin).get("agent") is True


def _add(
    directory: str, answer: Answer, kind: str, environment: Mapping[str, str], stdin: bytes
) -> tuple[bytes, int, Entry | None]:
    entry = _begun(directory, answer, kind, environment, stdin)
    status = 1
    try:
        said, status = answer(kind, environment, stdin, entry)
        if not status:
            entry.begin()
    finally:
        if status:  # it has undone itself
            entry.end()
    return said, status, None if status else entry


def _delete(
    directory: str, answer: Answer, kind: str, environment: Mapping[str, str], stdin: bytes
) -> tuple[bytes, int]:
    try:
        entry = _present(_path(directory, kind, environment))
    except OSError:  # a journal that cannot be read keeps no pod
        entry = None
    said, status = answer(kind, environment, stdin, entry)
    if entry is not None:
        if status:
            entry.leave()
        else:
            entry.end()
    return said, status


def _begun(directory: str, answer: Answer, kind: str, environment: Mapping[str, str], stdin: bytes) -> Entry:
    """A new entry, locked and written; what another ADD of the same left is undone first."""
    os.makedirs(directory, 0o700, exist_ok=True)
    path = _path(directory, kind, environment)
    content = _BEGUN + b"0" + wire.request(kind, environment, stdin)
    while True:
        left = _present(path)
        if left is not None:
            sentence = left.settle(answer)
            if not left.ended:
                raise CniError(TRY_AGAIN_LATER, f"{sentence}; DEL comes first")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        entry = Entry(path, descriptor)
        try:
            # Whoever finds the file before it is locked takes it for a dead one's, and removes it.
            if _lock(descriptor) and _is_at(descriptor, path):
                _write_whole(descriptor, content, path)
                return entry
        except BaseException:
            entry.end()
            raise
        os.close(descriptor)


def _present(path: str, *, wait: bool = True) -> Entry | None:
    """The entry, when nobody is at it (any more); None when there is none, or, without `wait`, while somebody is."""
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if _lock(descriptor):
                if _is_at(descriptor, path):
                    kept, descriptor = descriptor, -1
                    return Entry(path, kept)
                continue  # its worker has ended it, and another may have begun
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if not wait:
            return None
        if time.monotonic() > deadline:
            raise CniError(TRY_AGAIN_LATER, f"another ADD of this container is under way since {PATIENCE:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _write_whole(descriptor: int, content: bytes, path: str) -> None:
    if os.write(descriptor, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _path(directory: str, kind: str, environment: Mapping[str, str]) -> str:
    parts = (kind, environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", ""))
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return f"{directory}/{_home()}{digest}"


def _home() -> str:
    return f"{os.stat(OWN).st_ino}-"


def _is_forgotten(path: str) -> bool:
    try:
        return time.time() - os.stat(path).st_mtime > _FORGOTTEN
    except FileNotFoundError:
        return False


def _with_living(stdin: bytes, directory: str) -> bytes:
    """GC's configuration in which the attachments that are being made count as valid: the runtime may not know of them yet."""
    config = _decoded(stdin)
    valid = config.get(VALID_ATTACHMENTS)
    living: list[Json] = []
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        if not name.startswith(_home()):
            continue
        try:
            with open(f"{directory}/{name}", "rb", buffering=0) as file:
                _, variables, _ = wire.parse(file.read()[_MARKS + wire.HEADER :])
        except (FileNotFoundError, ValueError):
            continue
        living.append({"containerID": variables.get("CNI_CONTAINERID"), "ifname": variables.get("CNI_IFNAME")})
    if not living or not isinstance(valid, list):
        return stdin
    return encode({**config, VALID_ATTACHMENTS: [*valid, *living]}).encode()


def _decoded(stdin: bytes) -> Mapping[str, Json]:
    try:
        said = decode(stdin)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
