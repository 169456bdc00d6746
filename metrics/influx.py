"""Pushing to InfluxDB (1.x, line protocol over HTTP), as cAdvisor's `--storage_driver=influxdb`: its names of measurements,
its tags `machine` and `container_name`, and the tags `namespace`, `pod`, `container`, so that pods can be told apart.

https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/

A reading each `--housekeeping_interval` becomes one batch of lines; each `--storage_driver_buffer_duration` what has gathered is
written, oldest first. A database that is away, refuses the user or lacks the database is asked again, ever more seldom up to
SELDOMEST; what gathers meanwhile is bounded by BUFFER bytes, and the oldest batches go first. A batch that the database finds
wrong in itself is never sent again. All of that is counted.
"""

import asyncio
import base64
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client import CollectorRegistry, Counter, Gauge

from kube.errors import UsageError
from metrics.model import Part, Sample, Snapshot

log = logging.getLogger(__name__)

PARTS: Final = frozenset({Part.CPU, Part.CPU_SPLIT, Part.MEMORY, Part.MEMORY_PEAK, Part.NETWORK, Part.FILESYSTEMS})
BUFFER: Final = 16 << 20
SELDOMEST: Final = 300.0
_TIMEOUT = ClientTimeout(total=20)
_WRONG = frozenset({400, 413})
"""Statuses that say that the batch itself is at fault."""
_SPECIAL = re.compile(r"([,= ])")
_TROUBLE = re.compile(r"\\+(?=[,= ]|$)")
"""Backslashes that would change what comes after them; others stand for themselves."""
_BREAKS = re.compile(r"[\r\n\t\0]")


@dataclass(frozen=True, slots=True)
class Batch:
    """One reading as it is sent."""

    body: bytes
    points: int


@dataclass(frozen=True, slots=True)
class Database:
    url: str
    params: dict[str, str]
    headers: dict[str, str]


def database(host: str, name: str, user: str, password: str, retention: str, secure: bool) -> Database:
    """Raises UsageError for a host that is none."""
    try:
        at = urlsplit(f"//{host}")
        port = 8086 if at.port is None else at.port
    except ValueError:  # what follows the colon is no port
        at, port = urlsplit(""), 0
    if not (at.hostname and port and at.netloc == host and "@" not in host):
        raise UsageError(f"--storage_driver_host: {host!r} is not HOST or HOST:PORT; write it as in localhost:8086")
    if not name:
        raise UsageError("--storage_driver_db: it is empty; name the database, which must be there")
    if password and not user:
        raise UsageError("--storage_driver_password: there is no user; give --storage_driver_user too")
    params = {"db": name, "precision": "ns"} | ({"rp": retention} if retention else {})
    word = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {word}"} if user else {}
    return Database(f"{'https' if secure else 'http'}://{host if at.port else f'{host}:{port}'}/write", params, headers)


def escaped(text: str) -> str:
    """As the value of a tag."""
    return _SPECIAL.sub(r"\\\1", _TROUBLE.sub("/", _BREAKS.sub(" ", text)))


def batch(snapshot: Snapshot, machine: str) -> Batch:
    when = int(snapshot.when * 1e9)
    lines = [
        f"{name},{_tags(sample, machine)}{more} value={value}i {when}\n"
        for sample in snapshot.samples
        for name, more, value in _points(sample, snapshot)
    ]
    return Batch("".join(lines).encode("utf-8", "replace"), len(lines))


def _tags(sample: Sample, machine: str) -> str:
    """Sorted, as the database likes them; one without a value may not be written."""
    who = sample.identity
    name = who.name if who is not None and who.name and sample.kind != "pod" else sample.path
    labels = sample.labels
    tags = {
        "container": labels.get("container", ""),
        "container_name": name,
        "machine": machine,
        "namespace": labels.get("namespace", ""),
        "pod": labels.get("pod", ""),
    }
    return ",".join([f"{key}={escaped(value)}" for key, value in tags.items() if value])


def _points(sample: Sample, snapshot: Snapshot) -> Iterator[tuple[str, str, int]]:
    """Measurement, tags of its own, value; what the kernel does not say is left out."""
    cpu, memory = sample.usage.cpu, sample.usage.memory
    values: dict[str, int | None] = {}
    if cpu is not None:
        values |= {"cpu_usage_total": cpu.usage_ns, "cpu_usage_user": cpu.user_ns, "cpu_usage_system": cpu.system_ns}
    if memory is not None:
        values |= {"memory_usage": memory.usage, "memory_max_usage": memory.max_usage}
        values |= {"memory_working_set": memory.working_set}
    if sample.interfaces:
        values |= {
            "rx_bytes": sum(one.receive_bytes for one in sample.interfaces),
            "rx_errors": sum(one.receive_errors for one in sample.interfaces),
            "tx_bytes": sum(one.transmit_bytes for one in sample.interfaces),
            "tx_errors": sum(one.transmit_errors for one in sample.interfaces),
        }
    for name, value in values.items():
        if value is not None:
            yield name, "", value
    if sample.kind == "root":
        for disk in snapshot.filesystems:
            yield "fs_limit", f",type={escaped(disk.device)}", disk.total
            yield "fs_usage", f",type={escaped(disk.device)}", disk.used


class Push:
    """`read` blocks: it has a thread's time."""

    def __init__(
        self,
        read: Callable[[frozenset[Part]], Snapshot],
        target: Database,
        machine: str,
        *,
        interval: float,
        every: float,
        registry: CollectorRegistry,
        buffer: int = BUFFER,
    ) -> None:
        if not 0.1 <= every <= 3600:
            raise UsageError(f"--storage_driver_buffer_duration: {every:g} s is not between 100ms and 1h")
        self._read, self._target, self._machine = read, target, machine
        self._interval, self._every, self._most = interval, every, buffer
        self._waiting: deque[Batch] = deque()
        self._bytes = 0
        self._trouble = ""
        self._points = Counter(
            "wherry_metrics_influxdb_points",
            "Points for InfluxDB: written, refused by it, or dropped because it was away for too long.",
            ("result",),
            registry=registry,
        )
        for result in ("written", "refused", "dropped"):
            self._points.labels(result)
        Gauge(
            "wherry_metrics_influxdb_buffered_bytes", "Bytes that wait for InfluxDB.", registry=registry
        ).set_function(lambda: self._bytes)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._gather(), name="influxdb-gather")
            group.create_task(self._send(), name="influxdb-send")

    async def _gather(self) -> None:
        while True:
            began = time.monotonic()
            self.keep(await asyncio.to_thread(lambda: batch(self._read(PARTS), self._machine)))
            await asyncio.sleep(max(0.0, self._interval - (time.monotonic() - began)))

    def keep(self, new: Batch) -> None:
        self._waiting.append(new)
        self._bytes += len(new.body)
        while self._bytes > self._most and len(self._waiting) > 1:
            self._points.labels("dropped").inc(self._take().points)

    def _take(self) -> Batch:
        oldest = self._waiting.popleft()
        self._bytes -= len(oldest.body)
        return oldest

    async def _send(self) -> None:
        pause = self._every
        async with ClientSession(timeout=_TIMEOUT, headers=self._target.headers) as session:
            while True:
                await asyncio.sleep(pause)
                well = await self.flush(session)
                pause = self._every if well else min(max(self._every, pause * 2), max(SELDOMEST, self._every))

    async def flush(self, session: ClientSession) -> bool:
        """Write what waits; whether the database took part in it to the end."""
        while self._waiting:
            oldest = self._take()  # out of the queue while under way: nobody else may drop it then
            status, said = await self._write(session, oldest.body)
            if status // 100 == 2:
                self._points.labels("written").inc(oldest.points)
                self._tell("")
            elif status in _WRONG:
                self._points.labels("refused").inc(oldest.points)
                self._tell(f"a batch is refused: {status} {said}")
            else:
                self._waiting.appendleft(oldest)
                self._bytes += len(oldest.body)
                self._tell(f"nothing is taken: {status or 'no answer'} {said}{_REMEDIES.get(status, '')}")
                return False
        return True

    async def _write(self, session: ClientSession, body: bytes) -> tuple[int, str]:
        """The status, 0 for no answer, and what was said."""
        try:
            async with session.post(
                self._target.url, params=self._target.params, data=body, allow_redirects=False
            ) as answer:
                return answer.status, (await answer.content.read(300)).decode(errors="replace").strip()
        except (ClientError, TimeoutError, OSError) as error:
            return 0, str(error) or type(error).__name__

    def _tell(self, trouble: str) -> None:
        """Once for each kind of trouble, and once that it is over."""
        if trouble != self._trouble:
            log.warning("InfluxDB at %s: %s", self._target.url, trouble or "all is well again")
        self._trouble = trouble


_REMEDIES: Final = {
    401: "; give --storage_driver_user and --storage_driver_password",
    403: "; the user needs the right to write to the database",
    404: "; CREATE DATABASE there, or name another one with --storage_driver_db",
}
