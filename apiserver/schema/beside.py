"""Resources that nothing stores, with their types: what a component of its own answers beside the stored ones.

metrics.k8s.io/v1beta1 (k8s.io/metrics) is not in the documents that the table is derived from, so its few types are
written here.
"""

from typing import Final

from apiserver.schema.model import Field, ResourceInfo, Shape, Type

METRICS: Final = ("metrics.k8s.io", "v1beta1")
_READ: Final = ("get", "list")
BESIDE: Final = (
    ResourceInfo(*METRICS, "nodes", "", "NodeMetrics", False, _READ),
    ResourceInfo(*METRICS, "pods", "", "PodMetrics", True, _READ),
)

_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_HERE: Final = "io.k8s.metrics.pkg.apis.metrics.v1beta1."
_USAGE: Final = Field("io.k8s.apimachinery.pkg.api.resource.Quantity", Shape.MAP, required=True)
_HEAD: Final = {"apiVersion": Field("string"), "kind": Field("string")}
_MEASURED: Final = {
    **_HEAD,
    "metadata": Field(_META + "ObjectMeta"),
    "timestamp": Field(_META + "Time", required=True),
    "window": Field("string", required=True),
}


def _with_list(kind: str, fields: dict[str, Field]) -> dict[str, Type]:
    items = Field(_HERE + kind, Shape.LIST, required=True)
    return {
        _HERE + kind: Type(_MEASURED | fields, ((*METRICS, kind),)),
        f"{_HERE}{kind}List": Type(
            {**_HEAD, "items": items, "metadata": Field(_META + "ListMeta")}, ((*METRICS, f"{kind}List"),)
        ),
    }


TYPES: Final = {
    _HERE + "ContainerMetrics": Type({"name": Field("string", required=True), "usage": _USAGE}),
    **_with_list("NodeMetrics", {"usage": _USAGE}),
    **_with_list("PodMetrics", {"containers": Field(_HERE + "ContainerMetrics", Shape.LIST, required=True)}),
}
