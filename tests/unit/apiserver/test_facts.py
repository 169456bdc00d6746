"""What is special about a kind: the tables name served kinds, and the verbs heed them."""

from typing import Any

import pytest

from apiserver import facts, schema
from tests.unit.apiserver.calls import serving

PLURALS = {one.plural for one in schema.served()}
ROLE = {"metadata": {"name": "r"}, "rules": []}
BUDGET = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}
STORAGE_CLASS = {"metadata": {"name": "s"}, "provisioner": "p.example"}
ATTACHMENT = {
    "metadata": {"name": "v", "labels": {"a": "b"}},
    "spec": {"attacher": "a.example", "nodeName": "n", "source": {"persistentVolumeName": "pv"}},
    "status": {"attached": True},
}
CRON = {
    "metadata": {"name": "c"},
    "spec": {
        "schedule": "* * * * *",
        "jobTemplate": {
            "spec": {
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
            }
        },
    },
}
IN = "namespaces/default"


@pytest.mark.parametrize(
    "names",
    [
        facts.CREATE_ON_UPDATE,
        facts.CONDITIONAL_UPDATE,
        facts.WITH_GENERATION,
        facts.RETURN_DELETED,
        facts.OWN_STATUS,
        facts.STATUS_KEEPS.keys(),
    ],
)
def test_tables_name_served_kinds(names: frozenset[str]) -> None:
    assert names <= PLURALS


def test_a_new_status_has_the_figures_that_are_always_written() -> None:
    def status(group: str, plural: str) -> dict[str, Any]:
        info = schema.resource(group, "v1", plural)
        assert info is not None
        return facts.empty_status(info)

    assert status("apps", "statefulsets") == {"replicas": 0, "availableReplicas": 0}
    assert status("apps", "deployments") == {}
    assert status("storage.k8s.io", "volumeattachments") == {"attached": False}
    assert status("networking.k8s.io", "ingresses") == {"loadBalancer": {}}


async def test_put_of_what_is_not_there() -> None:
    async with serving() as calls:
        made = await calls.call("PUT", f"/apis/rbac.authorization.k8s.io/v1/{IN}/roles/r", ROLE)
        assert made.code == 201
        missing = await calls.call("PUT", f"/apis/policy/v1/{IN}/poddisruptionbudgets/b", BUDGET)
        assert (missing.code, missing.json["message"]) == (404, 'poddisruptionbudgets.policy "b" not found')


async def test_put_without_a_version() -> None:
    async with serving() as calls:
        await calls.post(f"/apis/policy/v1/{IN}/poddisruptionbudgets", BUDGET)
        refused = await calls.call("PUT", f"/apis/policy/v1/{IN}/poddisruptionbudgets/b", BUDGET)
        assert refused.code == 422
        assert "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in refused.json["message"]
        await calls.post(f"/apis/rbac.authorization.k8s.io/v1/{IN}/roles", ROLE)
        assert (await calls.call("PUT", f"/apis/rbac.authorization.k8s.io/v1/{IN}/roles/r", ROLE)).code == 200


async def test_the_generation_counts_what_is_wanted() -> None:
    async with serving() as calls:
        url = f"/apis/batch/v1/{IN}/cronjobs"
        assert (await calls.post(url, CRON)).json["metadata"]["generation"] == 1
        labelled = await calls.patch(f"{url}/c", {"metadata": {"labels": {"a": "b"}}})
        assert labelled.json["metadata"]["generation"] == 1
        changed = await calls.patch(f"{url}/c", {"spec": {"suspend": True}})
        assert changed.json["metadata"]["generation"] == 2
        observed = await calls.patch(f"{url}/c/status", {"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}})
        assert observed.json["metadata"]["generation"] == 2


async def test_a_status_is_written_at_its_own_endpoint_alone() -> None:
    async with serving() as calls:
        url = "/apis/storage.k8s.io/v1/volumeattachments"
        made = await calls.post(url, ATTACHMENT)
        assert made.json["status"] == {"attached": False}
        ignored = await calls.patch(f"{url}/v", {"status": {"attached": True}, "metadata": {"labels": {"c": "d"}}})
        assert ignored.json["status"] == {"attached": False}
        body = {"status": {"attached": True}, "metadata": {"labels": {"e": "f"}}, "spec": {"nodeName": "other"}}
        seen = (await calls.patch(f"{url}/v/status", body)).json
        assert seen["status"] == {"attached": True}
        assert seen["metadata"]["labels"] == {"a": "b", "c": "d"}
        assert seen["spec"]["nodeName"] == "n"


async def test_delete_answers_with_the_object_or_a_status() -> None:
    async with serving() as calls:
        await calls.post("/apis/storage.k8s.io/v1/storageclasses", STORAGE_CLASS)
        await calls.post(f"/apis/rbac.authorization.k8s.io/v1/{IN}/roles", ROLE)
        gone = await calls.call("DELETE", "/apis/storage.k8s.io/v1/storageclasses/s")
        assert gone.json["kind"] == "StorageClass"
        gone = await calls.call("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{IN}/roles/r")
        assert gone.json["kind"] == "Status"
        assert gone.json["details"]["group"] == "rbac.authorization.k8s.io"


async def test_one_autoscaler_in_two_versions() -> None:
    async with serving() as calls:
        v1, v2 = (f"/apis/autoscaling/{version}/{IN}/horizontalpodautoscalers" for version in ("v1", "v2"))
        spec = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50,
        }
        made = await calls.post(v1, {"metadata": {"name": "h"}, "spec": spec})
        assert made.code == 201, made.json
        assert made.json["spec"] == spec | {"minReplicas": 1}
        watching = await calls.watch(f"{v1}?watch=true")
        assert (await watching.next())["object"]["spec"]["targetCPUUtilizationPercentage"] == 50
        other = (await calls.get(f"{v2}/h")).json
        assert other["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 50
        other["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] = 70
        assert (await calls.call("PUT", f"{v2}/h", other)).code == 200
        frame = await watching.next()
        assert (frame["object"]["apiVersion"], frame["object"]["metadata"]["generation"]) == ("autoscaling/v1", 2)
        assert frame["object"]["spec"]["targetCPUUtilizationPercentage"] == 70
        patched = await calls.patch(f"{v1}/h", {"spec": {"targetCPUUtilizationPercentage": 40}})
        assert patched.json["spec"]["targetCPUUtilizationPercentage"] == 40
        listed = (
            await calls.get(f"{v1}?includeObject=Object", Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
        ).json
        assert listed["rows"][0]["object"]["apiVersion"] == "autoscaling/v1"
        await watching.close()
