"""CustomResourceDefinitions: names, versions, and schemas that say what everything is (structural schemas).

After k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation and .../apiserver/schema/validation.go. The
expressions of `x-kubernetes-validations` are not compiled here.
"""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, at_most, each, one_of, spelt
from apiserver.validation.webhooks import client_config

_API: Final = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS: Final = ("", "binary", "byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_JUNCTIONS: Final = ("allOf", "anyOf", "oneOf")
_FORBIDDEN_BELOW_ROOT: Final = ("definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties",
                                "readOnly", "writeOnly", "xml", "$ref")  # fmt: skip
_IN_VALUE_VALIDATION: Final = ("additionalProperties", "default", "description", "nullable", "title",
                               "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string",
                               "x-kubernetes-preserve-unknown-fields")  # fmt: skip
_DEEPEST: Final = 100


def definition(obj: Json, path: Path, found: Found) -> None:
    spec, here = obj.get("spec", {}), (path, "spec")
    name = obj.get("metadata", {}).get("name", "")
    wanted = f"{spec.get('names', {}).get('plural', '')}.{spec.get('group', '')}"
    if name != wanted:
        found.invalid(((path, "metadata"), "name"), name, 'must be spec.names.plural+"."+spec.group')
    _group(spec, here, found)
    _names(spec.get("names", {}), (here, "names"), found)
    _versions(spec, here, found)
    _conversion(spec.get("conversion", {}), (here, "conversion"), found)
    if spec.get("preserveUnknownFields"):
        detail = "must be false in order to use defaults in the schema, and is not allowed in v1"
        found.invalid((here, "preserveUnknownFields"), True, detail)


def _group(spec: Json, path: Path, found: Found) -> None:
    group = spec.get("group", "")
    if not group:
        found.required((path, "group"))
        return
    for text in names.dns_subdomain(group):
        found.invalid((path, "group"), group, text)
    if "." not in group:
        found.invalid((path, "group"), group, "should be a domain with at least one dot")


def _names(one: Json, path: Path, found: Found) -> None:
    for field in ("plural", "singular", "kind", "listKind"):
        value = one.get(field, "")
        if not value:
            if field in ("plural", "kind"):
                found.required((path, field))
            continue
        for text in names.dns_1035_label(value.lower() if "ind" in field else value):
            found.invalid((path, field), value, text)
    if one.get("kind") and one.get("kind") == one.get("listKind"):
        found.invalid((path, "listKind"), one["listKind"], "kind and listKind may not be the same")
    for field in ("shortNames", "categories"):
        for index, value in enumerate(one.get(field, ())):
            for text in names.dns_1035_label(value):
                found.invalid(((path, field), index), value, text)


def _versions(spec: Json, path: Path, found: Found) -> None:
    versions = spec.get("versions", [])
    if not versions:
        found.required((path, "versions"), "must have at least one version")
        return
    stored = sum(bool(one.get("storage")) for one in versions)
    if stored != 1:
        found.invalid((path, "versions"), _listed(versions), "must have exactly one version marked as storage version")
    seen: set[str] = set()
    for index, one in enumerate(versions):
        here, name = ((path, "versions"), index), one.get("name", "")
        for text in names.dns_1035_label(name):
            found.invalid((here, "name"), name, text)
        if name in seen:
            found.invalid((path, "versions"), _listed(versions), "must contain unique version names")
        seen.add(name)
        if not one.get("deprecated") and "deprecationWarning" in one:
            found.invalid(
                (here, "deprecationWarning"), one["deprecationWarning"], "can only be set for deprecated versions"
            )
        schema = one.get("schema", {}).get("openAPIV3Schema")
        if schema is None:
            found.required(((here, "schema"), "openAPIV3Schema"), "schemas are required")
        else:
            root(schema, ((here, "schema"), "openAPIV3Schema"), found)
        _subresources(one.get("subresources", {}), (here, "subresources"), found)


def _listed(versions: list[Json]) -> list[str]:
    return [one.get("name", "") for one in versions]


def _subresources(one: Json, path: Path, found: Found) -> None:
    scale = one.get("scale")
    if scale is None:
        return
    for field, prefix in (
        ("specReplicasPath", ".spec."), ("statusReplicasPath", ".status."), ("labelSelectorPath", ".s"),
    ):  # fmt: skip
        value = scale.get(field, "")
        if not value:
            if field != "labelSelectorPath":
                found.required(((path, "scale"), field))
        elif not value.startswith(prefix):
            root_word = ".spec" if field == "specReplicasPath" else ".status"
            found.invalid(((path, "scale"), field), value, f"should be a json path under {root_word}")


def _conversion(one: Json, path: Path, found: Found) -> None:
    strategy, hook = one.get("strategy", "None"), one.get("webhook")
    if strategy not in ("None", "Webhook"):
        found.unsupported((path, "strategy"), strategy, ("None", "Webhook"))
    elif strategy == "Webhook":
        if hook is None or "clientConfig" not in hook:
            found.required((path, "webhookClientConfig"), "required when strategy is set to Webhook")
        else:
            client_config(hook["clientConfig"], ((path, "webhook"), "clientConfig"), found)
        reviews = (hook or {}).get("conversionReviewVersions", [])
        if not reviews:
            found.required((path, "conversionReviewVersions"))
        elif not {"v1", "v1beta1"} & set(reviews):
            found.invalid((path, "conversionReviewVersions"), reviews, "must include at least one of v1, v1beta1")
    elif hook is not None:
        found.forbidden((path, "webhook"), "should not be set when strategy is not set to Webhook")


def root(schema: Json, path: Path, found: Found) -> None:
    """The schema of whole objects."""
    if schema.get("type") != "object":
        if not schema.get("type"):
            found.required((path, "type"), "must not be empty at the root")
        else:
            found.invalid((path, "type"), schema["type"], "must be object at the root")
    if schema.get("nullable"):
        found.forbidden((path, "nullable"), "nullable cannot be true at the root")
    if "default" in schema:
        found.forbidden((path, "default"), "must not be set on the root")
    structural(schema, path, found, 0)


def structural(schema: Any, path: Path, found: Found, depth: int) -> None:
    """Every value has a type, here and below; what the junctions say only narrows it."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return
    kind = schema.get("type", "")
    _typed(schema, kind, path, found, depth)
    if schema.get("uniqueItems"):
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        found.forbidden((path, "uniqueItems"), detail)
    if "properties" in schema and schema.get("additionalProperties") not in (None, False):
        found.forbidden((path, "additionalProperties"), "additionalProperties and properties are mutual exclusive")
    for field in _FORBIDDEN_BELOW_ROOT:
        if schema.get(field):
            found.forbidden((path, field), f"{field} is not supported")
    for name, one in schema.get("properties", {}).items():
        structural(one, ((path, "properties"), f"[{name}]"), found, depth + 1)
    items = schema.get("items")
    if isinstance(items, list):
        found.forbidden((path, "items"), "items must be a schema object and not an array")
    else:
        structural(items, (path, "items"), found, depth + 1)
    structural(schema.get("additionalProperties"), (path, "additionalProperties"), found, depth + 1)
    _lists(schema, kind, path, found)
    for field in _JUNCTIONS:
        for index, one in enumerate(schema.get(field, ())):
            _only_narrows(one, schema, ((path, field), index), found, depth)


def _typed(schema: Json, kind: str, path: Path, found: Found, depth: int) -> None:
    loose = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not kind:
        if not loose and depth:
            found.required((path, "type"), "must not be empty for specified object fields")
    elif kind not in _TYPES:
        found.unsupported((path, "type"), kind, _TYPES)
    if schema.get("x-kubernetes-int-or-string") and kind:
        found.forbidden((path, "type"), "must be empty if x-kubernetes-int-or-string is true")
    if kind == "array" and "items" not in schema:
        found.required((path, "items"), "must be specified for array types")


def _lists(schema: Json, kind: str, path: Path, found: Found) -> None:
    list_type, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", [])
    if list_type is None:
        if keys:
            found.invalid(
                (path, "x-kubernetes-list-map-keys"), keys, "must be unset if x-kubernetes-list-type is unset"
            )
        return
    if list_type not in ("atomic", "map", "set"):
        found.unsupported((path, "x-kubernetes-list-type"), list_type, ("atomic", "map", "set"))
    if kind != "array":
        found.invalid((path, "type"), kind, "must be array if x-kubernetes-list-type is specified")
    if list_type == "map" and not keys:
        found.required((path, "x-kubernetes-list-map-keys"), "must not be empty if x-kubernetes-list-type is map")
    if list_type != "map" and keys:
        found.invalid((path, "x-kubernetes-list-map-keys"), keys, "must be unset if x-kubernetes-list-type is not map")


def _only_narrows(one: Json, whole: Json, path: Path, found: Found, depth: int) -> None:
    if depth > _DEEPEST or not isinstance(one, dict):
        return
    integer_or_string = whole.get("x-kubernetes-int-or-string")
    for field in _IN_VALUE_VALIDATION:
        if one.get(field):
            found.forbidden((path, field), "must be undefined to be structural")
    if one.get("type") and not integer_or_string:
        found.forbidden((path, "type"), "must be empty to be structural")
    known = whole.get("properties", {})
    for name, below in one.get("properties", {}).items():
        here = ((path, "properties"), f"[{name}]")
        if name not in known and "properties" in whole:
            found.required(here, f"because it is defined in {spelt(here)}")
        _only_narrows(below, known.get(name, {}), here, found, depth + 1)


def definition_update(new: Json, old: Json, found: Found) -> None:
    """Once its names are accepted, a definition's group, scope and names stay, and stored versions stay known."""
    path: Path = (TOP, "spec")
    after, before = new.get("spec", {}), old.get("spec", {})
    if after.get("group") != before.get("group"):
        found.invalid((path, "group"), after.get("group"), names.IMMUTABLE)
    conditions = old.get("status", {}).get("conditions", ())
    established = any(one.get("type") == "Established" and one.get("status") == "True" for one in conditions)
    if established and after.get("scope") != before.get("scope"):
        found.invalid((path, "scope"), after.get("scope"), names.IMMUTABLE)
    for field in ("plural", "kind"):
        was = before.get("names", {}).get(field)
        if (established or field == "plural") and after.get("names", {}).get(field) != was:
            found.invalid(((path, "names"), field), after.get("names", {}).get(field), names.IMMUTABLE)
    known = _listed(after.get("versions", []))
    for index, version in enumerate(new.get("status", {}).get("storedVersions", ())):
        if version not in known:
            detail = f"missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"  # noqa: E501  # fmt: skip
            found.invalid((((TOP, "status"), "storedVersions"), index), version, detail)


def _column(one: Json, path: Path, found: Found) -> None:
    if not one.get("jsonPath"):
        found.required((path, "jsonPath"), "missing jsonPath")
    if one.get("type") and one["type"] not in _COLUMN_TYPES:
        found.invalid((path, "type"), one["type"], f"must be one of {','.join(_COLUMN_TYPES)}")
    if one.get("format", "") not in _COLUMN_FORMATS:
        found.invalid((path, "format"), one["format"], f"must be one of {','.join(_COLUMN_FORMATS[1:])}")


RULES: Final[Rules] = {
    f"{_API}CustomResourceDefinition": Rule(checks=(definition,)),
    f"{_API}CustomResourceDefinitionSpec": Rule({"scope": one_of("Cluster", "Namespaced")}, ("scope",)),
    f"{_API}CustomResourceDefinitionVersion": Rule(
        {"additionalPrinterColumns": each(_column), "selectableFields": at_most(8)}
    ),
    f"{_API}CustomResourceColumnDefinition": Rule(required=("name", "type")),
    f"{_API}JSONSchemaProps": Rule(final=True),
}
