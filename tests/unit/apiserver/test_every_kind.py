"""What upstream's conformance suite asks of every kind ("should support X API operations"), of every kind that is served.

Made, read, listed in its namespace and in all, watched, patched, replaced, its status through its own door, deleted alone
and as a collection; and the small print: dry runs leave nothing, a stale or misdirected write is refused, unknown fields
are named, an apply owns what it says. The kinds come from discovery, so none can be forgotten here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from apiserver import schema
from apiserver.schema import ResourceInfo
from tests.unit.apiserver.calls import Calls, Response, serving
from tests.unit.apiserver.manifests import kinds, manifest

Obj = dict[str, Any]
PLAIN = frozenset({"create", "delete", "get", "list", "patch", "update", "watch"})
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
APPLY = "application/apply-patch+yaml"
# Upstream's strategies of these keep the old metadata when the status is written; all others let it through.
NO_METADATA_BY_STATUS = frozenset(
    {
        "customresourcedefinitions",
        "flowschemas",
        "prioritylevelconfigurations",
        "resourceclaims",
        "validatingadmissionpolicies",
        "volumeattachments",
    }
)


def served() -> list[ResourceInfo]:
    return [one for one in schema.served() if set(one.verbs) >= PLAIN]


@dataclass(frozen=True, slots=True)
class Subject:
    """One kind, and where it lives."""

    info: ResourceInfo
    calls: Calls

    @property
    def everywhere(self) -> str:
        group = self.info.group_version
        return f"/apis/{group}/{self.info.plural}" if self.info.group else f"/api/{group}/{self.info.plural}"

    @property
    def collection(self) -> str:
        if not self.info.namespaced:
            return self.everywhere
        return self.everywhere.removesuffix(self.info.plural) + f"namespaces/default/{self.info.plural}"

    def path(self, obj: Obj, subresource: str = "") -> str:
        return f"{self.collection}/{obj['metadata']['name']}" + (f"/{subresource}" if subresource else "")

    def fresh(self, number: int = 0) -> Obj:
        return manifest(self.info.gvk, number)

    async def made(self, number: int = 0) -> Obj:
        created = await self.calls.post(self.collection, self.fresh(number))
        assert created.code == 201, created.json
        obj: Obj = created.json
        return obj

    async def ok(self, method: str, url: str, body: Any = None, **more: Any) -> Any:
        answer = await self.calls.call(method, url, body, **more)
        assert answer.code in (200, 201, 202), f"{method} {url}: {answer.json}"
        return answer.json


def test_every_kind_has_a_manifest() -> None:
    """And no manifest is of a kind that is not served."""
    assert {one.gvk for one in served()} == kinds()


@pytest.mark.parametrize("info", served(), ids=lambda one: f"{one.group_version}/{one.plural}")
async def test_kind(info: ResourceInfo) -> None:
    """One server a kind: a start costs as much as all that is asked of a kind."""
    async with serving() as calls:
        subject = Subject(info, calls)
        await _api_operations(subject)
        await _collections(subject)
        await _the_small_print(subject)
        await _server_side_apply(subject)


async def _api_operations(subject: Subject) -> None:
    calls = subject.calls
    made = await subject.made()
    await _read(subject, made)
    listed = await subject.ok("GET", f"{subject.everywhere}?labelSelector=made%3Dhere")
    rv = listed["metadata"]["resourceVersion"]
    watching = await calls.watch(f"{subject.collection}?watch=1&labelSelector=made%3Dhere&resourceVersion={rv}")
    patched = await subject.ok(
        "PATCH",
        subject.path(made),
        {"metadata": {"annotations": {"patched": "yes"}}},
        content_type="application/merge-patch+json",
    )
    assert patched["metadata"]["annotations"]["patched"] == "yes"
    assert int(patched["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert (await watching.brief()) == ("MODIFIED", made["metadata"]["name"])
    patched["metadata"]["annotations"]["updated"] = "yes"
    updated = await subject.ok("PUT", subject.path(made), patched)
    assert updated["metadata"]["annotations"] == {"patched": "yes", "updated": "yes"}
    assert (await watching.brief()) == ("MODIFIED", made["metadata"]["name"])
    stale = await calls.call("PUT", subject.path(made), patched)
    assert (stale.code, stale.json["reason"]) == (409, "Conflict")
    again = await subject.ok("PUT", subject.path(made), updated)
    assert again["metadata"]["resourceVersion"] == updated["metadata"]["resourceVersion"]
    if subject.info.subresource("status"):
        await _status(subject, updated, watching)
    await _deleted(subject, made, watching)
    await watching.close()


async def _read(subject: Subject, made: Obj) -> None:
    info = subject.info
    assert (made["kind"], made["apiVersion"]) == (info.kind, info.group_version)
    assert made["metadata"]["uid"]
    read = await subject.ok("GET", subject.path(made))
    assert read == made
    for url in (subject.collection, subject.everywhere):
        listed = await subject.ok("GET", f"{url}?labelSelector=made%3Dhere")
        assert listed["kind"] == f"{info.kind}List"
        assert [one["metadata"]["uid"] for one in listed["items"]] == [made["metadata"]["uid"]]
        by_name = await subject.ok("GET", f"{url}?fieldSelector=metadata.name%3D{made['metadata']['name']}")
        assert len(by_name["items"]) == 1
    table = await subject.ok("GET", subject.collection, Accept=TABLE)
    assert table["kind"] == "Table"
    assert table["columnDefinitions"][0]["name"] in ("Name", "Last Seen")
    for row in table["rows"]:
        assert len(row["cells"]) == len(table["columnDefinitions"])
    alone = await subject.ok(
        "GET", subject.path(made), Accept="application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    )
    assert alone["metadata"] == made["metadata"]


async def _status(subject: Subject, obj: Obj, watching: Any) -> None:
    """Its own door: what the main one may not touch, and the other way round."""
    path = subject.path(obj, "status")
    assert (await subject.ok("GET", path)) == obj
    patched = await subject.ok(
        "PATCH", path, {"metadata": {"annotations": {"status": "yes"}}}, content_type="application/merge-patch+json"
    )
    assert patched.get("spec") == obj.get("spec")
    if subject.info.plural in NO_METADATA_BY_STATUS:
        assert patched == obj
    else:
        assert patched["metadata"]["annotations"]["status"] == "yes"
        assert (await watching.brief())[0] == "MODIFIED"
    replaced = await subject.ok("PUT", path, patched)
    assert replaced["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]


async def _deleted(subject: Subject, made: Obj, watching: Any) -> None:
    calls, path = subject.calls, subject.path(made)
    options = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    refused = await calls.call("DELETE", path, options)
    assert (refused.code, refused.json["reason"]) == (409, "Conflict")
    rehearsed = await calls.call("DELETE", path, {"dryRun": ["All"]})
    assert rehearsed.code == 200
    assert (await calls.get(path)).code == 200
    options = {"preconditions": {"uid": made["metadata"]["uid"]}, "gracePeriodSeconds": 0}
    gone = await calls.call("DELETE", path, options)
    assert gone.code == 200, gone.json
    if subject.info.plural == "namespaces":
        assert gone.json["status"]["phase"] == "Terminating"
        return
    if (gone.json.get("metadata") or {}).get("finalizers"):  # volumes and their claims in use are protected
        assert (await watching.brief())[0] == "MODIFIED"
        without = {"metadata": {"finalizers": None}}
        await subject.ok("PATCH", path, without, content_type="application/merge-patch+json")
    assert (await watching.brief()) == ("DELETED", made["metadata"]["name"])
    missing = await calls.get(path)
    assert (missing.code, missing.json["reason"]) == (404, "NotFound")
    assert missing.json["details"]["kind"] == subject.info.plural


async def _collections(subject: Subject) -> None:
    """Two of three go by label; a page at a time sees what a whole list sees."""
    if "deletecollection" not in subject.info.verbs:
        refused = await subject.calls.call("DELETE", subject.collection)
        assert (refused.code, refused.json["reason"]) == (405, "MethodNotAllowed")
        return
    for number in range(3):
        obj = subject.fresh(10 + number)
        obj["metadata"]["labels"] = {"made": "here" if number else "there"}
        created = await subject.calls.post(subject.collection, obj)
        assert created.code == 201, created.json
    pages, token = [], ""
    while True:
        more = f"&continue={token}" if token else ""
        page = await subject.ok("GET", f"{subject.collection}?limit=1&labelSelector=made{more}")
        pages += [one["metadata"]["name"] for one in page["items"]]
        if not (token := page["metadata"].get("continue", "")):
            break
    whole = await subject.ok("GET", f"{subject.collection}?labelSelector=made")
    assert pages == [one["metadata"]["name"] for one in whole["items"]]
    assert len(pages) == 3
    await subject.ok("DELETE", f"{subject.collection}?labelSelector=made%3Dhere&gracePeriodSeconds=0")
    left = (await subject.ok("GET", f"{subject.collection}?labelSelector=made"))["items"]
    remaining = [one["metadata"]["labels"]["made"] for one in left if not one["metadata"].get("deletionTimestamp")]
    assert remaining == ["there"]


async def _the_small_print(subject: Subject) -> None:
    calls = subject.calls
    rehearsed = await calls.post(f"{subject.collection}?dryRun=All", subject.fresh(20))
    assert rehearsed.code == 201, rehearsed.json
    assert (await calls.get(subject.path(subject.fresh(20)))).code == 404
    strange = subject.fresh(20) | {"strange": 1}
    refused = await calls.post(f"{subject.collection}?fieldValidation=Strict", strange)
    assert refused.code == 400, refused.json
    assert 'strict decoding error: unknown field "strange"' in refused.json["message"]
    warned = await calls.post(f"{subject.collection}?fieldValidation=Warn", strange)
    assert warned.code == 201, warned.json
    assert 'unknown field "strange"' in warned.warnings
    assert "strange" not in warned.json
    twice = await calls.post(subject.collection, subject.fresh(20))
    assert (twice.code, twice.json["reason"]) == (409, "AlreadyExists")
    other = subject.fresh(20) | {"kind": "Nonsense"}
    assert (await calls.post(subject.collection, other)).code == 400
    other = subject.fresh(20)
    other["metadata"]["name"] = "with/slash"  # no kind may be called so; some may be called System:Any_thing
    invalid = await calls.post(subject.collection, other)
    assert (invalid.code, invalid.json["reason"]) == (422, "Invalid"), invalid.json
    assert "metadata.name" in [one["field"] for one in invalid.json["details"]["causes"]]
    renamed = await calls.call("PUT", subject.path(subject.fresh(20)), other)
    assert (renamed.code, renamed.json["reason"]) == (400, "BadRequest")
    await _missing(subject)
    if subject.info.plural not in ("customresourcedefinitions", "ipaddresses"):  # whose names say what they are
        nameless = subject.fresh(21)
        del nameless["metadata"]["name"]
        nameless["metadata"]["generateName"] = "made-"
        generated = await calls.post(subject.collection, nameless)
        assert generated.code == 201, generated.json
        assert generated.json["metadata"]["name"].startswith("made-")


async def _missing(subject: Subject) -> None:
    """PUT and PATCH of nothing: 404, but for the kinds that PUT makes."""
    nobody = subject.fresh(22)
    put = await subject.calls.call("PUT", subject.path(nobody), nobody)
    assert put.code in (201, 404), put.json
    patch = await subject.calls.patch(f"{subject.collection}/nobody", {"metadata": {"labels": {"a": "b"}}})
    assert patch.code == 404


async def _server_side_apply(subject: Subject) -> None:
    obj = subject.fresh(30)
    obj["metadata"] |= {"annotations": {"mine": "1"}}

    async def applied(manager: str, body: Obj, force: str = "false") -> Response:
        url = f"{subject.path(obj)}?fieldManager={manager}&force={force}"
        return await subject.calls.call("PATCH", url, body, content_type=APPLY)

    first = await applied("one", obj)
    assert first.code == 201, first.json
    same = await applied("one", obj)
    assert same.code == 200
    assert same.json["metadata"]["resourceVersion"] == first.json["metadata"]["resourceVersion"]
    head = {"apiVersion": obj["apiVersion"], "kind": obj["kind"]}
    other = head | {"metadata": {"name": obj["metadata"]["name"], "annotations": {"mine": "2", "theirs": "1"}}}
    conflict = await applied("two", other)
    assert (conflict.code, conflict.json["reason"]) == (409, "Conflict")
    [cause] = conflict.json["details"]["causes"]
    assert cause["reason"] == "FieldManagerConflict"
    assert cause["field"] == ".metadata.annotations.mine"
    forced = await applied("two", other, "true")
    assert forced.json["metadata"]["annotations"] == {"mine": "2", "theirs": "1"}
    del other["metadata"]["annotations"]["theirs"]
    less = await applied("two", other)
    assert less.json["metadata"]["annotations"] == {"mine": "2"}
    assert {one["manager"] for one in less.json["metadata"]["managedFields"]} >= {"one", "two"}
