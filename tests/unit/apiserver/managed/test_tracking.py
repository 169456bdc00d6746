"""Who owns what after creates, updates, patches and status writes, through the whole API."""

from __future__ import annotations

from typing import Any

from tests.unit.apiserver.calls import Calls, serving

Obj = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
DEPLOYMENT: Obj = {
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]}]},
        },
    },
}
# What a stock server writes for `kubectl create` of this Deployment.
DEPLOYMENT_FIELDS: Obj = {
    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
    "f:spec": {
        "f:progressDeadlineSeconds": {},
        "f:replicas": {},
        "f:revisionHistoryLimit": {},
        "f:selector": {},
        "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
        "f:template": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:containers": {
                    'k:{"name":"web"}': {
                        ".": {},
                        "f:image": {},
                        "f:imagePullPolicy": {},
                        "f:name": {},
                        "f:ports": {
                            ".": {},
                            'k:{"containerPort":80,"protocol":"TCP"}': {
                                ".": {},
                                "f:containerPort": {},
                                "f:protocol": {},
                            },
                        },
                        "f:resources": {},
                        "f:terminationMessagePath": {},
                        "f:terminationMessagePolicy": {},
                    }
                },
                "f:dnsPolicy": {},
                "f:restartPolicy": {},
                "f:schedulerName": {},
                "f:securityContext": {},
                "f:terminationGracePeriodSeconds": {},
            },
        },
    },
}


def owners(obj: Obj) -> dict[tuple[str, ...], Obj]:
    return {
        (one["manager"], one["operation"], one.get("subresource", "")): one["fieldsV1"]
        for one in obj["metadata"].get("managedFields", ())
    }


async def settings(calls: Calls, **data: str) -> Obj:
    made = await calls.post(f"{MAPS}?fieldManager=maker", {"metadata": {"name": "m"}, "data": data})
    assert made.code == 201, made.json
    return dict(made.json)


async def test_a_creator_owns_what_upstream_says_it_does_in_upstreams_order() -> None:
    async with serving() as calls:
        made = await calls.post(f"{DEPLOYMENTS}?fieldManager=kubectl-create", DEPLOYMENT)
        [entry] = made.json["metadata"]["managedFields"]
        assert list(entry) == ["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1"]
        assert entry["time"] == made.json["metadata"]["creationTimestamp"]
        assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("kubectl-create", "Update", "apps/v1")
        assert entry["fieldsV1"] == DEPLOYMENT_FIELDS
        assert _orders(entry["fieldsV1"]) == _orders(DEPLOYMENT_FIELDS)
        assert (await calls.get(f"{DEPLOYMENTS}/web")).json == made.json


def _orders(one: Obj) -> list[Any]:
    return [(key, _orders(below)) for key, below in one.items()]


async def test_what_the_server_adds_has_no_owner() -> None:
    async with serving() as calls:
        spec = {"containers": [{"name": "a", "image": "a:1"}]}
        made = await calls.post(f"{PODS}?fieldManager=me", {"metadata": {"name": "p"}, "spec": spec})
        fields = owners(made.json)["me", "Update", ""]["f:spec"]
        assert made.json["spec"]["tolerations"]
        assert "f:tolerations" not in fields
        assert "f:status" not in owners(made.json)["me", "Update", ""]


async def test_without_a_field_manager_it_is_the_user_agent() -> None:
    async with serving() as calls:
        made = await calls.post(MAPS, {"metadata": {"name": "m"}, "data": {"a": "1"}}, User_Agent="kopf/1.37 (linux)")
        assert set(owners(made.json)) == {("kopf", "Update", "")}


async def test_a_change_moves_the_field_and_a_removal_frees_it() -> None:
    async with serving() as calls:
        await settings(calls, a="1", b="1", c="1")
        changed = await calls.patch(f"{MAPS}/m?fieldManager=other", {"data": {"a": "2", "b": None, "d": "1"}})
        assert owners(changed.json) == {
            ("maker", "Update", ""): {"f:data": {".": {}, "f:c": {}}},
            ("other", "Update", ""): {"f:data": {"f:a": {}, "f:d": {}}},
        }


async def test_a_write_that_changes_nothing_changes_no_owner() -> None:
    async with serving() as calls:
        made = await settings(calls, a="1")
        same = await calls.patch(f"{MAPS}/m?fieldManager=other", {"data": {"a": "1"}})
        assert same.json == made
        again = await calls.call("PUT", f"{MAPS}/m?fieldManager=other", made)
        assert again.json == made


async def test_status_is_owned_by_its_own_door() -> None:
    async with serving() as calls:
        await calls.post(f"{DEPLOYMENTS}?fieldManager=maker", DEPLOYMENT)
        body = {"metadata": {"annotations": {"a": "1"}}, "spec": {"replicas": 7}, "status": {"replicas": 1}}
        patched = await calls.patch(f"{DEPLOYMENTS}/web/status?fieldManager=controller", body)
        assert patched.json["spec"]["replicas"] == 1
        assert owners(patched.json)["controller", "Update", "status"] == {
            "f:metadata": {"f:annotations": {".": {}, "f:a": {}}},
            "f:status": {"f:replicas": {}},
        }
        ignored = await calls.patch(f"{DEPLOYMENTS}/web?fieldManager=maker", {"status": {"replicas": 5}})
        assert ignored.json == patched.json


async def test_a_scale_is_owned_as_replicas() -> None:
    async with serving() as calls:
        await calls.post(f"{DEPLOYMENTS}?fieldManager=maker", DEPLOYMENT)
        scaled = await calls.patch(f"{DEPLOYMENTS}/web/scale?fieldManager=hpa", {"spec": {"replicas": 4}})
        assert scaled.code == 200
        now = owners((await calls.get(f"{DEPLOYMENTS}/web")).json)
        assert now["hpa", "Update", "scale"] == {"f:spec": {"f:replicas": {}}}
        assert "f:replicas" not in now["maker", "Update", ""]["f:spec"]
        [entry] = scaled.json["metadata"]["managedFields"]
        assert (entry["manager"], entry["apiVersion"]) == ("hpa", "autoscaling/v1")
        assert entry["fieldsV1"] == {"f:spec": {"f:replicas": {}}}


async def test_the_list_is_forgotten_when_asked_and_starts_with_the_first_apply() -> None:
    async with serving() as calls:
        for wipe in ([], [{}]):
            await settings(calls, a="1")
            wiped = await calls.patch(f"{MAPS}/m", {"metadata": {"managedFields": wipe}})
            assert "managedFields" not in wiped.json["metadata"]
            later = await calls.patch(f"{MAPS}/m?fieldManager=other", {"data": {"b": "1"}})
            assert "managedFields" not in later.json["metadata"]
            applied = await calls.call(
                "PATCH",
                f"{MAPS}/m?fieldManager=one",
                {"apiVersion": "v1", "kind": "ConfigMap", "data": {"c": "1"}},
                content_type="application/apply-patch+yaml",
            )
            assert owners(applied.json) == {
                ("one", "Apply", ""): {"f:data": {"f:c": {}}},
                ("before-first-apply", "Update", ""): {"f:data": {".": {}, "f:a": {}, "f:b": {}}},
            }
            await calls.call("DELETE", f"{MAPS}/m")


async def test_a_client_may_write_the_list_but_not_nonsense() -> None:
    async with serving() as calls:
        made = await settings(calls, a="1")
        [entry] = made["metadata"]["managedFields"]
        renamed = entry | {"manager": "renamed"}
        replace = [{"op": "replace", "path": "/metadata/managedFields", "value": [renamed]}]
        after = await calls.patch(f"{MAPS}/m", replace, "json")
        assert set(owners(after.json)) == {("renamed", "Update", "")}
        for broken in (entry | {"operation": "Delete"}, entry | {"fieldsType": "V2"}, entry | {"fieldsV1": {"x": {}}}):
            kept = await calls.patch(f"{MAPS}/m", {"metadata": {"managedFields": [broken]}})
            assert set(owners(kept.json)) == {("renamed", "Update", "")}
        by_status = await calls.post(DEPLOYMENTS, DEPLOYMENT)
        body = {"metadata": {"managedFields": []}, "status": {"replicas": 1}}
        kept = await calls.patch(f"{DEPLOYMENTS}/web/status?fieldManager=s", body)
        assert by_status.json["metadata"]["managedFields"][0] in kept.json["metadata"]["managedFields"]


async def test_at_most_ten_updaters_are_told_apart() -> None:
    async with serving() as calls:
        await settings(calls, keep="1")
        for number in range(14):
            await calls.patch(f"{MAPS}/m?fieldManager=u{number:02}", {"data": {f"k{number:02}": "1"}})
        now = owners((await calls.get(f"{MAPS}/m")).json)
        assert len(now) == 10
        ancient = now["ancient-changes", "Update", ""]["f:data"]
        assert len([key for one in now.values() for key in one["f:data"] if key != "."]) == 15
        assert len(ancient) >= 5


async def test_binding_and_deleting_own_nothing() -> None:
    async with serving() as calls:
        spec = {"containers": [{"name": "a", "image": "a:1"}]}
        made = await calls.post(f"{PODS}?fieldManager=me", {"metadata": {"name": "p"}, "spec": spec})
        binding = {"target": {"kind": "Node", "name": "n"}}
        assert (await calls.post(f"{PODS}/p/binding?fieldManager=scheduler", binding)).code == 201
        gone = await calls.call("DELETE", f"{PODS}/p")
        assert gone.json["metadata"]["deletionTimestamp"]
        assert gone.json["metadata"]["managedFields"] == made.json["metadata"]["managedFields"]


async def test_two_versions_of_one_object_speak_of_its_fields_each_in_their_own() -> None:
    async with serving() as calls:
        v1, v2 = (f"/apis/autoscaling/{one}/namespaces/default/horizontalpodautoscalers" for one in ("v1", "v2"))
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
        spec = {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
        await calls.post(f"{v1}?fieldManager=old", {"metadata": {"name": "h"}, "spec": spec})
        changed = await calls.patch(f"{v2}/h?fieldManager=new", {"spec": {"maxReplicas": 9}})
        now = {one["manager"]: one for one in changed.json["metadata"]["managedFields"]}
        assert (now["old"]["apiVersion"], now["new"]["apiVersion"]) == ("autoscaling/v1", "autoscaling/v2")
        assert "f:targetCPUUtilizationPercentage" in now["old"]["fieldsV1"]["f:spec"]
        assert "f:maxReplicas" not in now["old"]["fieldsV1"]["f:spec"]
        metrics = [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ]
        again = await calls.patch(f"{v2}/h?fieldManager=new", {"spec": {"metrics": metrics}})
        now = {one["manager"]: one for one in again.json["metadata"]["managedFields"]}
        assert "f:targetCPUUtilizationPercentage" not in now["old"]["fieldsV1"]["f:spec"]
        assert "f:metrics" in now["new"]["fieldsV1"]["f:spec"]
