"""Services, Endpoints and EndpointSlices as rows."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from apiserver.printers import text

Json = dict[str, Any]


def service(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or text.NONE]
    return [
        text.name(obj),
        spec.get("type", ""),
        addresses[0],
        _external(obj),
        ",".join(_port(one) for one in spec.get("ports", ())) or text.NONE,
        text.age(obj, now),
        text.labels(spec.get("selector", {})),
    ]


def _port(one: Json) -> str:
    node = f":{one['nodePort']}" if one.get("nodePort") else ""
    return f"{one.get('port', 0)}{node}/{one.get('protocol', '')}"


def _external(obj: Json) -> str:
    spec = obj.get("spec", {})
    outside = spec.get("externalIPs", [])
    match spec.get("type"):
        case "ClusterIP" | "NodePort":
            return ",".join(outside) or text.NONE
        case "LoadBalancer":
            ingress = obj.get("status", {}).get("loadBalancer", {}).get("ingress", ())
            found = sorted({one.get("ip") or one.get("hostname", "") for one in ingress})
            return ",".join([*outside, *found]) or "<pending>"
        case "ExternalName":
            return str(spec.get("externalName", ""))
        case _:
            return text.UNKNOWN


def endpoints(obj: Json, now: datetime) -> list[Any]:
    found = text.cut(_addresses(obj)) if obj.get("subsets") else text.NONE
    return [text.name(obj), found, text.age(obj, now)]


def _addresses(obj: Json) -> Iterator[str]:
    for subset in obj.get("subsets", ()):
        addresses = [one.get("ip", "") for one in subset.get("addresses", ())]
        if not subset.get("ports"):
            yield from addresses
        for port in subset.get("ports", ()):
            for address in addresses:
                host = f"[{address}]" if ":" in address else address
                yield f"{host}:{port.get('port', 0)}"


def endpoint_slice(obj: Json, now: datetime) -> list[Any]:
    ports = (str(one["port"]) if "port" in one else one.get("name") or "*" for one in obj.get("ports") or ())
    addresses = (address for one in obj.get("endpoints") or () for address in one.get("addresses", ()))
    return [
        text.name(obj),
        obj.get("addressType", ""),
        text.cut(ports) or text.UNSET,
        text.cut(addresses) or text.UNSET,
        text.age(obj, now),
    ]
