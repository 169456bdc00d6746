"""PATCH: the object that results, written; for the five formats, on an object, its status or its scale.

Four formats change an object that must be there. The fifth, server-side apply, also creates it, and says whose fields are
whose. A patch that names no version is computed again from the newer object when somebody else was faster, five times; one
that names one (in its metadata) is the client's 409. Upstream: k8s.io/apiserver/pkg/endpoints/handlers/patch.go.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from apiserver import errors, patch, subresources
from apiserver.codec import json, yaml
from apiserver.codec.body import media_type
from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Request
from apiserver.http.wire import field_validation, same_name, same_namespace, written_answer
from apiserver.listing import flag
from apiserver.managed import applying, tracking, versions
from apiserver.pipeline import RETRIES, Obj, Target, Writer, Written, now, rfc3339

APPLY: Final = patch.APPLY


def is_apply(request: Request) -> bool:
    return media_type(request.headers.get("Content-Type", "")) == APPLY


async def patched(writer: Writer, target: Target, request: Request, subresource: str = "") -> Answer:
    """The answer to a PATCH of the object or, by name, of the part of it that is `status`."""
    check_options(request)
    if is_apply(request):
        asked = await applied_body(request)
        written = await applied(writer, target, asked, subresource)
        return written_answer(request, target.resource, written, asked.warnings)
    body, resource, validation = await request.body(), target.resource, field_validation(request)
    content_type = request.headers.get("Content-Type", "")
    warnings: tuple[str, ...] = ()

    def change(current: Obj) -> Obj:
        nonlocal warnings
        shown = resource.outward(current) if resource.outward else current
        decoded = patch.patched(content_type, body, shown, resource.info.gvk, validation)
        warnings = decoded.warnings
        obj = resource.inward(decoded.obj) if resource.inward else decoded.obj
        same_namespace(obj, target)
        same_name(obj, target)
        return obj

    written = await writer.modify(target, change, subresource=subresource)
    return written_answer(request, resource, written, warnings)


def check_options(request: Request) -> None:
    """Raises 415, and 422: an apply needs a field manager, and only an apply can be forced."""
    if media_type(request.headers.get("Content-Type", "")) not in patch.SUPPORTED:
        raise errors.unsupported_media_type(patch.SUPPORTED)
    causes = []
    if is_apply(request):
        if not request.query.get("fieldManager"):
            causes.append(errors.required("fieldManager", "is required for apply patch"))
    elif "force" in request.query:
        causes.append(errors.cause("force", errors.FORBIDDEN, detail="may not be specified for non-apply patch"))
    if causes:
        raise errors.invalid("meta.k8s.io", "PatchOptions", "", causes)


@dataclass(frozen=True, slots=True)
class Asked:
    """An apply request's body and options."""

    config: Obj
    force: bool
    warnings: tuple[str, ...] = ()


async def applied_body(request: Request) -> Asked:
    """YAML, or JSON, which is YAML as well (and what kubectl sends); raises 400."""
    validation, body = field_validation(request), await request.body()
    try:
        document, twice = _parsed(body)
    except (yaml.Malformed, ValueError) as wrong:
        raise errors.bad_request(f"error decoding YAML: {wrong}") from None
    if not isinstance(document, dict):
        raise errors.bad_request("error decoding YAML: the applied configuration is not an object")
    if twice and validation == "Strict":
        raise errors.bad_request(f"error strict decoding YAML: {', '.join(twice)}")
    return Asked(document, flag(request.query, "force"), tuple(twice) if validation == "Warn" else ())


def _parsed(body: bytes) -> tuple[Any, list[str]]:
    """The document and its duplicate keys. JSON is read as JSON, a hundred times faster, unless it has duplicates to tell."""
    if body.lstrip()[:1] == b"{":
        try:
            document = json.loads(body)
        except ValueError:
            return yaml.loads(body)  # flow style
        if not json.duplicates(body, document):
            return document, []
    return yaml.loads(body)


async def applied(writer: Writer, target: Target, asked: Asked, subresource: str = "") -> Written:
    """Raises 404 where a part of what is not there is applied, 409 for conflicts."""
    target = replace(target, applied=True)
    if target.resource.info.group_version not in versions.of(target.resource):
        raise errors.unsupported_media_type(patch.SUPPORTED)
    for _ in range(RETRIES + 1):
        written = await _attempt(writer, target, asked, subresource)
        if written is not None:
            return written
    raise target.conflict()


async def _attempt(writer: Writer, target: Target, asked: Asked, subresource: str) -> Written | None:
    """None when somebody else was faster."""
    whose = tracking.Writer(target.resource, target.manager, rfc3339(now()), target.part or subresource)
    entry = writer.shelf(target.resource).get(target.namespace, target.name)
    if entry is None and whose.subresource:
        raise target.not_found()
    stored = None if entry is None else entry.parse()
    new = applying.apply(whose, stored, asked.config, force=asked.force)
    same_namespace(new, target)
    same_name(new, target)
    if entry is not None:
        return await writer.replace(target, entry, new, subresource=subresource)
    if uid := new["metadata"].get("uid"):
        raise target.conflict(
            f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        )
    try:
        return await writer.create(target, new)
    except StatusError as error:
        if error.reason == "AlreadyExists":
            return None
        raise


def config_of_scale(target: Target, scale: Any) -> Obj:
    """What an applied Scale says of the object that is scaled; raises 400."""
    wanted = subresources.SCALE
    said = (scale.get("apiVersion") or "", scale.get("kind") or "")
    if said != (wanted.api_version, wanted.kind):
        raise errors.bad_request(f"invalid object type: {said[0]}, Kind={said[1]}")
    info = target.resource.info
    spec = scale.get("spec") if isinstance(scale.get("spec"), dict) else {}
    metadata = scale.get("metadata") if isinstance(scale.get("metadata"), dict) else {}
    if metadata.get("managedFields") is not None:
        raise errors.bad_request("metadata.managedFields must be nil")
    kept = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in metadata}
    return {
        "apiVersion": info.group_version,
        "kind": info.kind,
        "metadata": kept,
        "spec": {"replicas": spec["replicas"]} if "replicas" in spec else {},
    }
