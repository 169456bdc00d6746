"""Evictions: what a disruption budget lets go, in upstream's words."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.apiserver.calls import Calls, Response, serving

Obj = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
VIOLATED = "Cannot evict pod as it would violate the pod's disruption budget."


async def running(calls: Calls, name: str, *, ready: bool = True, phase: str = "Running") -> None:
    spec = {"containers": [{"name": "c", "image": "i"}], "nodeName": "n"}
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": "a"}}, "spec": spec}
    assert (await calls.post(PODS, body)).code == 201
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    answer = await calls.patch(f"{PODS}/{name}/status", {"status": {"phase": phase, "conditions": conditions}})
    assert answer.code == 200, answer.json


async def budget(calls: Calls, name: str = "b", *, allowed: int = 0, spec: Obj | None = None, **status: Any) -> None:
    wanted = {"selector": {"matchLabels": {"app": "a"}}, "minAvailable": 1} | (spec or {})
    body = {"kind": "PodDisruptionBudget", "apiVersion": "policy/v1", "metadata": {"name": name}, "spec": wanted}
    assert (await calls.post(BUDGETS, body)).code == 201
    condition = {
        "type": "DisruptionAllowed",
        "status": "True",
        "reason": "SufficientPods",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    counted = {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
    told = counted | {"observedGeneration": 1, "conditions": [condition]} | status
    assert (await calls.patch(f"{BUDGETS}/{name}/status", {"status": told})).code == 200


async def evict(calls: Calls, name: str, **options: Any) -> Response:
    body = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name, "namespace": "default"}}
    return await calls.post(f"{PODS}/{name}/eviction", body | ({"deleteOptions": options} if options else {}))


async def terminating(calls: Calls, name: str) -> bool:
    found = await calls.get(f"{PODS}/{name}")
    return found.code == 404 or "deletionTimestamp" in found.json["metadata"]


def test_a_budget_that_allows_none_refuses_and_says_why() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await running(calls, "p")
            await budget(calls)
            answer = await evict(calls, "p")
            assert (answer.code, answer.json["reason"], answer.json["message"]) == (429, "TooManyRequests", VIOLATED)
            words = "The disruption budget b needs 1 healthy pods and has 1 currently"
            assert answer.json["details"]["causes"] == [{"reason": "DisruptionBudget", "message": words}]
            assert not await terminating(calls, "p")

    asyncio.run(trial())


def test_evictions_are_booked_until_none_is_left() -> None:
    async def trial() -> None:
        async with serving() as calls:
            for name in "pqr":
                await running(calls, name)
            await budget(calls, allowed=2)
            answers = await asyncio.gather(*(evict(calls, name) for name in "pqr"))
            assert sorted(answer.code for answer in answers) == [201, 201, 429]
            gone = {name for name in "pqr" if await terminating(calls, name)}
            status = (await calls.get(f"{BUDGETS}/b")).json["status"]
            assert status["disruptionsAllowed"] == 0
            assert set(status["disruptedPods"]) == gone
            assert (status["conditions"][0]["status"], status["conditions"][0]["reason"]) == (
                "False",
                "InsufficientPods",
            )

    asyncio.run(trial())


def test_a_dry_run_books_and_deletes_nothing() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await running(calls, "p")
            await budget(calls, allowed=1)
            assert (await evict(calls, "p", dryRun=["All"])).code == 201
            assert not await terminating(calls, "p")
            assert (await calls.get(f"{BUDGETS}/b")).json["status"]["disruptionsAllowed"] == 1

    asyncio.run(trial())


def test_pods_that_disrupt_nobody_go_without_asking() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await running(calls, "over", phase="Succeeded")
            await running(calls, "pending", phase="Pending")
            await running(calls, "unready", ready=False)
            await budget(calls)
            assert [(await evict(calls, name)).code for name in ("over", "pending", "unready")] == [201, 201, 201]
            await calls.patch(f"{BUDGETS}/b/status", {"status": {"currentHealthy": 0}})
            await running(calls, "sick", ready=False)
            assert (await evict(calls, "sick")).code == 429
            await calls.patch(f"{BUDGETS}/b", {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}})
            assert (await evict(calls, "sick")).code == 201

    asyncio.run(trial())


def test_a_budget_not_yet_counted_asks_for_patience() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await running(calls, "p")
            await budget(calls, allowed=1, observedGeneration=0)
            answer = await evict(calls, "p")
            assert (answer.code, answer.json["details"]["retryAfterSeconds"]) == (429, 10)
            assert "is still being processed by the server" in answer.json["details"]["causes"][0]["message"]

    asyncio.run(trial())


def test_two_budgets_are_one_too_many() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await running(calls, "p")
            await budget(calls, allowed=1)
            await budget(calls, "c", allowed=1)
            answer = await evict(calls, "p")
            assert answer.code == 500
            assert "more than one PodDisruptionBudget" in answer.json["message"]
            assert (await evict(calls, "missing")).code == 404

    asyncio.run(trial())
