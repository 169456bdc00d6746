"""Services, Endpoints and EndpointSlices.

After pkg/apis/core/validation/validation.go (`ValidateService`, `ValidateEndpoints`) and pkg/apis/discovery/validation.
Whether an address or node port is free, and inside the configured ranges, is for the allocators to say.
"""

from typing import Any, Final

from apiserver.validation import addresses, meta, names
from apiserver.validation.containers import PROTOCOLS
from apiserver.validation.rules import (
    TOP,
    Found,
    Json,
    Path,
    Rule,
    Rules,
    at_most,
    both,
    distinct,
    each,
    one_of,
    written,
)

_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITIES: Final = ("ClientIP", "None")
_FAMILIES: Final = ("IPv4", "IPv6")
_DAY: Final = 86_400
_MAX_ENDPOINTS: Final = 1000
_MAX_ADDRESSES: Final = 100
_MAX_PORTS: Final = 20_000
_MAX_ZONES: Final = 8
_SPEC: Final[Path] = (TOP, "spec")


def service(spec: Json, path: Path, found: Found) -> None:
    kind = spec.get("type", "")
    headless = spec.get("clusterIP") == "None"
    if not spec.get("ports") and not headless and kind != "ExternalName":
        found.required((path, "ports"))
    _service_ports(spec, path, headless, found)
    _affinity(spec, path, found)
    if kind == "ExternalName":
        _external_name(spec, path, found)
    else:
        _cluster_ips(spec, path, found)
    if kind == "LoadBalancer" and headless:
        here = ((path, "clusterIPs"), 0)
        found.invalid(here, "None", "may not be set to 'None' for LoadBalancer services")
    if kind != "LoadBalancer":
        for field in ("loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts"):
            if field in spec:
                found.forbidden((path, field), "may only be used when `type` is 'LoadBalancer'")
    _traffic_policies(spec, path, found)


def _service_ports(spec: Json, path: Path, headless: bool, found: Found) -> None:
    ports = spec.get("ports", ())
    node_ports: set[tuple[Any, Any]] = set()
    keys: set[tuple[Any, Any]] = set()
    seen: set[str] = set()
    for index, one in enumerate(ports):
        here = ((path, "ports"), index)
        name = one.get("name", "")
        if len(ports) > 1 and not name:
            found.required((here, "name"))
        if name and name in seen:
            found.duplicate((here, "name"), name)
        seen.add(name)
        target = one.get("targetPort", 0)
        if not (headless and target == 0):
            for text in names.port(target):
                found.invalid((here, "targetPort"), target, text)
        key = (one.get("protocol"), one.get("port"))
        if key in keys:
            found.duplicate(here, {"port": one.get("port"), "protocol": one.get("protocol")})
        keys.add(key)
        node_port = one.get("nodePort", 0)
        if node_port and spec.get("type") in {"ClusterIP", "ExternalName"}:
            found.forbidden((here, "nodePort"), f"may not be used when `type` is '{spec.get('type')}'")
        elif node_port:
            if (one.get("protocol"), node_port) in node_ports:
                found.duplicate((here, "nodePort"), node_port)
            node_ports.add((one.get("protocol"), node_port))


def _port(one: Json, path: Path, found: Found) -> None:
    if not 1 <= one.get("port", 0) <= 65535:
        found.invalid((path, "port"), one.get("port", 0), names.OUTSIDE_PORTS)


def _affinity(spec: Json, path: Path, found: Found) -> None:
    if spec.get("sessionAffinity") == "ClientIP":
        seconds = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 0)
        if not 0 < seconds <= _DAY:
            here = (((path, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds")
            found.invalid(here, seconds, f"must be greater than 0 and less than {_DAY}")
    elif "sessionAffinityConfig" in spec:
        detail = "must not be set when session affinity is None"
        found.forbidden((path, "sessionAffinityConfig"), detail)


def _external_name(spec: Json, path: Path, found: Found) -> None:
    name = spec.get("externalName", "")
    for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(field) or (field == "clusterIPs" and spec.get("clusterIP")):
            found.forbidden((path, field), "may not be set for ExternalName services")
    if not name:
        found.required((path, "externalName"))
    else:
        for text in names.dns_subdomain(name.removesuffix(".")):
            found.invalid((path, "externalName"), name, text)


def _cluster_ips(spec: Json, path: Path, found: Found) -> None:
    given, first = spec.get("clusterIPs", []), spec.get("clusterIP", "")
    here = (path, "clusterIPs")
    if given and first and given[0] != first:
        found.invalid(here, given, "first value must match `clusterIP`")
    elif given and not first:
        found.invalid(here, given, "must be empty when `clusterIP` is not specified")
    if len(given) > 2:
        found.invalid(here, given, "may only hold up to 2 values")
    for index, address in enumerate(given or ([first] if first else [])):
        if address == "None":
            if index or len(given) > 1:
                found.invalid((here, index), given, "'None' must be the first and only value")
            continue
        for text in names.ip(address):
            found.invalid((here, index), address, text)
    if spec.get("ipFamilyPolicy") == "SingleStack" and len(spec.get("ipFamilies", ())) > 1:
        detail = "may only be set to 'PreferDualStack' or 'RequireDualStack' when there are two families"
        found.invalid((path, "ipFamilyPolicy"), "SingleStack", detail)


def _traffic_policies(spec: Json, path: Path, found: Found) -> None:
    external = spec.get("externalTrafficPolicy", "")
    kind = spec.get("type")
    outside = kind in {"NodePort", "LoadBalancer"} or (kind == "ClusterIP" and spec.get("externalIPs"))
    if external and not outside:
        detail = "may only be set for externally-accessible services"
        found.invalid((path, "externalTrafficPolicy"), external, detail)
    health = spec.get("healthCheckNodePort", 0)
    if health and (kind != "LoadBalancer" or external != "Local"):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        found.invalid((path, "healthCheckNodePort"), health, detail)


def _usable(value: Any, path: Path, found: Found) -> None:
    addresses.usable(value, path, found)


def _labels(pairs: Any, path: Path, found: Found) -> None:
    meta.labels(pairs, path, found)


def service_update(new: Json, old: Json, found: Found) -> None:
    """The address of a Service is for life, unless it becomes (or was) an ExternalName."""
    after, before = new["spec"], old["spec"]
    if "ExternalName" in {after.get("type"), before.get("type")}:
        return
    if before.get("clusterIP") and after.get("clusterIP") != before["clusterIP"]:
        found.invalid(((_SPEC, "clusterIPs"), 0), after.get("clusterIPs", []), "may not change once set")
    families = before.get("ipFamilies") or [""]
    if families[0] and (after.get("ipFamilies") or [""])[0] != families[0]:
        found.invalid(((_SPEC, "ipFamilies"), 0), after.get("ipFamilies", []), "may not change once set")
    if before.get("type") == after.get("type") == "LoadBalancer":
        asked = after.get("loadBalancerClass")
        if asked != before.get("loadBalancerClass"):
            found.invalid((_SPEC, "loadBalancerClass"), asked or "", "may not change once set")


def endpoints(obj: Json, path: Path, found: Found) -> None:
    for index, subset in enumerate(obj.get("subsets", ())):
        here = ((path, "subsets"), index)
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            found.required(here, "must specify `addresses` or `notReadyAddresses`")
        named = len(subset.get("ports", ())) > 1
        for at, port in enumerate(subset.get("ports", ())):
            if named and not port.get("name"):
                found.required((((here, "ports"), at), "name"))


def endpoint_slice(obj: Json, path: Path, found: Found) -> None:
    kind = obj.get("addressType", "")
    given = obj.get("endpoints") or ()
    for index, one in enumerate(given):
        here = (((path, "endpoints"), index), "addresses")
        listed = one.get("addresses", ())
        if not listed:
            found.required(here, "must contain at least 1 address")
        elif len(listed) > _MAX_ADDRESSES:
            found.too_many(here, len(listed), _MAX_ADDRESSES)
        for at, text in enumerate(listed):
            _slice_address(text, kind, (here, at), found)
    seen: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        name = port.get("name") or ""
        if name in seen:
            found.duplicate((((path, "ports"), index), "name"), name)
        seen.add(name)


def _slice_address(text: str, kind: str, path: Path, found: Found) -> None:
    match kind:
        case "IPv4" | "IPv6":
            if addresses.of_family(text, kind):
                addresses.usable(text, path, found)
            else:
                found.invalid(path, text, f"must be an {kind} address")
        case "FQDN":
            for message in names.dns_subdomain(text):
                found.invalid(path, text, message)
        case _:
            pass


def endpoint_slice_update(new: Json, old: Json, found: Found) -> None:
    if new.get("addressType") != old.get("addressType"):
        found.invalid((TOP, "addressType"), new.get("addressType", ""), names.IMMUTABLE)


def _source_range(value: Any, path: Path, found: Found) -> None:
    """Spaces around it are allowed, as upstream has it since the ranges were an annotation."""
    trimmed = (value or "").strip()
    for text in names.cidr(trimmed):
        found.invalid(path, trimmed, text)


def _number(value: Any, path: Path, found: Found) -> None:
    if not 1 <= value <= 65535:
        found.invalid(path, value, names.OUTSIDE_PORTS)


_NAME: Final = written(names.dns_label)
_NODE: Final = written(names.dns_subdomain)
RULES: Final[Rules] = {
    "core.v1.Service": Rule(required=("spec",)),
    "core.v1.ServiceSpec": Rule(
        {
            "type": one_of(*_TYPES),
            "selector": _labels,
            "sessionAffinity": one_of(*_AFFINITIES),
            "externalIPs": each(_usable),
            "ipFamilies": both(each(one_of(*_FAMILIES)), distinct),
            "ipFamilyPolicy": one_of("PreferDualStack", "RequireDualStack", "SingleStack"),
            "loadBalancerSourceRanges": each(_source_range),
            "externalTrafficPolicy": one_of("Cluster", "Local"),
            "internalTrafficPolicy": one_of("Cluster", "Local"),
            "trafficDistribution": one_of("PreferClose", "PreferSameNode", "PreferSameZone"),
            "loadBalancerClass": written(names.qualified_name),
        },
        ("type", "sessionAffinity"),
        (service,),
    ),
    "core.v1.ServicePort": Rule(
        {"name": _NAME, "protocol": one_of(*PROTOCOLS), "appProtocol": written(names.qualified_name)},
        ("protocol",),
        (_port,),
    ),
    "core.v1.LoadBalancerIngress": Rule({"ip": written(names.ip), "ipMode": one_of("Proxy", "VIP")}),
    "core.v1.Endpoints": Rule(checks=(endpoints,)),
    "core.v1.EndpointAddress": Rule({"ip": _usable, "nodeName": _NODE, "hostname": _NAME}, ("ip",)),
    "core.v1.EndpointPort": Rule({"name": _NAME, "protocol": one_of(*PROTOCOLS)}, ("protocol",), (_port,)),
    "discovery.v1.EndpointSlice": Rule(
        {
            "addressType": one_of("FQDN", "IPv4", "IPv6"),
            "endpoints": at_most(_MAX_ENDPOINTS),
            "ports": at_most(_MAX_PORTS),
        },
        ("addressType",),
        (endpoint_slice,),
    ),
    "discovery.v1.Endpoint": Rule({"nodeName": _NODE, "hostname": _NAME}),
    "discovery.v1.EndpointHints": Rule({"forZones": at_most(_MAX_ZONES), "forNodes": at_most(_MAX_ZONES)}),
    "discovery.v1.EndpointPort": Rule(
        {
            "name": _NAME,
            "port": _number,
            "protocol": one_of(*PROTOCOLS),
            "appProtocol": written(names.qualified_name),
        }
    ),
}
