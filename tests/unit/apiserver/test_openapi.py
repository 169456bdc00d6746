"""OpenAPI: what kubectl takes from the documents is there, and every reference leads somewhere."""

import gzip
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from apiserver import schema
from apiserver.openapi import OpenApi

OPENAPI = OpenApi(schema.served())


def get(path: str, **query: str) -> Any:
    found = OPENAPI.document(path, query, "application/json")
    assert found is not None
    assert gzip.decompress(found.gzipped) == found.body
    return orjson.loads(found.body)


PLACES = list(get("/openapi/v3")["paths"])


def references(value: Any) -> Iterator[str]:
    match value:
        case dict():
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for one in value.values():
                yield from references(one)
        case list():
            for one in value:
                yield from references(one)
        case _:
            pass


def test_the_index_leads_to_every_group_version() -> None:
    assert set(PLACES) == {"api/v1"} | {f"apis/{one.group_version}" for one in schema.served() if one.group}


@pytest.mark.parametrize("place", PLACES)
def test_references_lead_somewhere_and_operations_have_names_of_their_own(place: str) -> None:
    document = get(f"/openapi/v3/{place}")
    schemas = document["components"]["schemas"]
    assert {one.removeprefix("#/components/schemas/") for one in references(document)} <= schemas.keys()
    operations = [
        operation for item in document["paths"].values() for method, operation in item.items() if method != "parameters"
    ]
    names = [one["operationId"] for one in operations]
    assert len(names) == len(set(names))
    assert all("x-kubernetes-group-version-kind" in one for one in operations)


@pytest.mark.parametrize("resource", [one for one in schema.served() if "patch" in one.verbs])
def test_patch_lists_what_kubectl_probes_for(resource: schema.ResourceInfo) -> None:
    place = f"apis/{resource.group_version}" if resource.group else "api/v1"
    inside = "/namespaces/{namespace}" if resource.namespaced else ""
    patch = get(f"/openapi/v3/{place}")["paths"][f"/{place}{inside}/{resource.plural}/{{name}}"]["patch"]
    assert {"fieldValidation", "dryRun", "fieldManager"} <= {one["name"] for one in patch["parameters"]}
    assert patch["x-kubernetes-action"] == "patch"
    assert patch["x-kubernetes-group-version-kind"]["kind"] == resource.kind
    assert "application/strategic-merge-patch+json" in patch["requestBody"]["content"]


def test_merge_keys_for_client_side_apply() -> None:
    schemas = get("/openapi/v3/apis/apps/v1")["components"]["schemas"]
    ports = schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-merge-key"] == "containerPort"
    assert ports["x-kubernetes-patch-strategy"] == "merge"
    deployment = schemas["io.k8s.api.apps.v1.Deployment"]
    assert deployment["x-kubernetes-group-version-kind"] == [{"group": "apps", "version": "v1", "kind": "Deployment"}]
    assert deployment["properties"]["spec"]["allOf"] == [
        {"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}
    ]
    assert schemas["io.k8s.api.apps.v1.DeploymentSpec"]["required"] == ["selector", "template"]


def test_a_hash_makes_a_document_immutable() -> None:
    url = get("/openapi/v3")["paths"]["apis/apps/v1"]["serverRelativeURL"]
    path, _, digest = url.partition("?hash=")
    fresh = OPENAPI.document(path, {"hash": digest}, "")
    stale = OPENAPI.document(path, {"hash": "0"}, "")
    assert fresh is not None
    assert stale is not None
    assert "immutable" in fresh.headers["Cache-Control"]
    assert "Cache-Control" not in stale.headers
    assert fresh.etag == stale.etag


def test_the_second_version_satisfies_old_kubectls() -> None:
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    found = OPENAPI.document("/openapi/v2", {}, accept)
    assert found is not None
    assert found.body == b"\n\x032.0\x12\x08\n\x03k8s\x12\x01v"
    assert found.content_type == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"


def test_the_second_version_as_json_says_the_same() -> None:
    document = get("/openapi/v2")
    assert document["swagger"] == "2.0"
    assert {one.removeprefix("#/definitions/") for one in references(document)} <= document["definitions"].keys()
    assert '"oneOf"' not in str(document)
    assert set(document["paths"]) == {path for place in PLACES for path in get(f"/openapi/v3/{place}")["paths"]}
    spec = document["definitions"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"]
    assert spec == {"$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentSpec"}
    create = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["post"]
    body = {
        "name": "body",
        "in": "body",
        "schema": {"$ref": "#/definitions/io.k8s.api.apps.v1.Deployment"},
        "required": True,
    }
    assert create["parameters"][0] == body
    assert create["responses"]["201"]["schema"] == body["schema"]


@pytest.mark.parametrize(
    ("path", "method", "name"),
    [
        ("/api/v1/namespaces/{namespace}/pods/{name}/exec", "get", "connectCoreV1GetNamespacedPodExec"),
        ("/api/v1/nodes/{name}/proxy/{path}", "head", "connectCoreV1HeadNodeProxyWithPath"),
        ("/api/v1/pods", "get", "listCoreV1PodForAllNamespaces"),
        ("/api/v1/namespaces/{namespace}/pods", "delete", "deleteCoreV1CollectionNamespacedPod"),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
            "put",
            "replaceRbacAuthorizationV1ClusterRole",
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}/status",
            "patch",
            "patchFlowcontrolApiserverV1FlowSchemaStatus",
        ),
    ],
)
def test_operations_are_named_as_upstream_names_them(path: str, method: str, name: str) -> None:
    place = "/".join(path.split("/")[1:3] if path.startswith("/api/") else path.split("/")[1:4])
    operation = get(f"/openapi/v3/{place}")["paths"][path][method]
    assert operation["operationId"] == name
    assert "401" in operation["responses"]


def test_kinds_say_where_they_are_described() -> None:
    pod = get("/openapi/v3/api/v1")["components"]["schemas"]["io.k8s.api.core.v1.Pod"]
    assert pod["description"].startswith("Pod is described at https://kubernetes.io/docs/")
    assert pod["description"].endswith("#pod-v1-core")


@pytest.mark.parametrize("path", ["/openapi", "/openapi/v3/apis/nonsense/v1", "/openapi/v3/", "/x"])
def test_other_paths_are_not_ours(path: str) -> None:
    assert OPENAPI.document(path, {}, "") is None
