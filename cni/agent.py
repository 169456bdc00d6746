"""wherry-cni-agent: the resident half of the plugins, which shims ask over a Unix socket.

An interpreter's start is nine tenths of a stand-alone call; here it has been paid. A call is worked off by the function that
the stand-alone program runs (cni.run), in a thread, because a network namespace is a thread's own.

    shim --request--> accept --> worker: journal, cni.run.answer --reply--> shim --thanks--> the journal forgets
                                                                                 no thanks: DEL

It serves root's calls from its own network and mount namespaces only: in another one a bridge's name means another bridge, and
a path another file. Such a shim is sent away, and works alone; so is one whose CNI_PATH begins in its working directory.

A worker that hangs (a delegated program, a lock that somebody else does not give back) takes nobody else along: workers that
are slow do not count when the next one is wanted. A call that takes longer than a runtime's patience is answered with code
11, and undone when its worker comes back. SIGTERM: the door closes, what runs is finished, then the process ends. kill -9: the
shims see it, and the journal has what to undo.

The standard library only, threads and no event loop: the process stays below 20 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time

from cni import journal, removal, wire
from cni.plugins import NAMES, named
from cni.run import answer
from cni.spec import TRY_AGAIN_LATER, CniError
from cni.workers import Workers
from linux.netns import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

PATIENCE = 45.0
"""Seconds that a call may take. A shim waits five more, a kubelet ten more than that."""

_READING = 10.0  # seconds for a shim to send its request
_THANKS = 60.0  # seconds for a runtime to read the answer
_SWEEP = (
    60.0  # seconds between two looks for what dead workers left; the first is when the door opens, for one may hang
)
_GOODBYE = 20.0  # seconds for what runs to end
_BACKLOG = 1024
_IDLE, _BUSY = 15000.0, 250.0  # milliseconds between two looks at what is under way
_PEER = struct.Struct("3i")


class Call:
    """A shim that waits. Whoever ``claim``s it is the one who answers it."""

    __slots__ = ("_claim", "begun", "line", "stdin")

    def __init__(self, line: socket.socket) -> None:
        self.line: Final = line
        self.begun = time.monotonic()
        self.stdin = b""
        self._claim: Final = threading.Lock()

    def claim(self) -> bool:
        return self._claim.acquire(blocking=False)


class Agent:
    def __init__(self, door: socket.socket, run: str) -> None:
        self._door: Final = door
        self._run: Final = run
        self._home: Final = _namespaces("self")
        self._workers: Final = Workers(self._work)
        self._swept = -_SWEEP
        self._ending = False

    def serve(self, woken: socket.socket) -> None:
        """Until a byte comes from `woken`, and what is under way then has ended."""
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        poll.register(woken, select.POLLIN)
        watchdog = int(os.environ.get("WATCHDOG_USEC") or 0) / 1000
        idle = min(_IDLE, watchdog / 2) if watchdog else _IDLE
        while True:
            self._tend()
            for descriptor, _ in poll.poll(idle if self._workers.quiet else _BUSY):
                if descriptor == woken.fileno():
                    return
                self._admit()

    def finish(self) -> None:
        """Whoever is at the door still is sent away; what runs is waited for."""
        self._ending = True
        self._admit()
        self._door.close()
        deadline = time.monotonic() + _GOODBYE
        while not self._workers.quiet and time.monotonic() < deadline:
            self._tend()
            time.sleep(0.01)

    def _admit(self) -> None:
        while True:
            try:
                line, _ = self._door.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptors left, or a shim that is gone already
                _say(f"cannot accept a call: {error}")
                time.sleep(0.05)
                return
            self._workers.give(Call(line))

    def _tend(self) -> None:
        """What is to be done from time to time."""
        _notify("WATCHDOG=1")
        now = time.monotonic()
        for call in self._workers.running():
            if now - call.begun > PATIENCE and call.claim():
                _say(
                    f"a call takes longer than {PATIENCE:g} s: it is answered with code 11, and undone when it comes back"
                )
                words = f"the CNI agent has not finished the call in {PATIENCE:g} s: it is undone when it ends"
                said, status = journal.refusal(CniError(TRY_AGAIN_LATER, words), call.stdin)
                with contextlib.suppress(OSError):
                    call.line.sendall(wire.reply(status, said))
        if now - self._swept > _SWEEP:
            self._swept = now
            threading.Thread(target=self.sweep, name="cni-sweep", daemon=True).start()

    def sweep(self) -> None:
        for sentence in journal.sweep(self._run, answer):
            _say(sentence)

    def _work(self, call: Call) -> None:
        try:
            self._answer(call)
        finally:
            # A thread that could not come back from a pod's namespace must not take another call: it ends by this.
            if identity() != self._home[0]:
                raise RuntimeError("a call has left its thread in another network namespace")

    def _answer(self, call: Call) -> None:
        with call.line:
            try:
                call.line.settimeout(_READING)
                kind, environment, stdin = wire.parse(_received(call.line))
                reason = self._refusal(call.line, environment)
                if reason:
                    call.line.sendall(wire.reply(wire.ALONE, reason.encode()))
                    return
            except (OSError, ValueError) as error:
                _say(f"a call that never came whole: {error}")
                return
            call.stdin = stdin
            said, status, entry = journal.carry_out(self._run, answer, kind, environment, stdin)
            if entry is None:
                if call.claim():
                    with contextlib.suppress(OSError):
                        call.line.sendall(wire.reply(status, said))
            elif call.claim() and self._is_delivered(call.line, wire.reply(status, said), entry):
                entry.end()
            else:
                _say(f"nobody waits for the answer any more: {entry.undo(answer)}")

    def _is_delivered(self, line: socket.socket, reply: bytes, entry: journal.Entry) -> bool:
        entry.done()
        try:
            line.settimeout(_THANKS)
            line.sendall(reply)
            return bool(line.recv(1))
        except OSError:
            return False

    def _refusal(self, line: socket.socket, environment: Mapping[str, str]) -> str:
        """Why the caller has to do it itself; "" when it is one of ours."""
        if self._ending:
            return wire.AWAY
        paths = [*environment.get("CNI_PATH", "").split(":"), environment.get("CNI_NETNS", "")]
        if not all(path.startswith("/") for path in paths if path):
            return wire.ELSEWHERE
        process, user, _ = _PEER.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        try:
            ours = user in {0, os.geteuid()} and _namespaces(str(process)) == self._home
        except OSError:
            ours = False  # of another PID namespace, or gone
        return "" if ours else wire.ELSEWHERE


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="wherry-cni-agent",
        description="The resident half of Wherry's CNI plugins: works off the calls that their shims hand over.",
    )
    parser.add_argument("--socket", default=wire.SOCKET, help=f"where shims ask (default: {wire.SOCKET})")
    parser.add_argument(
        "--run-dir",
        default=journal.RUN,
        help=f"where calls under way are kept, on a tmpfs, as the plugins have it (default: {journal.RUN})",
    )
    options = parser.parse_args(argv)
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        os.makedirs(f"{options.run_dir}/journal", 0o700, exist_ok=True)
    except OSError as error:
        _say(f"--run-dir {options.run_dir}: {error.filename}: {error.strerror}")
        return 1
    try:
        door = _door(options.socket)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"--socket {options.socket}: {where}{error.strerror or error}")
        return 1
    with door:
        return _serve(door, options.socket, options.run_dir, woken)


def _serve(door: socket.socket, path: str, run: str, woken: socket.socket) -> int:
    for name in NAMES:
        named(name)  # loaded before anybody waits for it
    removal.aside()
    agent = Agent(door, run)
    os.rename(f"{path}.new", path)
    placed = os.stat(path).st_ino
    _say(f"answers at {path}")
    _notify("READY=1")
    agent.serve(woken)
    _notify("STOPPING=1")
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == placed:
            os.unlink(path)
    agent.finish()
    return 0


def _door(path: str) -> socket.socket:
    """A socket that listens beside its place: it takes the place, and a dead agent's socket there, when all is ready."""
    os.makedirs(os.path.dirname(path) or ".", 0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError("there is a file that is no socket: remove it, or name another place")
    with socket.socket(socket.AF_UNIX) as other, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        other.connect(path)
        raise OSError("another agent answers there: end it first, or name another socket")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.new")
    door = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        door.bind(f"{path}.new")
    except OSError:
        door.close()
        raise
    finally:
        os.umask(before)
    door.listen(_BACKLOG)
    door.setblocking(False)
    return door


def _received(line: socket.socket) -> bytes:
    missing = wire.length(_exactly(line, wire.HEADER))
    return _exactly(line, missing)


def _exactly(line: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        more = line.recv(size - len(found))
        if not more:
            raise ValueError("it ended before its end")
        found += more
    return bytes(found)


def _namespaces(process: str) -> tuple[tuple[int, int], ...]:
    found = [os.stat(f"/proc/{process}/ns/{kind}") for kind in ("net", "mnt")]
    return tuple((each.st_dev, each.st_ino) for each in found)


def _notify(words: str) -> None:
    """sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line, contextlib.suppress(OSError):
            line.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            line.send(words.encode())


def _say(sentence: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} cni-agent: {sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
