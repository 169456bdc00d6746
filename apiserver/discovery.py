"""Discovery: which groups, versions and resources there are.

Three generations of one answer, from the same rows. The legacy documents (`/api`, `/apis`, `/api/v1`, `/apis/G`,
`/apis/G/V`) one group-version at a time; and at `/api` and `/apis`, for those who accept them, aggregated lists in one go
(`as=APIGroupDiscoveryList`, v2 for kubectl 1.30 and later, v2beta1 for 1.26 to 1.29).
"""

from functools import cache, lru_cache
from itertools import groupby
from typing import Any, Final

from apiserver import schema
from apiserver.document import Document, fixed
from apiserver.schema import ResourceInfo, Subresource

Json = dict[str, Any]

_AGGREGATED: Final = ("v2", "v2beta1")


def document(path: str, accept: str) -> Document | None:
    """The document at `path` (without a trailing slash) in the form that `accept` prefers; None for other paths."""
    return _document(path, _aggregated_version(accept) if path in {"/api", "/apis"} else "")


def _aggregated_version(accept: str) -> str:
    """The first form in the Accept header that we have: a version of the aggregated list, or "" for the legacy one."""
    for choice in accept.split(","):
        media, *parameters = (part.strip() for part in choice.split(";"))
        given = dict(part.split("=", 1) for part in parameters if "=" in part)
        if media not in {"application/json", "*/*", "application/*"}:
            continue
        if "as" not in given:
            return ""
        if given["as"] == "APIGroupDiscoveryList" and given.get("g") == "apidiscovery.k8s.io":
            version = given.get("v", "")
            if version in _AGGREGATED:
                return version
    return ""


@lru_cache(maxsize=128)  # bounded: anybody may ask for any path
def _document(path: str, aggregated: str) -> Document | None:
    if aggregated:
        content_type = f"application/json;g=apidiscovery.k8s.io;v={aggregated};as=APIGroupDiscoveryList"
        return fixed(_aggregated(path == "/api", aggregated), content_type)
    match path.strip("/").split("/"):
        case ["api"]:
            return fixed({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        case ["apis"]:
            groups = [_group(name) for name in _groups() if name]
            return fixed({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        case ["api", "v1"]:
            return fixed(_resources("", "v1"))
        case ["apis", group] if group in _groups():
            return fixed({"kind": "APIGroup", "apiVersion": "v1"} | _group(group))
        case ["apis", group, version] if version in _groups().get(group, ()):
            return fixed(_resources(group, version))
        case _:
            return None


@cache
def _groups() -> dict[str, list[str]]:
    """Group -> its versions, preferred first."""
    found: dict[str, list[str]] = {}
    for one in schema.served():
        versions = found.setdefault(one.group, [])
        if one.version not in versions:
            versions.append(one.version)
    return found


def _group(name: str) -> Json:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in _groups()[name]]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resources(group: str, version: str) -> Json:
    rows: list[Json] = []
    for one in schema.served():
        if (one.group, one.version) == (group, version):
            rows.append(_resource(one))
            rows.extend(_subresource(one, sub) for sub in one.subresources)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": rows,
    }


def _resource(one: ResourceInfo) -> Json:
    row: Json = {
        "name": one.plural,
        "singularName": one.singular,
        "namespaced": one.namespaced,
        "kind": one.kind,
        "verbs": one.verbs,
    }
    if one.short_names:
        row["shortNames"] = one.short_names
    if one.categories:
        row["categories"] = one.categories
    return row


def _subresource(one: ResourceInfo, sub: Subresource) -> Json:
    row: Json = {
        "name": f"{one.plural}/{sub.name}",
        "singularName": "",
        "namespaced": one.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    }
    return row | ({"group": sub.group, "version": sub.version} if sub.version else {})


def _aggregated(core: bool, api_version: str) -> Json:
    rows = [one for one in schema.served() if (one.group == "") is core]
    items = [
        {"metadata": {"name": group} if group else {}, "versions": _aggregated_versions(list(members))}
        for group, members in groupby(rows, key=lambda one: one.group)
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{api_version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_versions(rows: list[ResourceInfo]) -> list[Json]:
    return [
        {"version": version, "resources": [_aggregated_resource(one) for one in members], "freshness": "Current"}
        for version, members in groupby(rows, key=lambda one: one.version)
    ]


def _aggregated_resource(one: ResourceInfo) -> Json:
    row: Json = {
        "resource": one.plural,
        "responseKind": {"group": "", "version": "", "kind": one.kind},
        "scope": "Namespaced" if one.namespaced else "Cluster",
        "singularResource": one.singular,
        "verbs": one.verbs,
    }
    if one.short_names:
        row["shortNames"] = one.short_names
    if one.categories:
        row["categories"] = one.categories
    if one.subresources:
        row["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs,
            }
            for sub in one.subresources
        ]
    return row
