"""Discovery: which groups, versions and resources there are.

Three generations of one answer, from the same rows. The legacy documents (`/api`, `/apis`, `/api/v1`, `/apis/G`,
`/apis/G/V`) one group-version at a time; and at `/api` and `/apis`, for those who accept them, aggregated lists in one go
(`as=APIGroupDiscoveryList`, v2 for kubectl 1.30 and later, v2beta1 for 1.26 to 1.29).
"""

import base64
import hashlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from apiserver import schema
from apiserver.conversion import PAIRS
from apiserver.document import Document, fixed
from apiserver.schema import ResourceInfo, Subresource

Json = dict[str, Any]

_AGGREGATED: Final = ("v2", "v2beta1")


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


class Discovery:
    """The documents about `rows`, each made when it is first asked for."""

    def __init__(self, rows: Sequence[ResourceInfo]) -> None:
        self._rows = rows
        self._groups: dict[str, list[str]] = {}  # group -> its versions, preferred first
        for one in rows:
            versions = self._groups.setdefault(one.group, [])
            if one.version not in versions:
                versions.append(one.version)
        self._made: dict[tuple[str, str], Document] = {}

    def document(self, path: str, accept: str) -> Document | None:
        """The document at `path` (without a trailing slash) in the form that `accept` prefers; None for other paths."""
        aggregated = _aggregated_version(accept) if path in {"/api", "/apis"} else ""
        found = self._made.get((path, aggregated)) or self._make(path, aggregated)
        if found is not None:
            self._made[path, aggregated] = found
        return found

    def _make(self, path: str, aggregated: str) -> Document | None:
        if aggregated:
            content_type = f"application/json;g=apidiscovery.k8s.io;v={aggregated};as=APIGroupDiscoveryList"
            return fixed(_aggregated(self._rows, path == "/api", aggregated), content_type)
        match path.split("/"):
            case ["", "api"]:
                return fixed({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
            case ["", "apis"]:
                groups = [self._group(name) for name in self._groups if name]
                return fixed({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
            case ["", "api", "v1"]:
                return fixed(self._resources("", "v1"))
            case ["", "apis", group] if group and group in self._groups:
                return fixed({"kind": "APIGroup", "apiVersion": "v1"} | self._group(group))
            case ["", "apis", group, version] if group and version in self._groups.get(group, ()):
                return fixed(self._resources(group, version))
            case _:
                return None

    def _group(self, name: str) -> Json:
        versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in self._groups[name]]
        return {"name": name, "versions": versions, "preferredVersion": versions[0]}

    def _resources(self, group: str, version: str) -> Json:
        rows: list[Json] = []
        for one in self._rows:
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
    return row | ({"storageVersionHash": _storage_version(one)} if schema.stored(one) else {})


def _storage_version(one: ResourceInfo) -> str:
    """Changes when objects would be stored as another version (k8s.io/apiserver/pkg/endpoints/discovery)."""
    pair = PAIRS.get((one.group, one.version, one.plural))
    group, version = pair.stored[:2] if pair else (one.group, one.version)
    return base64.b64encode(hashlib.sha256(f"{group}/{version}/{one.kind}".encode()).digest()[:8]).decode()


def _subresource(one: ResourceInfo, sub: Subresource) -> Json:
    row: Json = {
        "name": f"{one.plural}/{sub.name}",
        "singularName": "",
        "namespaced": one.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    }
    return row | ({"group": sub.group, "version": sub.version} if sub.version else {})


def _aggregated(every: Sequence[ResourceInfo], core: bool, api_version: str) -> Json:
    rows = [one for one in every if (one.group == "") is core]
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
