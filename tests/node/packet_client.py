"""Whoever asks in a world, all in one process: `python -m tests.node.packet_client`.

It opens each socket in the namespace of the flow and lets asyncio wait for thousands of them. One line of JSON on stdin is
one command, answered by one line; streams and held connections go on in between:

    {"ask": [flow, ...]}                       -> [{answer: how often}, ...], all flows at the same time
    {"stream": [id, [flow, ...], workers]}     -> null; asks again and again, a new socket each time
    {"hold": [id, [flow, ...]]}                -> null; connections that are kept, and asked over and over
    {"stop": id}                               -> [{answer: how often}, [[seconds ago, flow, answer], ...]]: what failed

A flow is `[namespace path, source, destination, port, protocol, times, timeout, source port]`. An answer is the server's
words, or `refused`, `silence` (nothing came in time), `resent` (an answer came, but TCP had to send something twice: a packet
was lost, however fast the machine is), `closed` (by the peer, without an answer) or an errno's name.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from linux import netns

FAILURES_KEPT = 50
AT_ONCE = 200
HOLD_SECONDS = 0.02
_TOTAL_RETRANS = 100  # tcpi_total_retrans of struct tcp_info
_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, when the whole tuple is known


@dataclass(frozen=True, slots=True)
class Flow:
    """The fields in the order of the wire."""

    path: str
    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    times: int = 1
    timeout: float = 3.0
    source_port: int = 0

    def open(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.destination else socket.AF_INET
        with netns.enter(self.path):
            made = socket.socket(family, socket.SOCK_STREAM if self.protocol == "tcp" else socket.SOCK_DGRAM)
        made.setblocking(False)
        if self.source:
            made.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((self.source, self.source_port))
        return made

    async def once(self) -> str:
        """One question on a socket of its own."""
        try:
            made = self.open()
        except OSError as error:
            return word(error)
        with made:
            answer = await self.on(made, connect=True)
            return "resent" if self.protocol == "tcp" and not failed(answer) and resent(made) else answer

    async def on(self, made: socket.socket, *, connect: bool = False) -> str:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout):
                if connect:
                    await loop.sock_connect(made, (self.destination, self.port))
                await loop.sock_sendall(made, b"?")
                return (await loop.sock_recv(made, 1500)).decode() or "closed"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return word(error)


def resent(connection: socket.socket) -> int:
    """How many segments TCP has sent again."""
    (count,) = struct.unpack_from("=I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), _TOTAL_RETRANS)
    return int(count)


def word(error: OSError) -> str:
    return "refused" if error.errno == errno.ECONNREFUSED else errno.errorcode.get(error.errno or 0, str(error))


def failed(answer: str) -> bool:
    """A server's words have a space in them, a failure has none."""
    return " " not in answer


@dataclass(slots=True)
class Stream:
    """What goes on until it is stopped."""

    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, str, str]] = field(default_factory=list)
    stopping: bool = False

    def count(self, flow: Flow, answer: str) -> None:
        self.answers[answer] += 1
        if failed(answer) and len(self.failures) < FAILURES_KEPT:
            self.failures.append((time.monotonic(), f"{flow.protocol} {flow.source}>{flow.destination}", answer))

    async def ask(self, flows: list[Flow]) -> None:
        while True:
            for flow in flows:
                if self.stopping:
                    return
                self.count(flow, await flow.once())
                await asyncio.sleep(0)

    async def hold(self, flow: Flow) -> None:
        with flow.open() as made:
            answer = await flow.on(made, connect=True)
            self.count(flow, answer)
            while not failed(answer) and not self.stopping:
                await asyncio.sleep(HOLD_SECONDS)
                answer = await flow.on(made)
                self.count(flow, answer)

    async def stop(self) -> list[object]:
        self.stopping = True
        await asyncio.gather(*self.tasks)
        now = time.monotonic()
        return [self.answers, [(now - at, *rest) for at, *rest in self.failures]]


class Client:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._streams: dict[str, Stream] = {}

    def end(self) -> None:
        """Nobody is there to be told."""
        for stream in self._streams.values():
            stream.stopping = True

    async def obey(self, command: dict[str, Any]) -> object:
        ((name, words),) = command.items()
        match name:
            case "ask":
                return await asked([Flow(*each) for each in words])
            case "stream" | "hold":
                stream = self._streams[words[0]] = Stream()
                flows = [Flow(*each) for each in words[1]]
                runs = [stream.ask(flows) for _ in range(words[2])] if name == "stream" else map(stream.hold, flows)
                stream.tasks = [self._group.create_task(run) for run in runs]
                return None
            case "so far":
                return self._streams[words].answers
            case "stop":
                return await self._streams.pop(words).stop()
            case _:
                raise ValueError(name)


async def asked(flows: list[Flow]) -> list[Counter[str]]:
    room = asyncio.Semaphore(AT_ONCE)
    found: list[Counter[str]] = [Counter() for _ in flows]

    async def one(flow: Flow, into: Counter[str]) -> None:
        async with room:
            into[await flow.once()] += 1

    async with asyncio.TaskGroup() as group:
        # Rounds, so that what is asked often does not hold up the rest.
        for turn in range(max((flow.times for flow in flows), default=0)):
            for flow, into in zip(flows, found, strict=True):
                if turn < flow.times:
                    group.create_task(one(flow, into))
    return found


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        client = Client(group)
        while line := await reader.readline():
            print(json.dumps(await client.obey(json.loads(line))), flush=True)
        client.end()


if __name__ == "__main__":
    asyncio.run(main())
