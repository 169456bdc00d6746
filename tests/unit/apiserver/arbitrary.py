"""Objects that conform to a type and make no sense: for what must hold of any object at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from apiserver import schema
from apiserver.schema import Shape

_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.sampled_from(
        ["a", "RollingUpdate", "Recreate", "ClientIP", "None", "NodePort", "Container", "Limited"]
    ),
    "bool": st.booleans(),
    "int32": st.integers(0, 5),
    "int64": st.integers(0, 5),
    "io.k8s.apimachinery.pkg.api.resource.Quantity": st.sampled_from(["1", "250m", "1Gi"]),
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": st.sampled_from([1, "http", "25%"]),
}


def values(name: str, depth: int) -> st.SearchStrategy[Any]:
    """Objects of a type, a few levels deep, with any of its fields there or not."""
    if name in _SCALARS:
        return _SCALARS[name]
    known = schema.load().types.get(name)
    if known is None or not known.fields or depth == 0:
        return st.just(None)
    fields = {key: shaped(one, depth - 1) for key, one in known.fields.items() if key not in ("metadata", "status")}
    return st.fixed_dictionaries({}, optional=fields)


def shaped(field: schema.Field, depth: int) -> st.SearchStrategy[Any]:
    one = values(field.type, depth)
    match field.shape:
        case Shape.ONE:
            return one
        case Shape.LIST:
            return st.lists(one, max_size=2)
        case Shape.MAP:
            return st.dictionaries(st.sampled_from(["cpu", "memory"]), one, max_size=2)
