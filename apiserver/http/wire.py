"""What the parts of a request say, and how a written object is answered: shared by the verbs and the subresources."""

from __future__ import annotations

import asyncio
from typing import Final, cast, get_args

from apiserver import codec, errors
from apiserver.http import accept
from apiserver.http.exchange import Answer, Request, json_answer
from apiserver.http.routes import Route
from apiserver.pipeline import Obj, Target, Written
from apiserver.registry import Resource
from apiserver.schema import GVK
from apiserver.views import Metadata, Objects, Tables, View

YAML_AT_ONCE: Final = 32 << 10
DELETE_OPTIONS: Final = GVK("", "v1", "DeleteOptions")


def view_of(request: Request, resource: Resource) -> View:
    match accept.form(request.headers.get("Accept", "")):
        case "table":
            return Tables(resource.stored, request.query.get("includeObject") or "Metadata", resource.outward)
        case "metadata":
            return Metadata(resource.info)
        case "object" | "yaml":
            return Objects(resource.info, resource.outward)


def field_validation(request: Request) -> codec.FieldValidation:
    """Raises 422."""
    asked = request.query.get("fieldValidation") or "Warn"
    if asked in get_args(codec.FieldValidation):
        return cast("codec.FieldValidation", asked)
    cause = errors.not_supported("fieldValidation", asked, ("", "Ignore", "Strict", "Warn"))
    raise errors.invalid("meta.k8s.io", _options(request), "", [cause])


def _options(request: Request) -> str:
    """The kind that upstream reads a method's query into, and so the one that its refusals name."""
    return {"PUT": "UpdateOptions", "PATCH": "PatchOptions", "DELETE": "DeleteOptions"}.get(
        request.method, "CreateOptions"
    )


def dry_run(request: Request) -> bool:
    """Raises 422."""
    asked = request.query.get("dryRun", "")
    if asked in ("", "All"):
        return bool(asked)
    raise errors.invalid("meta.k8s.io", _options(request), "", [errors.not_supported("dryRun", [asked], ("All",))])


def field_manager(request: Request) -> str:
    """`?fieldManager=`, else what upstream takes for it: the user agent up to its first slash. Raises 422."""
    asked = request.query.get("fieldManager", "")
    if not asked:
        return request.user_agent.partition("/")[0][:FIELD_MANAGER_LENGTH] or "unknown"
    if len(asked.encode()) > FIELD_MANAGER_LENGTH or not asked.isprintable():
        rule = "should only contain printable characters"
        if len(asked.encode()) > FIELD_MANAGER_LENGTH:
            rule = f"may not be more than {FIELD_MANAGER_LENGTH} bytes"
        cause = errors.cause("fieldManager", errors.INVALID, asked, rule)
        raise errors.invalid("meta.k8s.io", "PatchOptions", "", [cause])
    return asked


FIELD_MANAGER_LENGTH: Final = 128


def target_of(resource: Resource, route: Route, request: Request) -> Target:
    changes = request.method != "GET"
    return Target(
        resource,
        route.namespace or "",
        route.name,
        dry_run=changes and dry_run(request),
        user=request.user,
        manager=field_manager(request) if changes else "",
    )


async def decoded_body(request: Request, gvk: GVK) -> codec.Decoded:
    body, content_type = await request.body(), request.headers.get("Content-Type")
    if len(body) > YAML_AT_ONCE and codec.media_type(content_type or "") == codec.YAML:
        # A megabyte of YAML takes seconds, which in a thread are shared with everybody.
        decoded = await asyncio.to_thread(codec.decode_body, body, content_type, gvk, field_validation(request))
    else:
        decoded = codec.decode_body(body, content_type, gvk, field_validation(request))
    decoded.obj.setdefault("metadata", {})
    return decoded


async def delete_options(request: Request) -> Obj:
    body = await request.body()
    if not body.strip():
        return {}
    return codec.decode_body(body, request.headers.get("Content-Type"), DELETE_OPTIONS, "Ignore").obj


def written_answer(request: Request, resource: Resource, written: Written, warnings: tuple[str, ...]) -> Answer:
    body = view_of(request, resource).one(written.body)
    return json_answer(body, 201 if written.created else 200, tuple(dict.fromkeys((*warnings, *written.warnings))))


def method_not_allowed(resource: Resource, request: Request) -> errors.StatusError:
    """In the words that client-go has for a 405 (upstream's router answers it without a Status)."""
    error = errors.method_not_allowed(resource.info.group, resource.plural, request.method.lower())
    error.message = "the server does not allow this method on the requested resource"
    return error


def same_namespace(obj: Obj, target: Target) -> None:
    """Raises 400 when the body names another namespace than the URL."""
    metadata = obj.setdefault("metadata", {})
    if not target.resource.info.namespaced:
        metadata.pop("namespace", None)
        return
    if metadata.get("namespace", "") not in ("", target.namespace):
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    metadata["namespace"] = target.namespace


def same_name(obj: Obj, target: Target) -> None:
    """Raises 400 when the body names another object than the URL."""
    name = obj.setdefault("metadata", {}).get("name") or target.name
    if name != target.name:
        raise errors.bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
    obj["metadata"]["name"] = name
