"""Events: what a daemon tells people about their objects.

`event` queues and returns at once; `run` writes. The same event about the same object within ten minutes is counted up on
the object that exists instead of written anew, as client-go's correlator does; a spam filter gives each object a burst of
25 and then one every five minutes. While the API server is away, events wait (a thousand of them, each about two minutes of
its turn). Losing an event is allowed, blocking for one is not.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Literal, Never

from kube.client import Client
from kube.errors import ApiError, ApiUnreachable, NotFound
from kube.meta import ObjectMeta, Typed, now, timestamp
from kube.resources import EVENTS

log = logging.getLogger(__name__)

_SAME_WINDOW = 600.0
_BURST = 25.0
_REFILL_SECONDS = 300.0
_ATTEMPTS = 15
_LONGEST_NAME = 253 - 17
"""What a name may have, less a dot and 16 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str = field(default="", compare=False)
    field_path: str = ""

    @classmethod
    def of(cls, obj: Typed, *, kind: str = "", api_version: str = "v1", field_path: str = "") -> "Reference":
        """Members of a list come without kind and version: then `kind` and `api_version` say it."""
        meta: ObjectMeta = obj.metadata
        return cls(
            obj.api_version or api_version,
            obj.kind or kind or type(obj).__name__,
            meta.namespace,
            meta.name,
            meta.uid,
            meta.resource_version,
            field_path,
        )


@dataclass(frozen=True, slots=True)
class _Event:
    about: Reference
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class _Written:
    name: str
    first: str
    count: int
    last: float


class Recorder:
    """`pause`: seconds before the first new attempt while the API server is away; the next ones are longer."""

    def __init__(self, client: Client, component: str, host: str = "", *, pause: float = 1.0) -> None:
        self._pause = pause
        self._client = client
        self._source = {"component": component} | ({"host": host} if host else {})
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(maxsize=1000)
        self._written: dict[_Event, _Written] = {}
        self._budget: dict[str, tuple[float, float]] = {}

    def event(
        self,
        about: Typed | Reference,
        type: Literal["Normal", "Warning"],  # noqa: A002  the field's name
        reason: str,
        message: str,
    ) -> None:
        """Say something about an object; `message` is cut at 1,024 characters, the API's limit."""
        reference = about if isinstance(about, Reference) else Reference.of(about)
        if len(message) > 1024:
            message = message[:1021] + "..."
        try:
            self._queue.put_nowait(_Event(reference, type, reason, message))
        except asyncio.QueueFull:
            log.warning("event dropped, too many are waiting: %s %s: %s", reference.name, reason, message)

    async def run(self) -> Never:
        while True:
            event = await self._queue.get()
            if not self._allowed(event.about):
                continue
            for attempt in range(_ATTEMPTS):
                try:
                    await self._write(event)
                    break
                except ApiUnreachable:
                    await asyncio.sleep(min(10.0, self._pause * (1 + attempt)))
                except ApiError as error:
                    log.info("event about %s not taken: %s", event.about.name, error)
                    break

    def _allowed(self, about: Reference) -> bool:
        moment = time.monotonic()
        key = f"{about.kind}/{about.namespace}/{about.name}/{about.uid}"
        tokens, last = self._budget.pop(key, (_BURST, moment))
        tokens = min(_BURST, tokens + (moment - last) / _REFILL_SECONDS)
        self._budget[key] = (max(0.0, tokens - 1.0), moment)
        if len(self._budget) > 4096:
            self._budget.pop(next(iter(self._budget)))
        return tokens >= 1.0

    async def _write(self, event: _Event) -> None:
        namespace = event.about.namespace or "default"
        known = self._written.get(event)
        stamp = timestamp(now())
        if known and time.monotonic() - known.last < _SAME_WINDOW:
            body = {"count": known.count + 1, "lastTimestamp": stamp}
            try:
                await self._client.patch(EVENTS, known.name, body, namespace)
            except NotFound:
                del self._written[event]
            else:
                known.count += 1
                known.last = time.monotonic()
                return
        name = f"{event.about.name[:_LONGEST_NAME].rstrip('-.')}.{time.time_ns():x}"
        await self._client.create(EVENTS, self._body(event, name, namespace, stamp), namespace)
        self._written[event] = _Written(name, stamp, 1, time.monotonic())
        if len(self._written) > 2048:
            self._written.pop(next(iter(self._written)))

    def _body(self, event: _Event, name: str, namespace: str, stamp: str) -> dict[str, Any]:
        about = event.about
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
            "reason": event.reason,
            "message": event.message,
            "type": event.type,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source.get("host", ""),
        }
