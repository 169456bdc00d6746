"""Events: counted, combined, held back, and written when the API server is there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kube.client import Client
from kube.correlation import COMBINED, REMEMBERED, Correlator, Occurrence, Reference
from kube.events import Recorder
from kube.kubeconfig import Connection
from kube.meta import now, timestamp
from tests.unit.kube.http import Exchange, serving

POD = Reference("v1", "Pod", "default", "p", "u1")


def said(message: str, about: Reference = POD, reason: str = "BackOff") -> Occurrence:
    return Occurrence(about, "Warning", reason, message)


def observed(correlator: Correlator, one: Occurrence, now: float = 0.0) -> tuple[str, int] | None:
    found = correlator.observe(one, now, "then")
    return (found[0].message, found[1].count) if found else None


def test_the_same_is_counted_however_long_ago() -> None:
    correlator = Correlator()
    assert [observed(correlator, said("x"), now) for now in (0, 1, 3000)] == [("x", 1), ("x", 2), ("x", 3)]
    assert observed(correlator, said("x", Reference("v1", "Pod", "default", "q", "u2"))) == ("x", 1)
    assert observed(correlator, said("x", reason="Other")) == ("x", 1)


def test_what_differs_by_container_is_not_the_same() -> None:
    correlator = Correlator()
    one, other = (Reference("v1", "Pod", "default", "p", "u1", field_path=f"spec.containers{{{n}}}") for n in "ab")
    assert observed(correlator, said("x", one)) == ("x", 1)
    assert observed(correlator, said("x", other)) == ("x", 1)


def test_ten_similar_ones_within_ten_minutes_become_one() -> None:
    correlator = Correlator()
    for number in range(9):
        assert observed(correlator, said(f"m{number}"), float(number)) == (f"m{number}", 1)
    assert observed(correlator, said("m9"), 9) == (f"{COMBINED}m9", 1)
    assert observed(correlator, said("m10"), 10) == (f"{COMBINED}m10", 2)
    # what is said in one breath is one thing; after ten minutes of silence it starts over
    assert observed(correlator, said("m11"), 10 + 601) == ("m11", 1)


def test_an_object_that_talks_too_much_is_held_back_and_what_it_said_is_counted() -> None:
    correlator = Correlator()
    told = [observed(correlator, said("x"), 0) for _ in range(30)]
    assert told[24] == ("x", 25)
    assert told[25:] == [None] * 5
    assert observed(correlator, said("x"), 299) is None
    assert observed(correlator, said("x"), 301) == ("x", 32)
    assert observed(correlator, said("y", Reference("v1", "Pod", "default", "q", "u2")), 301) == ("y", 1)


def test_memory_is_bounded() -> None:
    correlator = Correlator()
    for number in range(3 * REMEMBERED):
        correlator.observe(said("x", Reference("v1", "Pod", "default", f"p{number}", f"u{number}")), 0.0, "then")
    assert max(len(correlator._records), len(correlator._similar), len(correlator._budgets)) == REMEMBERED


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass
class Store:
    """As much of an API server as events need; it can be told to fail."""

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)  # statuses of the next answers
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, exchange: Exchange) -> None:
        self.requests.append(f"{exchange.method} {exchange.headers.get('Content-Type', '')}")
        body = json.loads(exchange.body or b"{}")
        name = exchange.target.rpartition("/")[2]
        if self.failing:
            await self._say(exchange, {"kind": "Status", "message": "no"}, self.failing.pop(0))
        elif exchange.method == "POST":
            self.events[body["metadata"]["name"]] = body
            await self._say(exchange, body, "201 Created")
        elif name in self.events:
            self.events[name] |= body
            await self._say(exchange, self.events[name], "200 OK")
        else:
            await self._say(exchange, {"kind": "Status", "reason": "NotFound", "code": 404}, "404 Not Found")
        async with self.changed:
            self.changed.notify_all()

    async def _say(self, exchange: Exchange, body: dict[str, Any], status: str) -> None:
        await exchange.answer(json.dumps(body).encode(), status, **{"Content-Type": "application/json"})

    async def until(self, *counts: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: [e["count"] for e in self.events.values()] == list(counts))
        return list(self.events.values())


@asynccontextmanager
async def recording(store: Store, **options: Any) -> AsyncIterator[Recorder]:
    async with serving(store.answer) as server, Client(Connection(server.url)) as client:
        recorder = Recorder(client, "test", "n1", pause=0.01, **options)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(recorder.run())
            try:
                yield recorder
            finally:
                task.cancel()


async def test_an_event_that_lingers_keeps_its_time() -> None:
    store = Store()
    async with recording(store, linger=1.1) as recorder:
        before = timestamp(now())
        recorder.event(POD, "Normal", "Started", "x")
        (event,) = await store.until(1)
    assert event["firstTimestamp"] == event["lastTimestamp"]
    assert before <= event["firstTimestamp"] < timestamp(now())


async def test_a_warning_does_not_linger_nor_does_what_came_before_it() -> None:
    store = Store()
    async with recording(store, linger=3600) as recorder:
        for message in ("a", "b"):
            recorder.event(POD, "Normal", "Started", message)
        await asyncio.sleep(0)
        recorder.event(POD, "Warning", "BackOff", "x")
        recorder.event(POD, "Normal", "Started", "c")
        assert [event["message"] for event in await store.until(1, 1, 1)] == ["a", "b", "x"]


async def test_an_event_is_created_once_and_then_patched() -> None:
    store = Store()
    async with recording(store) as recorder:
        for _ in range(3):
            recorder.event(POD, "Warning", "BackOff", "x" * 2000)
        (event,) = await store.until(3)
    assert store.requests == [
        "POST application/json",
        "PATCH application/strategic-merge-patch+json",
        "PATCH application/strategic-merge-patch+json",
    ]
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": "p",
        "uid": "u1",
    }
    assert event["source"] == {"component": "test", "host": "n1"}
    assert len(event["message"]) == 1024
    assert event["lastTimestamp"].endswith("Z")


async def test_a_name_that_is_no_text_is_told_as_far_as_it_can_be() -> None:
    store = Store()
    async with recording(store) as recorder:
        recorder.event(POD, "Warning", "FailedValidation", "\udcff.yaml: wrong")
        (event,) = await store.until(1)
    assert event["message"] == "?.yaml: wrong"


async def test_an_event_that_has_expired_is_written_anew_with_its_count() -> None:
    store = Store()
    async with recording(store) as recorder:
        recorder.event(POD, "Normal", "Pulled", "x")
        await store.until(1)
        store.events.clear()
        recorder.event(POD, "Normal", "Pulled", "x")
        await store.until(2)


async def test_a_server_in_trouble_is_asked_again_and_a_refusal_is_taken() -> None:
    store = Store(failing=["503 Service Unavailable", "429 Too Many Requests", "403 Forbidden"])
    async with recording(store) as recorder:
        recorder.event(POD, "Normal", "Refused", "x")
        recorder.event(POD, "Normal", "Taken", "x")
        (event,) = await store.until(1)
    assert event["reason"] == "Taken"


async def test_nobody_waits_for_events() -> None:
    store = Store()
    async with recording(store, qps=1.0, burst=2) as recorder:
        for number in range(2000):
            recorder.event(POD, "Normal", f"R{number}", "x")
        await store.until(1, 1)
        assert len(store.requests) == 2, "the others have to wait their turn"
