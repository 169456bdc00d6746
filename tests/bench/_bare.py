"""The floor of an answer over TLS: a server that reads no request and sends the same bytes whenever something comes.

python -m tests.bench._bare HOME PORT FILE
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import cast

import uvloop


class Bare(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        del data
        assert self.transport is not None
        self.transport.write(self.answer)


async def main(home: str, port: int, body: bytes) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{home}/server.crt", f"{home}/server.key")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    server = await asyncio.get_running_loop().create_server(lambda: Bare(answer), "127.0.0.1", port, ssl=tls)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_bytes()))
