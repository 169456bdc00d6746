"""Services, Endpoints and EndpointSlices.

After pkg/apis/core/validation/validation.go (`ValidateService`, `ValidateEndpoints`) and pkg/apis/discovery/validation.
Whether an address or node port is free, and inside the configured ranges, is for the allocators to say.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from apiserver.errors import (
    DUPLICATE,
    FORBIDDEN,
    INVALID,
    TOO_MANY,
    Cause,
    cause,
    not_supported,
    required,
)
from apiserver.validation import meta, names
from apiserver.validation.containers import PROTOCOLS

Json = dict[str, Any]

_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITIES: Final = ("ClientIP", "None")
_POLICIES: Final = ("Cluster", "Local")
_FAMILIES: Final = ("IPv4", "IPv6")
_DAY: Final = 86_400
_MAX_ENDPOINTS: Final = 1000
_MAX_ADDRESSES: Final = 100
_MAX_PORTS: Final = 20_000


def service(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec", {})
    kind = spec.get("type", "")
    headless = spec.get("clusterIP") == "None"
    if not spec.get("ports") and not headless and kind != "ExternalName":
        yield required("spec.ports")
    if kind not in _TYPES:
        yield not_supported("spec.type", kind, _TYPES)
    yield from _service_ports(spec, headless)
    yield from meta.labels(spec.get("selector", {}), "spec.selector")
    yield from _affinity(spec)
    if kind == "ExternalName":
        yield from _external_name(spec)
    else:
        yield from _cluster_ips(spec)
    if kind == "LoadBalancer" and headless:
        yield cause("spec.clusterIPs[0]", INVALID, "None", "may not be set to 'None' for LoadBalancer services")
    for index, address in enumerate(spec.get("externalIPs", ())):
        yield from _usable(address, f"spec.externalIPs[{index}]")
    for index, block in enumerate(spec.get("loadBalancerSourceRanges", ())):
        for text in names.cidr(block):
            yield cause(f"spec.loadBalancerSourceRanges[{index}]", INVALID, block, text)
    yield from _traffic_policies(spec)


def _service_ports(spec: Json, headless: bool) -> Iterator[Cause]:
    ports = spec.get("ports", ())
    node_ports: set[tuple[Any, Any]] = set()
    keys: set[tuple[Any, Any]] = set()
    seen: set[str] = set()
    for index, one in enumerate(ports):
        here = f"spec.ports[{index}]"
        name = one.get("name", "")
        if len(ports) > 1 and not name:
            yield required(f"{here}.name")
        for text in names.dns_label(name) if name else ():
            yield cause(f"{here}.name", INVALID, name, text)
        if name and name in seen:
            yield cause(f"{here}.name", DUPLICATE, name)
        seen.add(name)
        yield from _service_port(one, here, headless)
        key = (one.get("protocol"), one.get("port"))
        if key in keys:
            yield cause(here, DUPLICATE, {"port": one.get("port"), "protocol": one.get("protocol")})
        keys.add(key)
        node_port = one.get("nodePort", 0)
        if node_port and spec.get("type") in {"ClusterIP", "ExternalName"}:
            detail = f"may not be used when `type` is '{spec.get('type')}'"
            yield cause(f"{here}.nodePort", FORBIDDEN, detail=detail)
        elif node_port:
            if (one.get("protocol"), node_port) in node_ports:
                yield cause(f"{here}.nodePort", DUPLICATE, node_port)
            node_ports.add((one.get("protocol"), node_port))


def _service_port(one: Json, path: str, headless: bool) -> Iterator[Cause]:
    number = one.get("port", 0)
    for text in names.port_number(number):
        yield cause(f"{path}.port", INVALID, number, text)
    protocol = one.get("protocol", "")
    if not protocol:
        yield required(f"{path}.protocol")
    elif protocol not in PROTOCOLS:
        yield not_supported(f"{path}.protocol", protocol, PROTOCOLS)
    target = one.get("targetPort", 0)
    if not (headless and target == 0):
        for text in names.port(target):
            yield cause(f"{path}.targetPort", INVALID, target, text)


def _affinity(spec: Json) -> Iterator[Cause]:
    affinity = spec.get("sessionAffinity", "")
    if not affinity:
        yield required("spec.sessionAffinity")
    elif affinity not in _AFFINITIES:
        yield not_supported("spec.sessionAffinity", affinity, _AFFINITIES)
    elif affinity == "ClientIP":
        seconds = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 0)
        if not 0 < seconds <= _DAY:
            path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            yield cause(path, INVALID, seconds, f"must be greater than 0 and less than {_DAY}")


def _external_name(spec: Json) -> Iterator[Cause]:
    name = spec.get("externalName", "")
    if spec.get("clusterIP") or spec.get("clusterIPs"):
        yield cause("spec.clusterIPs", FORBIDDEN, detail="may not be set for ExternalName services")
    if not name:
        yield required("spec.externalName")
    else:
        for text in names.dns_subdomain(name.removesuffix(".")):
            yield cause("spec.externalName", INVALID, name, text)


def _cluster_ips(spec: Json) -> Iterator[Cause]:
    addresses = spec.get("clusterIPs", [])
    first = spec.get("clusterIP", "")
    if addresses and first and addresses[0] != first:
        yield cause("spec.clusterIPs", INVALID, addresses, "first value must match `clusterIP`")
    elif addresses and not first:
        yield cause("spec.clusterIPs", INVALID, addresses, "must be empty when `clusterIP` is not specified")
    for index, address in enumerate(addresses or ([first] if first else [])):
        if address == "None" and index == 0 and len(addresses) <= 1:
            continue
        for text in names.ip(address):
            yield cause(f"spec.clusterIPs[{index}]", INVALID, address, text)
    for index, family in enumerate(spec.get("ipFamilies", ())):
        if family not in _FAMILIES:
            yield not_supported(f"spec.ipFamilies[{index}]", family, _FAMILIES)
        if family in spec["ipFamilies"][:index]:
            yield cause(f"spec.ipFamilies[{index}]", DUPLICATE, family)
    policies = ("PreferDualStack", "RequireDualStack", "SingleStack")
    if spec.get("ipFamilyPolicy", "SingleStack") not in policies:
        yield not_supported("spec.ipFamilyPolicy", spec["ipFamilyPolicy"], policies)


def _traffic_policies(spec: Json) -> Iterator[Cause]:
    external = spec.get("externalTrafficPolicy", "")
    kind = spec.get("type")
    outside = kind in {"NodePort", "LoadBalancer"} or (kind == "ClusterIP" and spec.get("externalIPs"))
    if external and not outside:
        detail = "may only be set for externally-accessible services"
        yield cause("spec.externalTrafficPolicy", INVALID, external, detail)
    elif external and external not in _POLICIES:
        yield not_supported("spec.externalTrafficPolicy", external, _POLICIES)
    internal = spec.get("internalTrafficPolicy", "")
    if internal and internal not in _POLICIES:
        yield not_supported("spec.internalTrafficPolicy", internal, _POLICIES)


def service_update(new: Json, old: Json) -> Iterator[Cause]:
    """The address of a Service is for life, unless it becomes (or was) an ExternalName."""
    after, before = new["spec"], old["spec"]
    if "ExternalName" in {after.get("type"), before.get("type")}:
        return
    if before.get("clusterIP") and after.get("clusterIP") != before["clusterIP"]:
        yield cause("spec.clusterIPs[0]", INVALID, after.get("clusterIPs", []), "may not change once set")


def endpoints(obj: Json) -> Iterator[Cause]:
    for index, subset in enumerate(obj.get("subsets", ())):
        here = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield required(here, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for at, one in enumerate(subset.get(field, ())):
                yield from _usable(one.get("ip", ""), f"{here}.{field}[{at}].ip")
        several = len(subset.get("ports", ())) > 1
        for at, port in enumerate(subset.get("ports", ())):
            yield from _endpoint_port(port, f"{here}.ports[{at}]", several)


def _endpoint_port(port: Json, path: str, named: bool) -> Iterator[Cause]:
    name = port.get("name", "")
    if named and not name:
        yield required(f"{path}.name")
    for text in names.dns_label(name) if name else ():
        yield cause(f"{path}.name", INVALID, name, text)
    for text in names.port_number(port.get("port", 0)):
        yield cause(f"{path}.port", INVALID, port.get("port", 0), text)
    if port.get("protocol") not in PROTOCOLS:
        yield not_supported(f"{path}.protocol", port.get("protocol", ""), PROTOCOLS)


def _usable(text: str, path: str) -> Iterator[Cause]:
    """An address that packets can be sent to from another node."""
    try:
        address = ip_address(text)
    except ValueError:
        yield cause(path, INVALID, text, names.NOT_AN_IP)
        return
    if address.is_unspecified:
        yield cause(path, INVALID, text, f"may not be unspecified ({text})")
    if address.is_loopback:
        yield cause(path, INVALID, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        yield cause(path, INVALID, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    if address.is_multicast and (int(address) >> 8 == 0xE00000 or str(address).startswith("ff02:")):
        yield cause(path, INVALID, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def endpoint_slice(obj: Json) -> Iterator[Cause]:
    kind = obj.get("addressType", "")
    types = ("FQDN", "IPv4", "IPv6")
    if not kind:
        yield required("addressType")
    elif kind not in types:
        yield not_supported("addressType", kind, types)
    found = obj.get("endpoints", ())
    if len(found) > _MAX_ENDPOINTS:
        yield cause("endpoints", TOO_MANY, len(found), f"must have at most {_MAX_ENDPOINTS} items")
    for index, one in enumerate(found):
        yield from _endpoint(one, kind, f"endpoints[{index}]")
    ports = obj.get("ports", ())
    if len(ports) > _MAX_PORTS:
        yield cause("ports", TOO_MANY, len(ports), f"must have at most {_MAX_PORTS} items")
    seen: set[str] = set()
    for index, port in enumerate(ports):
        here = f"ports[{index}]"
        name = port.get("name", "")
        for text in names.dns_label(name) if name else ():
            yield cause(f"{here}.name", INVALID, name, text)
        if name in seen:
            yield cause(f"{here}.name", DUPLICATE, name)
        seen.add(name)
        for text in names.port_number(port["port"]) if "port" in port else ():
            yield cause(f"{here}.port", INVALID, port["port"], text)
        if port.get("protocol", "TCP") not in PROTOCOLS:
            yield not_supported(f"{here}.protocol", port["protocol"], PROTOCOLS)


def _endpoint(one: Json, kind: str, path: str) -> Iterator[Cause]:
    addresses = one.get("addresses", ())
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > _MAX_ADDRESSES:
        yield cause(f"{path}.addresses", TOO_MANY, len(addresses), f"must have at most {_MAX_ADDRESSES} items")
    for index, text in enumerate(addresses):
        here = f"{path}.addresses[{index}]"
        match kind:
            case "IPv4" | "IPv6":
                if not _of_family(text, kind):
                    yield cause(here, INVALID, text, f"must be an {kind} address")
                else:
                    yield from _usable(text, here)
            case "FQDN":
                for message in names.dns_subdomain(text):
                    yield cause(here, INVALID, text, message)
            case _:
                pass
    for field in ("nodeName",):
        value = one.get(field)
        for message in names.dns_subdomain(value) if value else ():
            yield cause(f"{path}.{field}", INVALID, value, message)


def _of_family(text: str, kind: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv4Address if kind == "IPv4" else IPv6Address)
    except ValueError:
        return False


def endpoint_slice_update(new: Json, old: Json) -> Iterator[Cause]:
    if new.get("addressType") != old.get("addressType"):
        yield cause("addressType", INVALID, new.get("addressType", ""), names.IMMUTABLE)
