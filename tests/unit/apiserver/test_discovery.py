"""Discovery, in three generations of the same answer."""

from typing import Any

import orjson
import pytest

from apiserver import schema
from apiserver.discovery import Discovery
from tests.unit.apiserver.calls import Calls, serving

V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
BETA = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"


DISCOVERY = Discovery(schema.served())


def get(path: str, accept: str = "application/json") -> Any:
    found = DISCOVERY.document(path, accept)
    assert found is not None
    return orjson.loads(found.body)


def test_legacy_documents_name_every_served_resource() -> None:
    assert get("/api")["versions"] == ["v1"]
    groups = {group["name"]: group for group in get("/apis")["groups"]}
    assert set(groups) == {one.group for one in schema.served()} - {""}
    assert groups["apps"]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    assert get("/apis/apps")["kind"] == "APIGroup"
    core = {row["name"]: row for row in get("/api/v1")["resources"]}
    assert core["pods"]["shortNames"] == ["po"]
    assert core["pods"]["categories"] == ["all"]
    assert core["pods"]["storageVersionHash"] == "xPOwRZ+Yhw8="
    assert get("/apis/autoscaling/v1")["resources"][0]["storageVersionHash"] == "qwQve8ut294="
    assert core["pods/eviction"]["group"] == "policy"
    apps = get("/apis/apps/v1")
    assert apps["groupVersion"] == "apps/v1"
    scale = next(row for row in apps["resources"] if row["name"] == "deployments/scale")
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (f"{V2},{BETA},application/json", V2),
        (f"{BETA},application/json", BETA),
        (f"application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,{BETA}", BETA),
        ("application/json", "application/json"),
        ("application/vnd.kubernetes.protobuf, */*", "application/json"),
        ("", "application/json"),
    ],
)
def test_the_accepted_form_is_served_and_named(accept: str, content_type: str) -> None:
    found = DISCOVERY.document("/apis", accept)
    assert found is not None
    assert found.content_type == content_type


def test_aggregated_lists_split_core_from_groups() -> None:
    core = get("/api", V2)
    assert core["apiVersion"] == "apidiscovery.k8s.io/v2"
    assert [item["metadata"] for item in core["items"]] == [{}]
    assert get("/api", BETA)["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    groups = get("/apis", V2)["items"]
    apps = next(item for item in groups if item["metadata"].get("name") == "apps")
    deployments = apps["versions"][0]["resources"][2]
    assert deployments["resource"] == "deployments"
    assert deployments["scope"] == "Namespaced"
    assert deployments["subresources"][0]["responseKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}


def test_the_same_document_has_the_same_tag() -> None:
    first, second = DISCOVERY.document("/apis", V2), DISCOVERY.document("/apis", V2)
    assert first is not None
    assert second is not None
    assert first.etag == second.etag != ""
    other = DISCOVERY.document("/apis", BETA)
    assert other is not None
    assert other.etag != first.etag


async def test_discovery_lists_what_has_a_handler_and_nothing_else() -> None:
    async with serving() as calls:
        verbs = calls.api._verbs
        answered = set(verbs.subresources)
        listed: set[tuple[str, str]] = set()
        for place in ["/api/v1", *(f"/apis/{group}" for group in await group_versions(calls))]:
            for row in (await calls.get(place)).json["resources"]:
                plural, slash, subresource = row["name"].partition("/")
                if slash and subresource != "status":
                    listed.add((plural, subresource))
                if row["verbs"] == ["create"] and not slash:
                    group, _, version = place.removeprefix("/api/").removeprefix("/apis/").rpartition("/")
                    assert (group, version, plural) in verbs.creations
        assert listed == answered
        missing = await calls.get("/api/v1/nodes/n/nonsense")
        assert (missing.code, missing.json["message"]) == (404, "the server could not find the requested resource")


async def group_versions(calls: Calls) -> list[str]:
    groups = (await calls.get("/apis")).json["groups"]
    return [version["groupVersion"] for group in groups for version in group["versions"]]


@pytest.mark.parametrize(
    "path", ["/", "/apis/nonsense", "/apis/apps/v2", "/api/v2", "/apis/apps/v1/deployments", "/apix"]
)
def test_other_paths_are_not_ours(path: str) -> None:
    assert DISCOVERY.document(path, "") is None
