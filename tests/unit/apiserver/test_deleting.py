"""DELETE: what its kind does by default, what finalizers say, what a dry run leaves, which namespaces stay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from apiserver.deletion import JOB_WARNING, MAX_GRACE, Options, options, planned
from apiserver.errors import StatusError
from tests.unit.apiserver.calls import Calls, Response, serving

Obj = dict[str, Any]
JOBS = "/apis/batch/v1/namespaces/default/jobs"
CONTROLLERS = "/api/v1/namespaces/default/replicationcontrollers"
MAPS = "/api/v1/namespaces/default/configmaps"
TEMPLATE: Obj = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


async def job(calls: Calls, name: str = "j") -> None:
    spec = {"template": {"spec": TEMPLATE["spec"] | {"restartPolicy": "Never"}}}
    body = {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": name}, "spec": spec}
    assert (await calls.post(JOBS, body)).code == 201


async def config_map(calls: Calls, name: str, **metadata: Any) -> Response:
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, **metadata}}
    return await calls.post(MAPS, body)


def test_jobs_and_replication_controllers_orphan_unless_told_otherwise() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await job(calls)
            answer = await calls.call("DELETE", f"{JOBS}/j")
            assert answer.json["metadata"]["finalizers"] == ["orphan"]
            assert answer.warnings == (JOB_WARNING,)
            await job(calls, "k")
            answer = await calls.call("DELETE", f"{JOBS}/k", {"propagationPolicy": "Background"})
            assert (answer.json["status"], answer.warnings) == ("Success", ())
            body = {"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "r"}}
            await calls.post(CONTROLLERS, body | {"spec": {"selector": {"a": "b"}, "template": TEMPLATE}})
            answer = await calls.call("DELETE", f"{CONTROLLERS}/r")
            assert (answer.json["metadata"]["finalizers"], answer.warnings) == (["orphan"], ())

    asyncio.run(trial())


def test_policies_are_finalizers_and_the_last_word_counts() -> None:
    async def trial() -> None:
        async with serving() as calls:
            await config_map(calls, "a", finalizers=["mine.example.com/x"])
            answer = await calls.call("DELETE", f"{MAPS}/a", {"propagationPolicy": "Foreground"})
            assert answer.json["metadata"]["finalizers"] == ["mine.example.com/x", "foregroundDeletion"]
            first = answer.json["metadata"]["deletionTimestamp"]
            answer = await calls.call("DELETE", f"{MAPS}/a", {"propagationPolicy": "Orphan"})
            assert answer.json["metadata"]["finalizers"] == ["mine.example.com/x", "orphan"]
            assert answer.json["metadata"]["deletionTimestamp"] == first
            both = {"propagationPolicy": "Orphan", "orphanDependents": True}
            answer = await calls.call("DELETE", f"{MAPS}/a", both)
            assert answer.code == 422
            assert "orphanDependents and deletionPropagation cannot be both set" in answer.json["message"]

    asyncio.run(trial())


@pytest.mark.parametrize("grace", ["--5", "²", "٣", "9" * 5000, "1.5", "-", "1 ", "9" * 19])
def test_a_grace_period_that_is_no_number_is_refused(grace: str) -> None:
    with pytest.raises(StatusError, match="whole number of seconds") as refused:
        options({}, {"gracePeriodSeconds": grace})
    assert (refused.value.code, len(refused.value.message) < 200) == (400, True)


@pytest.mark.parametrize(("asked", "own"), [(10**12, 30), (None, 10**12), (2**63 - 1, 30)])
def test_a_grace_period_of_ages_ends_when_somebody_says_so(asked: int | None, own: int) -> None:
    pod = {"kind": "Pod", "metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": own}}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    ending = planned(True, pod, Options(grace=asked), moment)
    assert ending is not None
    assert ending["metadata"] == {"deletionTimestamp": "2318-04-12T23:47:16Z", "deletionGracePeriodSeconds": MAX_GRACE}
    shortened = planned(True, ending, Options(grace=5), moment)
    assert shortened is not None
    assert shortened["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:05Z"
    ending["metadata"]["deletionGracePeriodSeconds"] = 10**12  # written by another server
    assert planned(True, ending, Options(grace=5), moment) is not None
    assert planned(True, ending, Options(grace=0), moment) is None


def test_a_dry_run_deletes_nothing_of_a_collection() -> None:
    async def trial() -> None:
        async with serving() as calls:
            for name in "abc":
                await config_map(calls, name, labels={"x": name})
            answer = await calls.call("DELETE", f"{MAPS}?dryRun=All")
            assert answer.code == 200
            await calls.call("DELETE", f"{MAPS}?labelSelector=x+in+(a,b)")
            assert [one["metadata"]["name"] for one in (await calls.get(MAPS)).json["items"]] == ["c"]

    asyncio.run(trial())


def test_namespaces_end_once() -> None:
    async def trial() -> None:
        async with serving() as calls:
            for name in ("default", "kube-system", "kube-public"):
                answer = await calls.call("DELETE", f"/api/v1/namespaces/{name}")
                assert (answer.code, answer.json["message"]) == (
                    403,
                    f'namespaces "{name}" is forbidden: this namespace may not be deleted',
                )
            namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}}
            await calls.post("/api/v1/namespaces", namespace)
            once = await calls.call("DELETE", "/api/v1/namespaces/n")
            assert (once.code, once.json["status"]["phase"]) == (200, "Terminating")
            twice = await calls.call("DELETE", "/api/v1/namespaces/n")
            assert twice.json["metadata"]["resourceVersion"] == once.json["metadata"]["resourceVersion"]

    asyncio.run(trial())
