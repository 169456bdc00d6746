"""A request's body becomes an object of the kind that was expected, or a 400 that says what is wrong with it.

Order, as upstream's: media type (415), syntax, apiVersion and kind, structure, and last the strict findings (duplicate and
unknown fields), which `fieldValidation` turns into an error, warnings, or nothing. The sentences are those of
k8s.io/apiserver/pkg/endpoints/handlers/rest.go.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from apiserver import errors, schema
from apiserver.codec import json, protobuf, yaml
from apiserver.codec.conform import Mismatch, conform
from apiserver.errors import StatusError
from apiserver.schema import GVK

FieldValidation = Literal["Strict", "Warn", "Ignore"]

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
SUPPORTED: Final = (JSON, YAML, PROTOBUF)
_SCHEME: Final = 'scheme "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30"'
_ANY_VERSION: Final = frozenset({"DeleteOptions", "Status"})


@dataclass(frozen=True, slots=True)
class Decoded:
    """An object that conforms to its type, and what to tell the client in `Warning` headers."""

    obj: dict[str, Any]
    warnings: tuple[str, ...] = ()

    @property
    def gvk(self) -> GVK:
        return GVK.of(self.obj)


def media_type(content_type: str | None) -> str:
    """The bare media type; a missing one means JSON (the Python client sends none on create)."""
    return (content_type or "").partition(";")[0].strip().lower() or JSON


def decode_body(
    body: bytes,
    content_type: str | None,
    expected: tuple[str, str, str] | None = None,
    field_validation: FieldValidation = "Ignore",
) -> Decoded:
    """The object in `body`. `expected` fills in what the body leaves out and refuses another kind; None takes any."""
    wanted = None if expected is None else GVK(*expected)
    kind = media_type(content_type)
    if kind == PROTOBUF:
        return _from_protobuf(body, wanted)
    if kind not in SUPPORTED:
        raise errors.unsupported_media_type(SUPPORTED)
    document, twice = _parse(body, kind, wanted, field_validation)
    gvk = _kind(document, body, wanted)
    if wanted is not None and wanted.kind not in _ANY_VERSION:
        _same_kind(gvk, wanted)
    return _typed(document, gvk, wanted or gvk, twice, field_validation)


def conforming(obj: dict[str, Any], gvk: tuple[str, str, str], field_validation: FieldValidation) -> Decoded:
    """An object that is already JSON (a patched one) made to conform; raises `Mismatch` or `Strict`, for the caller
    to word: a patch is refused with another sentence than a body."""
    name = schema.type_name(gvk)
    if name is None:
        return Decoded(obj)
    obj, unknown = conform(obj, name)
    _with_metadata(obj, name)
    findings = [f'unknown field "{path}"' for path in unknown]
    if findings and field_validation == "Strict":
        raise Strict(findings)
    return Decoded(obj, tuple(findings) if field_validation == "Warn" else ())


class Strict(ValueError):
    """Duplicate or unknown fields, and the client asked to be told."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__(f"strict decoding error: {', '.join(findings)}")
        self.findings = tuple(findings)


def _parse(
    body: bytes, kind: str, wanted: GVK | None, field_validation: FieldValidation
) -> tuple[dict[str, Any], list[str]]:
    twice: list[str] = []
    try:
        if kind == YAML:
            document, found = yaml.loads(body)
            twice = [] if field_validation == "Ignore" else found
        else:
            document = json.loads(body)
            if field_validation != "Ignore":
                twice = [f'duplicate field "{path}"' for path in json.duplicates(body, document)]
    except yaml.Malformed as wrong:
        raise _unrecognised(body, wanted, str(wrong)) from None
    except ValueError as wrong:
        raise _unrecognised(body, wanted, f"couldn't get version/kind; json parse error: {wrong}") from None
    if not isinstance(document, dict):
        what = {list: "array", str: "string", type(None): "null", bool: "bool"}.get(type(document), "number")
        text = (
            f"couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type "
            'struct { APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }'
        )
        raise _unrecognised(body, wanted, text)
    return document, twice


def _kind(document: dict[str, Any], body: bytes, wanted: GVK | None) -> GVK:
    """What the document says it is; what it leaves out is what was expected."""
    for key in ("kind", "apiVersion"):
        if document.get(key) in (None, ""):
            document.pop(key, None)
        elif not isinstance(document[key], str):
            text = f"couldn't get version/kind; json parse error: json: cannot unmarshal {key} into a string"
            raise _unrecognised(body, wanted, text)
    said = GVK.of(document)
    if wanted is not None:
        group, version = (said.group, said.version) if "apiVersion" in document else (wanted.group, wanted.version)
        said = GVK(group, version, said.kind or wanted.kind)
    elif not said.kind:
        raise _unrecognised(body, wanted, f"Object 'Kind' is missing in '{_summary(body)}'")
    document["apiVersion"], document["kind"] = said.api_version, said.kind
    return said


def _same_kind(gvk: GVK, wanted: GVK) -> None:
    if (gvk.group, gvk.version) != (wanted.group, wanted.version):
        if schema.type_name(gvk) is None:
            raise _unhandled(
                gvk, wanted, f'no kind "{gvk.kind}" is registered for version "{gvk.api_version}" in {_SCHEME}'
            )
        raise errors.bad_request(
            f"the API version in the data ({gvk.api_version}) does not match the expected API version"
            f" ({wanted.api_version})"
        )
    if gvk.kind != wanted.kind:
        if schema.type_name(gvk) is None:
            raise _unhandled(
                gvk, wanted, f'no kind "{gvk.kind}" is registered for version "{gvk.api_version}" in {_SCHEME}'
            )
        raise errors.bad_request(
            f'the kind in the data ("{gvk.kind}") does not match the expected kind ("{wanted.kind}")'
        )


def _typed(
    document: dict[str, Any], gvk: GVK, wanted: GVK, twice: list[str], field_validation: FieldValidation
) -> Decoded:
    name = schema.type_name(gvk)
    if name is None:
        raise _unhandled(
            gvk, wanted, f'no kind "{gvk.kind}" is registered for version "{gvk.api_version}" in {_SCHEME}'
        )
    try:
        obj, unknown = conform(document, name)
    except Mismatch as wrong:
        raise _unhandled(gvk, wanted, str(wrong)) from None
    _with_metadata(obj, name)
    findings = [*twice, *(f'unknown field "{path}"' for path in unknown)]
    if findings and field_validation == "Strict":
        raise _unhandled(gvk, wanted, str(Strict(findings)))
    return Decoded(obj, tuple(findings) if field_validation == "Warn" else ())


def _with_metadata(obj: dict[str, Any], name: str) -> None:
    """Every object has metadata, as in Go, so that nobody downstream asks whether it does."""
    if "metadata" in schema.named(name).fields:
        obj.setdefault("metadata", {})


def _from_protobuf(body: bytes, wanted: GVK | None) -> Decoded:
    try:
        gvk, obj = protobuf.decode(body, wanted)
    except protobuf.Malformed as wrong:
        raise _unrecognised(body, wanted, str(wrong)) from None
    if wanted is not None and wanted.kind not in _ANY_VERSION:
        _same_kind(gvk, wanted)
    return _typed(obj, gvk, wanted or gvk, [], "Ignore")


def _unhandled(gvk: GVK, wanted: GVK, why: str) -> StatusError:
    return errors.bad_request(f'{gvk.kind} in version "{gvk.version}" cannot be handled as a {wanted.kind}: {why}')


def _unrecognised(body: bytes, wanted: GVK | None, why: str) -> StatusError:
    must = "" if wanted is None else f" (must be of type {wanted.kind})"
    return errors.bad_request(f"the object provided is unrecognized{must}: {why} ({_summary(body)})")


def _summary(body: bytes) -> str:
    if not body:
        return "<empty>"
    start = body[:30].decode(errors="replace") if body.startswith(b"{") else body[:30].hex()
    return start + (" ..." if len(body) > 30 else "")
