"""Server-side apply through the whole API: upstream's words, what is kept, and what goes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson
import pytest

from tests.unit.apiserver.calls import Calls, Response, serving

Obj = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MAP: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}}
UNTYPED = "failed to create typed patch object (/m; v1, Kind=ConfigMap)"
CANNOT = 'Operation cannot be fulfilled on configmaps "m"'
LAST = "kubectl.kubernetes.io/last-applied-configuration"


def deployment(**spec: Any) -> Obj:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    }
    whole = {"selector": {"matchLabels": {"app": "web"}}, "template": template} | spec
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": whole}


def part(**spec: Any) -> Obj:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


async def apply(calls: Calls, url: str, body: Any, manager: str = "one", **query: str) -> Response:
    asked = "&".join(f"{key}={value}" for key, value in ({"fieldManager": manager} | query).items() if value)
    return await calls.call("PATCH", f"{url}?{asked}", body, content_type=APPLY)


def managers(obj: Obj) -> dict[str, Obj]:
    return {one["manager"]: one for one in obj["metadata"].get("managedFields", ())}


async def test_it_creates_and_says_so() -> None:
    async with serving() as calls:
        tried = await apply(calls, f"{MAPS}/m", MAP | {"data": {"a": "1"}}, dryRun="All")
        assert tried.code == 201
        assert (await calls.get(f"{MAPS}/m")).code == 404
        made = await apply(
            calls, f"{MAPS}/m", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: '1'}\n"
        )
        assert made.code == 201
        assert managers(made.json)["one"]["operation"] == "Apply"
        assert managers(made.json)["one"]["fieldsV1"] == {"f:data": {"f:a": {}}}
        again = await apply(calls, f"{MAPS}/m", MAP | {"data": {"a": "1"}})
        assert (again.code, again.json) == (200, made.json)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (MAP | {"metadata": {"name": "m", "managedFields": [{"manager": "x"}]}}, 400, "metadata.managedFields must be nil"),
        (MAP | {"kind": "Secret"}, 400, "invalid object type: v1, Kind=Secret"),
        ({"metadata": {"name": "m"}}, 400, "invalid object type: , Kind="),
        (MAP | {"dada": {}}, 400, f"{UNTYPED}: .dada: field not declared in schema"),
        (MAP | {"data": {"a": 1}}, 400, f"{UNTYPED}: .data.a: expected string, got 1"),
        (MAP | {"data": 1, "binaryData": []}, 400,
         f"{UNTYPED}: errors:\n  .data: expected map, got 1\n  .binaryData: expected map, got []"),
        (MAP | {"metadata": {"name": "other"}}, 400, "the name of the object (other) does not match the name on the URL (m)"),
        (MAP | {"metadata": {"name": "m", "namespace": "other"}}, 400,
         "the namespace of the provided object does not match the namespace sent on the request"),
        (MAP | {"metadata": {"name": "m", "resourceVersion": "5"}}, 400,
         "resourceVersion should not be set on objects to be created"),
        (MAP | {"metadata": {"name": "m", "uid": "u"}}, 409,
         f"{CANNOT}: uid mismatch: the provided object specified uid u, and no existing object was found"),
        (b"a: [", 400, "error decoding YAML: "),
        (b"[1]", 400, "error decoding YAML: "),
        (b"kind: ConfigMap\nkind: ConfigMap\n", 400, "error strict decoding YAML: "),
    ],
)  # fmt: skip
async def test_what_cannot_be_applied_is_told_in_upstreams_words(body: Any, code: int, message: str) -> None:
    async with serving() as calls:
        answer = await apply(calls, f"{MAPS}/m", body, fieldValidation="Strict")
        assert (answer.code, answer.json["message"][: len(message)]) == (code, message)


async def test_options_are_checked() -> None:
    async with serving() as calls:
        nameless = await apply(calls, f"{MAPS}/m", MAP, "")
        assert nameless.code == 422
        assert nameless.json["message"] == (
            'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
        )
        forced = await calls.patch(f"{MAPS}/m?force=true", {})
        assert forced.code == 422
        assert forced.json["message"] == (
            'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch'
        )
        for kind in ("application/apply-patch+cbor", "application/json"):
            other = await calls.call("PATCH", f"{MAPS}/m?fieldManager=one", MAP, content_type=kind)
            assert other.code == 415
            assert other.json["message"] == (
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, "
                "application/apply-patch+yaml"
            )


async def test_conflicts_name_every_field_and_its_owner() -> None:
    async with serving() as calls:
        assert (await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=2))).code == 201
        one = await apply(calls, f"{DEPLOYMENTS}/web", part(replicas=3), "two")
        assert (one.code, one.json["reason"]) == (409, "Conflict")
        assert one.json["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.replicas'
        assert one.json["details"] == {
            "causes": [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.replicas"}]
        }
        status = {"status": {"observedGeneration": 1}}
        await calls.patch(f"{DEPLOYMENTS}/web/status?fieldManager=three", status)
        await calls.patch(f"{DEPLOYMENTS}/web?fieldManager=three", {"spec": {"paused": True}})
        container = {"name": "web", "image": "web:2"}
        body = part(replicas=3, paused=None, template={"spec": {"containers": [container]}})
        body["spec"]["paused"] = False
        many = await apply(calls, f"{DEPLOYMENTS}/web", body, "two")
        assert many.json["message"] == (
            'Apply failed with 3 conflicts: conflicts with "one":\n- .spec.replicas\n'
            '- .spec.template.spec.containers[name="web"].image\n'
            'conflicts with "three" using apps/v1:\n- .spec.paused'
        )
        forced = await apply(calls, f"{DEPLOYMENTS}/web", body, "two", force="true")
        assert forced.code == 200
        assert forced.json["spec"]["replicas"] == 3
        assert "f:replicas" not in managers(forced.json)["one"]["fieldsV1"]["f:spec"]


async def test_a_status_that_is_applied_conflicts_by_its_door() -> None:
    async with serving() as calls:
        await apply(calls, f"{DEPLOYMENTS}/web", deployment())
        await calls.patch(f"{DEPLOYMENTS}/web/status?fieldManager=three", {"status": {"replicas": 1}})
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"replicas": 2}}
        refused = await apply(calls, f"{DEPLOYMENTS}/web/status", body, "two")
        assert refused.json["message"] == (
            'Apply failed with 1 conflict: conflict with "three" with subresource "status" using apps/v1: .status.replicas'
        )
        forced = await apply(calls, f"{DEPLOYMENTS}/web/status", body, "two", force="true")
        assert forced.json["status"]["replicas"] == 2
        assert managers(forced.json)["two"]["subresource"] == "status"
        ignored = await apply(calls, f"{DEPLOYMENTS}/web", body, "two")
        assert "f:status" not in {
            key
            for one in ignored.json["metadata"]["managedFields"]
            if "subresource" not in one
            for key in one["fieldsV1"]
        }
        missing = await apply(calls, f"{DEPLOYMENTS}/none/status", body | {"metadata": {"name": "none"}})
        assert missing.code == 404


async def test_what_is_no_longer_applied_goes_unless_somebody_else_wants_it() -> None:
    async with serving() as calls:
        await apply(calls, f"{MAPS}/m", MAP | {"data": {"a": "1", "b": "1", "c": "1"}})
        await apply(calls, f"{MAPS}/m", MAP | {"data": {"b": "1"}}, "two")
        less = await apply(calls, f"{MAPS}/m", MAP | {"data": {"c": "1"}})
        assert less.json["data"] == {"b": "1", "c": "1"}
        none = await apply(calls, f"{MAPS}/m", MAP)
        assert none.json["data"] == {"b": "1"}
        assert set(managers(none.json)) == {"two"}
        empty = await apply(calls, f"{MAPS}/m", MAP, "two")
        assert "data" not in empty.json


async def test_a_default_stays_when_what_hid_it_goes() -> None:
    async with serving() as calls:
        await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=5))
        less = await apply(calls, f"{DEPLOYMENTS}/web", deployment())
        assert less.json["spec"]["replicas"] == 1


async def test_lists_merge_by_key_and_keep_the_appliers_order() -> None:
    async with serving() as calls:
        first = [{"name": name, "image": "i:1"} for name in ("a", "b")]
        body = deployment()
        body["spec"]["template"]["spec"]["containers"] = first
        await apply(calls, f"{DEPLOYMENTS}/web", body)
        added = {"spec": {"template": {"spec": {"containers": [{"name": "z", "image": "z:1"}]}}}}
        assert (await calls.patch(f"{DEPLOYMENTS}/web?fieldManager=injector", added, "strategic")).code == 200
        body["spec"]["template"]["spec"]["containers"] = [*first[::-1], {"name": "c", "image": "i:1"}]
        after = await apply(calls, f"{DEPLOYMENTS}/web", body)
        names = [one["name"] for one in after.json["spec"]["template"]["spec"]["containers"]]
        assert sorted(names) == ["a", "b", "c", "z"]
        assert [one for one in names if one != "z"] == ["b", "a", "c"]
        body["spec"]["template"]["spec"]["containers"] = first[:1]
        less = await apply(calls, f"{DEPLOYMENTS}/web", body)
        assert sorted(one["name"] for one in less.json["spec"]["template"]["spec"]["containers"]) == ["a", "z"]


async def test_ports_are_told_apart_by_number_and_protocol() -> None:
    async with serving() as calls:
        head: Obj = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"}}
        ports = [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}]
        made = await apply(calls, f"{SERVICES}/dns", head | {"spec": {"ports": ports}})
        assert made.code == 201, made.json
        keys = managers(made.json)["one"]["fieldsV1"]["f:spec"]["f:ports"]
        assert list(keys) == ['k:{"port":53,"protocol":"TCP"}', 'k:{"port":53,"protocol":"UDP"}']
        twice = await apply(calls, f"{SERVICES}/dns", head | {"spec": {"ports": [*ports, {"name": "x", "port": 53}]}})
        assert twice.json["message"].endswith('.spec.ports: duplicate entries for key [port=53,protocol="TCP"]')
        nameless = await apply(calls, f"{SERVICES}/dns", head | {"spec": {"ports": [{"name": "x"}]}})
        assert 'associative list with keys has an element that omits key field "port"' in nameless.json["message"]


async def test_another_spelling_of_a_value_is_no_conflict() -> None:
    async with serving() as calls:
        body = deployment()
        body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1000m"}}
        made = await apply(calls, f"{DEPLOYMENTS}/web", body)
        again = await apply(calls, f"{DEPLOYMENTS}/web", body)
        assert again.json == made.json
        body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": 1}}
        shared = await apply(calls, f"{DEPLOYMENTS}/web", body, "two")
        assert shared.code == 200, shared.json


async def test_a_version_in_the_applied_object_is_a_precondition() -> None:
    async with serving() as calls:
        made = await apply(calls, f"{MAPS}/m", MAP | {"data": {"a": "1"}})
        right = {"name": "m", "resourceVersion": made.json["metadata"]["resourceVersion"]}
        assert (await apply(calls, f"{MAPS}/m", MAP | {"metadata": right, "data": {"a": "2"}})).code == 200
        stale = await apply(calls, f"{MAPS}/m", MAP | {"metadata": right, "data": {"a": "3"}})
        assert (stale.code, stale.json["message"]) == (
            409,
            f"{CANNOT}: the object has been modified; please apply your changes to the latest version and try again",
        )
        other = await apply(calls, f"{MAPS}/m", MAP | {"metadata": {"name": "m", "uid": "other"}})
        assert other.code == 409


async def test_kubectl_takes_over_what_it_applied_from_the_client() -> None:
    async with serving() as calls:
        said = deployment(replicas=2)
        annotations = {LAST: orjson.dumps(said).decode() + "\n"}
        client = said | {"metadata": {"name": "web", "annotations": annotations}}
        await calls.post(f"{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply", client)
        stranger = await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=3), "stranger")
        assert stranger.code == 409
        taken = await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=3), "kubectl")
        assert taken.code == 200, taken.json
        assert orjson.loads(taken.json["metadata"]["annotations"][LAST])["spec"]["replicas"] == 3
        await calls.patch(f"{DEPLOYMENTS}/web?fieldManager=hpa", {"spec": {"replicas": 7}})
        refused = await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=3), "kubectl")
        assert refused.json["message"] == (
            'Apply failed with 1 conflict: conflict with "hpa" using apps/v1: .spec.replicas'
        )


async def test_a_scale_is_applied() -> None:
    async with serving() as calls:
        await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=1))
        scale: Obj = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": "web"},
            "spec": {"replicas": 3},
        }
        refused = await apply(calls, f"{DEPLOYMENTS}/web/scale", scale, "hpa")
        assert refused.json["message"] == 'Apply failed with 1 conflict: conflict with "one": .spec.replicas'
        done = await apply(calls, f"{DEPLOYMENTS}/web/scale", scale, "hpa", force="true")
        assert done.json["spec"]["replicas"] == 3
        entry = managers((await calls.get(f"{DEPLOYMENTS}/web")).json)["hpa"]
        assert (entry["operation"], entry["subresource"]) == ("Apply", "scale")
        wrong = await apply(calls, f"{DEPLOYMENTS}/web/scale", scale | {"kind": "Deployment"}, "hpa")
        assert (wrong.code, wrong.json["message"]) == (400, "invalid object type: autoscaling/v1, Kind=Deployment")
        assert (await apply(calls, f"{DEPLOYMENTS}/none/scale", scale, "hpa")).code == 404


async def test_of_many_appliers_at_once_none_is_lost() -> None:

    async with serving() as calls:
        answers = await asyncio.gather(
            *(apply(calls, f"{MAPS}/m", MAP | {"data": {f"k{n}": "1"}}, f"m{n}") for n in range(5))
        )
        assert sorted(one.code for one in answers) == [200, 200, 200, 200, 201]
        last = (await calls.get(f"{MAPS}/m")).json
        assert set(last["data"]) == {f"k{n}" for n in range(5)}
        assert set(managers(last)) == {f"m{n}" for n in range(5)}


async def test_patches_of_a_scale_are_validated_like_any() -> None:
    async with serving() as calls:
        await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=1))
        warned = await calls.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 2, "size": 1}})
        assert (warned.code, warned.warnings) == (200, ('unknown field "spec.size"',))
        strict = await calls.patch(f"{DEPLOYMENTS}/web/scale?fieldValidation=Strict", {"spec": {"size": 1}})
        assert strict.code == 422
        other = await calls.patch(f"{DEPLOYMENTS}/web/scale", {"metadata": {"name": "other"}})
        assert other.code == 400
        stale = await calls.patch(f"{DEPLOYMENTS}/web/scale", {"metadata": {"resourceVersion": "1"}})
        assert stale.code == 409
        operations = [{"op": "replace", "path": "/spec/replicas", "value": 3}]
        assert (await calls.patch(f"{DEPLOYMENTS}/web/scale", operations, "json")).json["spec"]["replicas"] == 3


JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    1.5,
    "",
    "x",
    [],
    [None],
    [[]],
    {},
    {"": None},
    {"a": {"b": []}},
    [{"name": "web"}] * 2,
)


def mangled(value: Any, rng: random.Random, chance: float = 0.06) -> Any:
    if rng.random() < chance:
        return rng.choice(JUNK)
    match value:
        case dict():
            return {rng.choice((key, key, key, key, "odd")): mangled(one, rng) for key, one in value.items()}
        case list():
            return [mangled(one, rng) for one in value] * rng.choice((1, 1, 1, 2))
        case _:
            return value


async def test_nonsense_is_refused_and_never_a_fault() -> None:
    rng = random.Random(5)
    async with serving() as calls:
        made = (await apply(calls, f"{DEPLOYMENTS}/web", deployment(replicas=1))).json
        seen = set()
        for _ in range(150):
            whole = deployment(
                replicas=rng.randrange(3), strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}
            )
            answer = await apply(calls, f"{DEPLOYMENTS}/web", mangled(whole, rng), rng.choice("ab"), force="true")
            entries = mangled(made["metadata"]["managedFields"], rng)
            listed = await calls.patch(f"{DEPLOYMENTS}/web", {"metadata": {"managedFields": entries}})
            scale = {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": "web"},
                "spec": {"replicas": 1},
            }
            scaled = await apply(calls, f"{DEPLOYMENTS}/web/scale", mangled(scale, rng, 0.2), "c", force="true")
            seen |= {answer.code, listed.code, scaled.code}
        assert seen <= {200, 400, 422}
        assert 200 in seen
        assert 400 in seen


async def test_deep_types_are_owned_to_their_end() -> None:
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    name = "deeps.example.com"

    def crd(depth: int, leaf: str) -> Obj:
        schema: Obj = {"type": leaf}
        for _ in range(depth):
            schema = {"type": "object", "properties": {"p": schema}}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"plural": "deeps", "kind": "Deep"}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {"group": "example.com", "scope": "Cluster", "names": names, "versions": [version]},
        }

    async with serving() as calls:
        made = await apply(calls, f"{crds}/{name}", crd(90, "string"))
        assert made.code == 201, made.json
        changed = await apply(calls, f"{crds}/{name}", crd(90, "integer"))
        assert changed.code == 200
        assert (await calls.call("PUT", f"{crds}/{name}", changed.json | crd(40, "integer"))).code in (200, 422)
        assert (await apply(calls, f"{crds}/{name}", crd(118, "integer"))).code in (200, 400)


async def test_an_applier_that_changes_its_version_stays_the_same_applier() -> None:
    v1, v2 = (f"/apis/autoscaling/{one}/namespaces/default/horizontalpodautoscalers/h" for one in ("v1", "v2"))
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    head: Obj = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "labels": {"a": "1"}}}
    spec: Obj = {"scaleTargetRef": target, "maxReplicas": 3, "minReplicas": 2}
    async with serving() as calls:
        old = head | {"apiVersion": "autoscaling/v1", "spec": spec | {"targetCPUUtilizationPercentage": 50}}
        assert (await apply(calls, v1, old)).code == 201
        await calls.patch(f"{v2}?fieldManager=other", {"metadata": {"labels": {"b": "1"}}})
        new = head | {"apiVersion": "autoscaling/v2", "metadata": {"name": "h"}, "spec": {**spec, "maxReplicas": 4}}
        del new["spec"]["minReplicas"]
        moved = await apply(calls, v2, new)
        assert moved.code == 200, moved.json
        assert moved.json["metadata"]["labels"] == {"b": "1"}
        assert (moved.json["spec"]["maxReplicas"], moved.json["spec"]["minReplicas"]) == (4, 1)
        assert managers(moved.json)["one"]["apiVersion"] == "autoscaling/v2"
        assert len(moved.json["metadata"]["managedFields"]) == 2
