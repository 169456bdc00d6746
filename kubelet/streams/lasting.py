"""An attach to a container whose input is to outlive its clients (stdin without stdinOnce).

The end of a client's input says nothing to such a container. containerd takes it for the end of the whole attach and closes
the output, Docker does not: so it is not passed on, and what the container goes on to say is seen on either.
"""

from __future__ import annotations

from kubelet.runtime import Channel, Stream


class Lasting:
    """`kubelet.runtime.Stream`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def read(self) -> tuple[Channel, bytes] | None:
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def close_stdin(self) -> None:
        return

    async def resize(self, width: int, height: int) -> None:
        await self._stream.resize(width, height)

    async def exit_code(self) -> int:
        return await self._stream.exit_code()

    async def close(self) -> None:
        await self._stream.close()
