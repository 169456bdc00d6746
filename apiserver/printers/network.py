"""Services, Endpoints, EndpointSlices, Ingresses, NetworkPolicies, and the ranges and addresses of Services as rows."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import NAME, Column, Json, Printer, Printers, columns, wide


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
            return ",".join([*_balancers(obj), *outside]) or "<pending>"
        case "ExternalName":
            return str(spec.get("externalName", ""))
        case _:
            return text.UNKNOWN


def _balancers(obj: Json) -> list[str]:
    """Addresses, or names, of the load balancers before it."""
    ingress = obj.get("status", {}).get("loadBalancer", {}).get("ingress", ())
    return sorted({one.get("ip") or one.get("hostname", "") for one in ingress} - {""})


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


def ingress(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    return [
        text.name(obj),
        spec.get("ingressClassName", text.NONE),
        _hosts(spec.get("rules", [])),
        ",".join(_balancers(obj)),
        "80, 443" if spec.get("tls") else "80",
        text.age(obj, now),
    ]


def _hosts(rules: list[Json]) -> str:
    """Hosts of the rules, three of them; upstream counts what is left in rules, with or without a host."""
    shown: list[str] = []
    more = False
    for rule in rules:
        more = more or len(shown) == 3
        if not more and rule.get("host"):
            shown.append(rule["host"])
    if not shown:
        return "*"
    return f"{','.join(shown)} + {len(rules) - 3} more..." if more else ",".join(shown)


def ingress_class(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    given = spec.get("parameters")
    parameters = text.NONE
    if given:
        group = f".{given['apiGroup']}" if "apiGroup" in given else ""
        parameters = f"{given.get('kind', '')}{group}/{given.get('name', '')}"
    return [text.name(obj), spec.get("controller", ""), parameters, text.age(obj, now)]


def network_policy(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), text.selector(obj.get("spec", {}).get("podSelector")), text.age(obj, now)]


def service_cidr(obj: Json, now: datetime) -> list[Any]:
    return [text.name(obj), ",".join(obj.get("spec", {}).get("cidrs", ())), text.age(obj, now)]


def ip_address(obj: Json, _: datetime) -> list[Any]:
    parent = obj.get("spec", {}).get("parentRef")
    if not parent:
        return [text.name(obj), text.NONE]
    group = f".{parent['group']}" if parent.get("group") else ""
    parts = (f"{parent.get('resource', '')}{group}".lower(), parent.get("namespace"), parent.get("name", ""))
    return [text.name(obj), "/".join(one for one in parts if one)]


PRINTERS: Final[Printers] = {
    ("", "Service"): Printer(
        columns(
            Column("Type", "How it is reached."),
            Column("Cluster-IP", "Address inside the cluster."),
            Column("External-IP", "Addresses outside the cluster."),
            Column("Port(s)", "Ports, with their node ports."),
            after=(wide("Selector", "Which pods serve it."),),
        ),
        service,
    ),
    ("", "Endpoints"): Printer(columns(Column("Endpoints", "Addresses that serve it.")), endpoints),
    ("discovery.k8s.io", "EndpointSlice"): Printer(
        columns(
            Column("AddressType", "Kind of its addresses."),
            Column("Ports", "Ports of the endpoints."),
            Column("Endpoints", "Addresses of the endpoints."),
        ),
        endpoint_slice,
    ),
    ("networking.k8s.io", "Ingress"): Printer(
        columns(
            Column("Class", "IngressClass that serves it."),
            Column("Hosts", "Host names of its rules."),
            Column("Address", "Load balancers before it."),
            Column("Ports", "80, and 443 where it has TLS."),
        ),
        ingress,
    ),
    ("networking.k8s.io", "IngressClass"): Printer(
        columns(Column("Controller", "Who implements it."), Column("Parameters", "Its controller's parameters.")),
        ingress_class,
    ),
    ("networking.k8s.io", "NetworkPolicy"): Printer(
        columns(Column("Pod-Selector", "Pods it is about.")), network_policy
    ),
    ("networking.k8s.io", "ServiceCIDR"): Printer(columns(Column("CIDRs", "Ranges of Services.")), service_cidr),
    ("networking.k8s.io", "IPAddress"): Printer((NAME, Column("ParentRef", "Whose address it is.")), ip_address),
}
