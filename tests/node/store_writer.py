"""A process that writes to a store as fast as it is acknowledged, to be killed.

    python -m tests.node.store_writer sqlite PATH | etcd URL      writers 16, sizes up to 6 KB

Each writer has three keys and writes its counter to all three in one transaction. What was acknowledged goes to stdout, one
line a transaction (`WRITER COUNTER RV`), before the writer goes on: so at most one of its transactions is under way at any time.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from apiserver.store import Committed, Op, Store
from apiserver.store.sqlite import open_store as open_sqlite

WRITERS = 16
PARTS = ("a", "b", "c")


@asynccontextmanager
async def opened(kind: str, place: str) -> AsyncIterator[Store]:
    if kind == "sqlite":
        async with open_sqlite(Path(place)) as store:
            yield store
        return
    from apiserver.store.etcd import open_store as open_etcd
    from kube.etcd import Access

    async with open_etcd(Access((place,)), "/registry", root="") as store:
        yield store


def value_of(counter: int, size: int) -> bytes:
    return b"%d " % counter + b"x" * size


def counter_of(value: bytes) -> int:
    return int(value.split(b" ", 1)[0])


async def write(store: Store, writer: int, limit: int) -> None:
    rng = random.Random(writer)
    found = {entry.key: entry for entry in (await store.load(f"/k/{writer}/")).entries}
    rvs = [found[key].rv if (key := f"/k/{writer}/{part}") in found else 0 for part in PARTS]
    counter = counter_of(found[f"/k/{writer}/a"].value) if found else 0
    for _ in range(limit):
        counter += 1
        ops = [
            Op(f"/k/{writer}/{part}", value_of(counter, rng.randrange(6000)), rv)
            for part, rv in zip(PARTS, rvs, strict=True)
        ]
        result = await store.txn(ops)
        assert isinstance(result, Committed), f"writer {writer} is the only one of its keys, but {result} at {counter}"
        rvs = list(result.rvs)
        os.write(1, b"%d %d %d\n" % (writer, counter, rvs[-1]))


async def main(kind: str, place: str, limit: int) -> None:
    async with opened(kind, place) as store, asyncio.TaskGroup() as group:
        os.write(1, b"open\n")
        for writer in range(WRITERS):
            group.create_task(write(store, writer, limit))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1 << 60))
