"""Endpoints change, connections go on: how many of those fail?

1,000 Services of 5 endpoints in one namespace, where all of 10.244.0.0/16 is local: one listening socket is every pod and says as
which it was reached. 50 times a second an endpoint of some Service is replaced by another, while connections are made all the
time, most of them to Services that have just changed. A failure is a connection that is not made in a second, or is made to an
endpoint that its Service had left two seconds before. A connection whose second ran out while this program itself did not get
the processor for a quarter of a second says nothing; such are counted apart, and where they are many there is no figure.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from tests.bench._services import (
    ENDPOINTS,
    NODE_IP,
    Centre,
    daemon,
    endpoint_slice,
    legacy_table,
    locked_in,
    namespace,
    prefer_legacy,
)

COUNT, CHANGES_A_SECOND, CONNECTIONS_A_SECOND = 1000, 50, 300
GRACE, PATIENCE, LATE = 2.0, 1.0, 0.25
VOID = 0.01
"""The share of connections that may say nothing."""
CLUSTER_IP, PORT = IPv4Address("10.96.0.10"), 80


@dataclass(slots=True)
class Outcome:
    connections: int = 0
    changes: int = 0
    unmade: int = 0
    astray: int = 0
    slowest: float = 0.0
    void: int = 0
    stalled: float = field(default=0.0, compare=False)  # when this program last came late

    @property
    def failures(self) -> int:
        return self.unmade + self.astray

    @property
    def telling(self) -> bool:
        """Whether so few say nothing that the others stand for them."""
        return self.void <= self.connections * VOID

    def lost(self, error: OSError, began: float) -> None:
        """A connection begun at `began` was not made. Only patience that ran out can be this program's own doing: a refusal, a
        reset or a missing route is the kernel's word, however late it is read."""
        if isinstance(error, TimeoutError) and self.stalled > began:
            self.void += 1
        else:
            self.unmade += 1

    def __add__(self, other: Outcome) -> Outcome:
        sums = (self.connections + other.connections, self.changes + other.changes)
        failures = (self.unmade + other.unmade, self.astray + other.astray)
        return Outcome(*sums, *failures, max(self.slowest, other.slowest), self.void + other.void)

    def words(self) -> str:
        return (
            f"of {self.connections:,} connections, {self.changes:,} changes: {self.unmade} not made, {self.astray} to an"
            f" endpoint that was gone; slowest {self.slowest * 1000:.0f} ms; {self.void} say nothing"
        )


@dataclass(slots=True)
class Ends:
    """Who is behind each Service, and since when who is not."""

    present: list[list[int]] = field(default_factory=lambda: [list(range(ENDPOINTS)) for _ in range(COUNT)])
    left: dict[tuple[int, int], float] = field(default_factory=dict)
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=100))

    def replace(self, index: int) -> None:
        """One of six addresses is always out; which, changes."""
        (out,) = set(range(ENDPOINTS + 1)) - set(self.present[index])
        place = random.randrange(ENDPOINTS)
        self.left[index, self.present[index][place]] = time.monotonic()
        self.left.pop((index, out), None)
        self.present[index][place] = out
        self.recent.append(index)


def measured(mode: str, seconds: float) -> Outcome:
    """In a namespace of its own."""
    legacy = mode == "iptables-legacy"
    with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home, locked_in(Path(home)), namespace("churn"):
        for words in ("local 10.244.0.0/16 dev lo", f"10.96.0.0/16 dev lo src {NODE_IP}"):
            subprocess.run(["ip", "route", "add", *words.split()], check=True)
        if legacy:
            prefer_legacy()
        with (
            Centre(COUNT, legacy_table if legacy else None).serving() as centre,
            daemon(Path(home), centre, f"--proxy-mode={mode.partition('-')[0]}"),
        ):
            return asyncio.run(_churned(centre, seconds))


async def _churned(centre: Centre, seconds: float) -> Outcome:
    outcome, ends = Outcome(), Ends()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("sockname")[0].encode())
        writer.close()

    async with await asyncio.start_server(answer, "0.0.0.0", 8080, backlog=1024), asyncio.TaskGroup() as group:
        for _ in range(200):  # until the daemon watches: what is told before is lost
            if centre.watched():
                break
            await asyncio.sleep(0.05)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            while outcome.changes < passed * CHANGES_A_SECOND:
                index = random.randrange(COUNT)
                ends.replace(index)
                outcome.changes += 1
                centre.tell(_slice(index, ends.present[index], outcome.changes + 1))
            while outcome.connections < passed * CONNECTIONS_A_SECOND:
                outcome.connections += 1
                index = random.choice(ends.recent) if random.random() < 0.7 else random.randrange(COUNT)
                group.create_task(_connection(outcome, ends, index))
            turned = time.monotonic()
            await asyncio.sleep(0.005)
            if time.monotonic() - turned > LATE:
                outcome.stalled = time.monotonic()
    return outcome


async def _connection(outcome: Outcome, ends: Ends, index: int) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(str(CLUSTER_IP + index), PORT)
            said = (await reader.read()).decode()
            writer.close()
    except OSError as error:
        if isinstance(error, TimeoutError):
            await asyncio.sleep(LATE)  # the loop above has said by then whether it was late
        outcome.lost(error, began)
        return
    outcome.slowest = max(outcome.slowest, time.monotonic() - began)
    base = IPv4Address("10.244.0.2") + index * (ENDPOINTS + 1)
    each = int(IPv4Address(said)) - int(base)
    if not 0 <= each <= ENDPOINTS or began - ends.left.get((index, each), began) > GRACE:
        outcome.astray += 1


def _slice(index: int, present: list[int], version: int) -> dict[str, object]:
    whole = endpoint_slice(index, ENDPOINTS + 1, version)
    return whole | {"endpoints": [whole["endpoints"][each] for each in sorted(present)]}
