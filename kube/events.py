"""Events: what a daemon tells people about their objects.

`event` queues and returns at once; `run` writes, one after the other, what `kube.correlation` lets through. While the API
server is away, events wait: a thousand of them, each twelve attempts long. Losing an event is allowed, blocking for one is
not. (k8s.io/client-go/tools/record/event.go)
"""

import asyncio
import logging
import time
from typing import Any, Literal, Never

from kube.client import Client, Patch
from kube.correlation import Correlator, Occurrence, Record, Reference
from kube.errors import ApiError, ApiUnreachable, NotFound
from kube.meta import Typed, now, timestamp
from kube.reconcile import Wake
from kube.resources import EVENTS

__all__ = ["Recorder", "Reference"]

log = logging.getLogger(__name__)

_ATTEMPTS = 12
_LONGEST_MESSAGE = 1024
_LONGEST_NAME = 253 - 17
"""What a name may have, less a dot and 16 hexadecimal digits."""


class Recorder:
    """`pause`: seconds before the first new attempt while the API server is away; the next ones are longer, up to 10. At most
    `qps` events a second are written, above `burst` at once; 0 is no limit. `linger`: seconds that events wait before they
    are written, so that what they tell of need not share the processor with telling; a warning, and what came before it, does not
    wait."""

    def __init__(
        self,
        client: Client,
        component: str,
        host: str = "",
        *,
        pause: float = 1.0,
        qps: float = 0.0,
        burst: int = 1,
        linger: float = 0.0,
    ) -> None:
        self._linger = linger
        self._urgent, self._hurry = 0.0, Wake()  # when the last warning came
        self._pause = pause
        self._client = client
        self._source = {"component": component} | ({"host": host} if host else {})
        # When it came, by two clocks, and what.
        self._queue: asyncio.Queue[tuple[float, str, Occurrence]] = asyncio.Queue(maxsize=1000)
        self._correlator = Correlator()
        self._qps, self._burst = qps, float(max(1, burst))
        self._tokens, self._filled = self._burst, time.monotonic()

    def event(
        self,
        about: Typed | Reference,
        type: Literal["Normal", "Warning"],  # noqa: A002  the field's name
        reason: str,
        message: str,
    ) -> None:
        """Say something about an object; `message` is cut at 1,024 characters, the API's limit."""
        reference = about if isinstance(about, Reference) else Reference.of(about)
        try:
            self._queue.put_nowait(
                (time.monotonic(), timestamp(now()), Occurrence(reference, type, reason, _cut(message)))
            )
        except asyncio.QueueFull:
            log.warning("event dropped, too many are waiting: %s %s: %s", reference.name, reason, message)

        if type == "Warning":
            self._urgent = time.monotonic()
            self._hurry.set()

    async def run(self) -> Never:
        while True:
            came, stamp, one = await self._queue.get()
            while came > self._urgent and (rest := came + self._linger - time.monotonic()) > 0:
                await self._hurry.wait(timeout=rest)
            found = self._correlator.observe(one, time.monotonic(), stamp)
            if found is not None:
                await self._turn()
                await self._deliver(*found, stamp)

    async def _turn(self) -> None:
        if self._qps <= 0:
            return
        moment = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (moment - self._filled) * self._qps) - 1.0
        self._filled = moment
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._qps)

    async def _deliver(self, one: Occurrence, record: Record, stamp: str) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await self._write(one, record, stamp)
            except (ApiUnreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status != 429 and error.status < 500:
                    log.info("event about %s not taken: %s", one.about.name, error)
                    return
                await asyncio.sleep(min(10.0, self._pause * (1 + attempt)))
            else:
                return
        log.warning("event given up, the API server is away: %s %s: %s", one.about.name, one.reason, one.message)

    async def _write(self, one: Occurrence, record: Record, stamp: str) -> None:
        namespace = one.about.namespace or "default"
        if record.name:
            body = {"count": record.count, "lastTimestamp": stamp, "message": _cut(one.message)}
            try:
                await self._client.patch(EVENTS, record.name, body, namespace, kind=Patch.STRATEGIC)
            except NotFound:  # events are kept for an hour
                record.name, record.first = "", stamp
            else:
                return
        name = f"{one.about.name[:_LONGEST_NAME].rstrip('-.')}.{time.time_ns():x}"
        await self._client.create(EVENTS, self._body(one, record, name, namespace, stamp), namespace)
        record.name = name

    def _body(self, one: Occurrence, record: Record, name: str, namespace: str, stamp: str) -> dict[str, Any]:
        about = one.about
        reference = {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
            "resourceVersion": about.resource_version,
            "fieldPath": about.field_path,
        }
        return {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {key: value for key, value in reference.items() if value},
            "reason": one.reason,
            "message": _cut(one.message),
            "type": one.type,
            "count": record.count,
            "firstTimestamp": record.first,
            "lastTimestamp": stamp,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source.get("host", ""),
        }


def _cut(message: str) -> str:
    """What JSON takes, of names that a container gave its files too: those need not be UTF-8."""
    message = message.encode(errors="replace").decode()
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
