"""A client that costs little: so many connections, each with one prebuilt request after the other.

    python -m tests.node.loads PORT TOKEN CONNECTIONS SECONDS PAUSE

It creates ConfigMaps in namespace default and prints one line of JSON: how many were created (201), how many refused (429),
and the latencies in seconds of those created. TLS, nothing verified; a connection waits PAUSE seconds between two requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    codes: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)


def request(token: str, name: str) -> bytes:
    body = json.dumps({"metadata": {"name": name}, "data": {"k": "v" * 500}}).encode()
    head = (
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
    await reader.readexactly(length)
    return int(head[9:12])


TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


async def connection(port: int, token: str, number: int, until: float, pause: float, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=TLS)
    count = 0
    while time.monotonic() < until:
        count += 1
        writer.write(request(token, f"load-{os.getpid()}-{number}-{count}"))
        started = time.monotonic()
        code = await answer(reader)
        tally.codes[code] = tally.codes.get(code, 0) + 1
        if code == 201:
            tally.latencies.append(time.monotonic() - started)
        elif code == 429:
            await asyncio.sleep(1)  # as it was told
        if pause:
            await asyncio.sleep(pause)
    writer.close()


async def main(port: int, token: str, connections: int, seconds: float, pause: float) -> None:
    tally = Tally()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(connection(port, token, number, until, pause, tally))
    print(json.dumps({"created": tally.codes.pop(201, 0), "others": tally.codes, "latencies": sorted(tally.latencies)}))


if __name__ == "__main__":
    port, token, connections, seconds, pause = sys.argv[1:]
    asyncio.run(main(int(port), token, int(connections), float(seconds), float(pause)))
