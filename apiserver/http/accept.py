"""What the client wants to read: Accept, memoised.

JSON goes out, always: every Go client offers it beside protobuf and decodes by what comes back. Of the JSON forms the
first one we know wins: `;as=Table`, `;as=PartialObjectMetadata(List)`, or the object itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

from apiserver import errors

Form = Literal["object", "table", "metadata", "yaml"]
SUPPORTED: Final = ("application/json", "application/yaml")
_YAML: Final = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
_ANY: Final = frozenset({"application/json", "application/*", "*/*"})


@lru_cache(maxsize=256)
def form(accept: str) -> Form:
    """Raises 406 when nothing offered can be served."""
    found = _offered(accept)
    if found is None:
        raise errors.not_acceptable(SUPPORTED)
    return found


def _offered(accept: str) -> Form | None:
    for clause in accept.split(",") if accept.strip() else ["*/*"]:
        kind, *parameters = (part.strip() for part in clause.split(";"))
        wanted = dict(parameter.partition("=")[::2] for parameter in parameters)
        if kind in _YAML and "as" not in wanted:
            return "yaml"
        if kind not in _ANY:
            continue
        match wanted.get("as"):
            case None:
                return "object"
            case "Table" if wanted.get("v") == "v1" and wanted.get("g") == "meta.k8s.io":
                return "table"
            case "PartialObjectMetadata" | "PartialObjectMetadataList" if wanted.get("v", "v1") == "v1":
                return "metadata"
            case _:
                continue
    return None


def wants_yaml(accept: str) -> bool:
    """Also of an Accept that nothing satisfies: its refusal is JSON."""
    return "yaml" in accept and _offered(accept) == "yaml"
