"""The lab's supervisor: keeps every daemon running, and takes orders from `wherry lab`.

A daemon that ends is started again after one second, as systemd's `Restart=always` with `RestartSec=1` would; one that names
others in `after` is started when they have said READY=1 (sd_notify), as `After=` does for units of `Type=notify`, and when the
program in `first` has ended well, as after `ExecStartPre=`. The supervisor runs in the outer namespace; each daemon is entered
into its node's with nsenter. Orders come as one JSON line on a Unix socket and are answered by one:

    {"order": "status"}                        -> {"daemons": {name: {"pid", "restarts", "state"}}}
    {"order": "stop", "node": "node3"}         -> {"stopped": [...]}    the node's daemons are killed, as by a power cut
    {"order": "start", "node": "node3"}        -> {"started": [...]}
    {"order": "quiet"}                         -> {}                    ends the nodes' daemons, not dockerd
    {"order": "down"}                          -> {}                    ends everything, then itself

    python -m lab.supervisor STATE_DIRECTORY
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never

import msgspec

from kube.process import start_log
from lab import forwarder
from lab.model import Daemon, Topology
from lab.network import inside
from linux import netns

RESTART_SECONDS = 1.0
_TERM_SECONDS = 5.0
_ORDER_SECONDS = 15.0
_LOG_LIMIT = 20 * 2**20
_ROTATE_SECONDS = 30.0

log = logging.getLogger("lab.supervisor")


@dataclass(slots=True)
class Child:
    """A daemon and what became of it. `wanted` False keeps it down."""

    daemon: Daemon
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    last_exit: int | None = None

    async def keep_running(self, before: Sequence["Child"], notify: str) -> None:
        """Run it while it is wanted, first when `before` are ready; what it says to `notify` tells that it is."""
        await self.wanted.wait()
        for child in before:
            with contextlib.suppress(TimeoutError):  # one that cannot start must not keep the others from trying
                async with asyncio.timeout(_ORDER_SECONDS):
                    await child.ready.wait()
        while self.daemon.first and not await self._prepared():
            await asyncio.sleep(RESTART_SECONDS)
            await self.wanted.wait()
        while True:
            await self.wanted.wait()
            try:
                self.process = await self._start(self.daemon.argv, notify)
            except OSError as error:
                log.error("%s cannot be started: %s; again in %.0f s", self.daemon.name, error, RESTART_SECONDS)
                await asyncio.sleep(RESTART_SECONDS)
                continue
            if not self.wanted.is_set():  # ordered to stop while it was being started
                self.process.kill()
            self.last_exit = await self.process.wait()
            self.process = None
            self.ready.clear()
            if self.wanted.is_set():
                self.restarts += 1
                log.warning("%s ended with %s; again in %.0f s", self.daemon.name, self.last_exit, RESTART_SECONDS)
                await asyncio.sleep(RESTART_SECONDS)

    async def _prepared(self) -> bool:
        """Whether the program that comes first has ended well, now."""
        try:
            process = await self._start(self.daemon.first, "")
            status = await process.wait()
        except OSError as error:
            log.error("%s: %s cannot be started: %s", self.daemon.name, self.daemon.first[0], error)
            return False
        if status:
            log.error("%s: %s ended with %s; its log says why", self.daemon.name, self.daemon.first[0], status)
        return status == 0

    async def _start(self, argv: Sequence[str], notify: str) -> asyncio.subprocess.Process:
        with _log_file(self.daemon.log) as out:
            return await asyncio.create_subprocess_exec(
                *inside(self.daemon.namespace, self.daemon.spaces),
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.daemon.env, "NOTIFY_SOCKET": notify},
                start_new_session=True,
            )

    async def end(self, number: signal.Signals) -> None:
        """Signal it and wait; a daemon that ignores SIGTERM is killed."""
        self.wanted.clear()
        process = self.process
        if process is None:
            return
        for attempt in (number, signal.SIGKILL):
            try:
                process.send_signal(attempt)
            except ProcessLookupError:
                return
            try:
                async with asyncio.timeout(_TERM_SECONDS):
                    await process.wait()
            except TimeoutError:
                continue
            return

    def status(self) -> dict[str, Any]:
        running = "ready" if self.ready.is_set() else "running"
        state = running if self.process else "restarting" if self.wanted.is_set() else "stopped"
        pid = self.process.pid if self.process else None
        return {
            "state": state,
            "pid": pid,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log": self.daemon.log,
        }


def _log_file(path: str) -> Any:
    """The daemon's log, opened for appending, so that `rotate` may cut it while it is being written."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rotate(path)
    return open(path, "ab")


def rotate(path: str, limit: int = _LOG_LIMIT) -> bool:
    """Empty a log that has grown past `limit` bytes, its old self kept once as PATH.1. What is written between the copy and
    the cut is lost: who writes it keeps the file open, so it cannot be moved away."""
    try:
        if os.path.getsize(path) <= limit:
            return False
        shutil.copyfile(path, f"{path}.1")
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("%s cannot be rotated: %s", path, error)
        return False
    return True


class Supervisor:
    def __init__(self, daemons: Sequence[Daemon]) -> None:
        self._children = {daemon.name: Child(daemon) for daemon in daemons}
        self._down = asyncio.Event()

    async def run(self, state: str) -> None:
        notify = os.path.join(state, "notify.sock")
        with self._listening(notify):
            await self._supervise(state, notify)

    async def _supervise(self, state: str, notify: str) -> None:
        async with asyncio.TaskGroup() as group:
            keepers = [
                group.create_task(child.keep_running([self._children[n] for n in child.daemon.after], notify))
                for child in self._children.values()
            ]
            server = await asyncio.start_unix_server(self._order, socket_path(state))
            keepers.append(group.create_task(self._rotate()))
            for child in self._children.values():
                child.wanted.set()
            await self._down.wait()
            server.close()
            await self._end(list(self._children.values()), signal.SIGTERM)
            for keeper in keepers:
                keeper.cancel()

    @contextlib.contextmanager
    def _listening(self, path: str) -> Iterator[None]:
        """READY=1 from a daemon, told by the pid that the kernel vouches for."""
        inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        inbox.bind(path)

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                message, ancillary, _, _ = inbox.recvmsg(4096, socket.CMSG_SPACE(12))
                pid = int.from_bytes(ancillary[0][2][:4], "little") if ancillary else 0
                if b"READY=1" in message.split(b"\n"):
                    for child in self._children.values():
                        if child.process and child.process.pid == pid:
                            child.ready.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(inbox, read)
        try:
            yield
        finally:
            loop.remove_reader(inbox)
            inbox.close()

    async def _rotate(self) -> Never:
        while True:
            await asyncio.sleep(_ROTATE_SECONDS)
            for child in self._children.values():
                rotate(child.daemon.log)

    def stop(self) -> None:
        self._down.set()

    async def _order(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            order = msgspec.json.decode(await reader.readline(), type=dict[str, Any])
            answer = await self._obey(order)
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except (msgspec.DecodeError, OSError, ValueError) as error:  # ValueError: a line without end
            log.warning("an order was not understood: %s", error)
        finally:
            writer.close()

    async def _obey(self, order: dict[str, Any]) -> dict[str, Any]:
        node = order.get("node", "")
        concerned = [c for c in self._children.values() if c.daemon.node == node and node]
        if order.get("order") in ("stop", "start") and not concerned:
            return {"error": f"no node {node!r}"}
        match order.get("order"):
            case "status":
                return {"daemons": {name: child.status() for name, child in self._children.items()}}
            case "stop":
                await self._end(concerned, signal.SIGKILL)
                return {"stopped": [c.daemon.name for c in concerned]}
            case "start":
                for child in concerned:
                    child.wanted.set()
                return {"started": [c.daemon.name for c in concerned]}
            case "quiet":
                await self._end([c for c in self._children.values() if c.daemon.node], signal.SIGTERM)
                return {}
            case "down":
                self._down.set()
                return {}
            case other:
                return {"error": f"unknown order {other!r}"}

    async def _end(self, children: Sequence[Child], number: signal.Signals) -> None:
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.end(number))


async def _main(topology: Topology, doors: Sequence[forwarder.Door]) -> None:
    supervisor = Supervisor(topology.daemons)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    for name in ("supervisor.sock", "notify.sock"):
        Path(topology.lab.state, name).unlink(missing_ok=True)
    async with asyncio.TaskGroup() as group:
        door = group.create_task(forwarder.serve(doors))
        await supervisor.run(topology.lab.state)
        door.cancel()


def read(state: str) -> Topology:
    """The topology that `up` wrote; raises FileNotFoundError where there is no lab."""
    return msgspec.json.decode(
        Path(state, "topology.json").read_bytes(), type=Topology, dec_hook=lambda kind, text: kind(text)
    )


def ask(state: str, order: dict[str, str]) -> dict[str, Any] | None:
    """Give an order and wait for the answer; None when no supervisor listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(20.0)
            line.connect(socket_path(state))
            line.sendall(msgspec.json.encode(order) + b"\n")
            with line.makefile("rb") as answer:
                return msgspec.json.decode(answer.readline() or b"null", type=dict[str, Any] | None)
    except OSError:
        return None


def socket_path(state: str) -> str:
    return os.path.join(state, "supervisor.sock")


def main() -> int:
    topology = read(sys.argv[1])
    start_log("supervisor")
    try:
        doors = [(forwarder.listening(outside), host, port) for outside, host, port in topology.forwards]
    except OSError as error:
        log.error("a published port of 127.0.0.1 is taken: %s", error)
        return 2
    netns.set_namespace(f"/run/netns/{topology.lab.outer}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as alone:
        try:
            alone.bind("\0wherry-supervisor")  # such names are the network namespace's own, and end with the process
        except OSError:
            log.error("lab %s has a supervisor already", topology.lab.name)
            return 2
        asyncio.run(_main(topology, doors))
    return 0


if __name__ == "__main__":
    sys.exit(main())
