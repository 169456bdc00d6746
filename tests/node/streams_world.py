"""kubectl as somebody at a terminal: what it printed, how it ended, and connections through a port-forward."""

import asyncio
import contextlib
import os
import pty
import re
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from linux import netns

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def words(self) -> str:
        return self.err.decode()


@dataclass(frozen=True, slots=True)
class Kubectl:
    path: str
    kubeconfig: Path
    home: Path

    @property
    def version(self) -> str:
        return self.path.rpartition("kubectl.")[2]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.home), "KUBECONFIG": str(self.kubeconfig), "TERM": "xterm"}

    async def run(self, *argv: str, stdin: bytes | None = None) -> Done:
        process = await self.start(*argv, stdin=stdin is not None)
        try:
            async with asyncio.timeout(SECONDS):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            process.kill()
            out, err = await process.communicate()
            raise AssertionError(f"{self.version}: {argv} did not end; so far: {out[-300:]!r} {err[-300:]!r}") from None
        return Done(process.returncode or 0, out, err)

    async def start(self, *argv: str, stdin: bool = False) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self.path,
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
            limit=1 << 20,
        )

    async def says(self, *argv: str, stdin: bytes | None = None) -> str:
        """Its stdout; it must succeed."""
        done = await self.run(*argv, stdin=stdin)
        assert done.code == 0, f"{self.version}: {argv}: {done.code}: {done.out[-500:]!r} {done.err[-500:]!r}"
        return done.text

    async def refuses(self, *argv: str) -> str:
        done = await self.run(*argv)
        assert done.code != 0, f"{self.version}: {argv}: {done.text!r}"
        return done.words.strip()

    async def at_terminal(self, *argv: str, rows: int, columns: int, keys: bytes = b"") -> str:
        """What a terminal of that size shows; `keys` are typed once something is on it."""
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = await asyncio.create_subprocess_exec(
            self.path, *argv, stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment(), start_new_session=True
        )
        os.close(theirs)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(ours), "rb", 0)
        )
        shown = b""
        try:
            async with asyncio.timeout(SECONDS):
                while piece := await _read(reader):
                    shown += piece
                    if keys and b"$" in shown:
                        os.write(ours, keys)
                        keys = b""
                await process.wait()
        except TimeoutError:
            process.kill()
            raise AssertionError(f"{self.version}: {argv} did not end; the terminal shows {shown[-500:]!r}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            transport.close()
            os.close(ours)
        return shown.decode()

    @asynccontextmanager
    async def forwarding(self, target: str, port: int) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
        """The local port behind which `port` of `target` is."""
        process = await self.start("port-forward", target, f":{port}")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(SECONDS):
                line = (await process.stdout.readline()).decode()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, f"{self.version}: {line!r} {await _rest(process)}"
            yield int(found[1]), process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except OSError:  # EIO: the last one at the terminal's other end has left
        return b""


async def _rest(process: asyncio.subprocess.Process) -> str:
    process.terminate()
    return (await process.communicate())[1].decode()


async def through(port: int, data: bytes) -> bytes:
    """What comes back through a port after all of `data` was sent and our side closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
            writer.write_eof()

    try:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(send())
            answer = group.create_task(reader.read())
        return answer.result()
    finally:
        writer.close()


@asynccontextmanager
async def echoing(namespace: str, port: int) -> AsyncIterator[None]:
    """A server on the pod's own 127.0.0.1, and nowhere else; `namespace` is its network's."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    with netns.enter(namespace):
        listener = socket.create_server(("127.0.0.1", port), backlog=100)
    server = await asyncio.start_server(echo, sock=listener)
    try:
        yield
    finally:
        server.close()
