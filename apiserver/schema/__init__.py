"""The schema table: every stable Kubernetes type and resource, and which of them this server serves."""

from apiserver.schema.beside import BESIDE
from apiserver.schema.model import GVK, Field, ResourceInfo, Shape, Subresource, Table, Type, WireField
from apiserver.schema.served import offered, stored
from apiserver.schema.table import (
    META,
    kind_of,
    load,
    messages,
    named,
    resource,
    resource_of,
    served,
    type_name,
    type_of,
)

__all__ = [
    "BESIDE",
    "GVK",
    "META",
    "Field",
    "ResourceInfo",
    "Shape",
    "Subresource",
    "Table",
    "Type",
    "WireField",
    "kind_of",
    "load",
    "messages",
    "named",
    "offered",
    "resource",
    "resource_of",
    "served",
    "stored",
    "type_name",
    "type_of",
]
