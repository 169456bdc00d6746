"""Defaults of Services, Endpoints and EndpointSlices, and what an update of a Service takes over from before.

After pkg/apis/core/v1/defaults.go and pkg/registry/core/service. Addresses and node ports are allocated elsewhere; here
is what follows from the object alone.
"""

from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from apiserver.defaults.rules import Default, Defaults

Json = dict[str, Any]

_CLUSTER_TYPES: Final = frozenset({"ClusterIP", "NodePort", "LoadBalancer"})
_AFFINITY_SECONDS: Final = 10_800


def service(obj: Json) -> None:
    spec = obj["spec"]
    affinity = spec.setdefault("sessionAffinity", "None")
    if affinity == "None":
        spec.pop("sessionAffinityConfig", None)
    elif affinity == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", _AFFINITY_SECONDS)
    kind = spec.setdefault("type", "ClusterIP")
    if kind in {"NodePort", "LoadBalancer"} or (kind == "ClusterIP" and spec.get("externalIPs")):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind in _CLUSTER_TYPES:
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def new_service(obj: Json) -> None:
    """Status is the server's; families follow from the address given, or are those of a single-stack cluster."""
    obj["status"] = {"loadBalancer": {}}
    families(obj["spec"])


def families(spec: Json) -> None:
    if spec.get("type") == "ExternalName":
        return
    if not spec.get("clusterIPs") and spec.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    headless = spec.get("clusterIP") == "None"
    if headless and not spec.get("selector") and "ipFamilyPolicy" not in spec and not spec.get("ipFamilies"):
        spec["ipFamilyPolicy"] = "RequireDualStack"
        spec["ipFamilies"] = ["IPv4", "IPv6"]
        return
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if not spec.get("ipFamilies") and spec.get("clusterIP") not in (None, "", "None"):
        spec["ipFamilies"] = [
            _family(spec["clusterIP"])
        ]  # without an address: the cluster's, where addresses are given out


def _family(address: str) -> str:
    try:
        return "IPv6" if isinstance(ip_address(address), IPv6Address) else "IPv4"
    except ValueError:
        return "IPv4"


def updated_service(new: Json, old: Json) -> None:
    """Allocated values that the client left out stay (kubectl apply and replace send none of them)."""
    spec, before = new["spec"], old.get("spec", {})
    if spec.get("type") in _CLUSTER_TYPES and before.get("type") in _CLUSTER_TYPES:
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            _take(spec, before, ("clusterIP", "clusterIPs"))
        elif not spec.get("clusterIPs") and spec.get("clusterIP") == before.get("clusterIP"):
            _take(spec, before, ("clusterIPs",))
        elif not spec.get("clusterIP"):
            spec["clusterIP"] = spec["clusterIPs"][0]
        for name in ("ipFamilies", "ipFamilyPolicy"):
            if not spec.get(name):
                _take(spec, before, (name,))
    if _has_node_ports(spec) and _has_node_ports(before):
        _node_ports(spec, before)
    if _has_health_port(spec) and _has_health_port(before) and not spec.get("healthCheckNodePort"):
        _take(spec, before, ("healthCheckNodePort",))
    _drop_balancing(spec, before)
    families(spec)


def _take(spec: Json, before: Json, names: tuple[str, ...]) -> None:
    for name in names:
        if name in before:
            spec[name] = before[name]


def _has_health_port(spec: Json) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _drop_balancing(spec: Json, before: Json) -> None:
    """What only a load balancer has goes with it, unless the client changed it too."""
    gone = () if spec.get("type") == "LoadBalancer" else ("allocateLoadBalancerNodePorts", "loadBalancerClass")
    for name in (*gone, *(() if _has_health_port(spec) else ("healthCheckNodePort",))):
        if name in spec and spec[name] == before.get(name):
            del spec[name]


def _has_node_ports(spec: Json) -> bool:
    return spec.get("type") in {"NodePort", "LoadBalancer"}


def _node_ports(spec: Json, before: Json) -> None:
    """A port keeps its node port as long as its protocol and number stay."""
    used = {port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort")}
    known = {(port.get("protocol"), port.get("port")): port.get("nodePort", 0) for port in before.get("ports", ())}
    for port in spec.get("ports", ()):
        found = known.get((port.get("protocol"), port.get("port")), 0)
        if found and not port.get("nodePort") and found not in used:
            port["nodePort"] = found


def _target_port(port: Json) -> None:
    if port.get("targetPort") in (None, 0, ""):
        port["targetPort"] = port.get("port", 0)


def _ingress_mode(one: Json) -> None:
    """A load balancer with an address passes packets on, unless it says that it ends them."""
    if one.get("ip"):
        one.setdefault("ipMode", "VIP")


DEFAULTS: Final[Defaults] = {
    "core.v1.Service": Default(structs=("spec",), setters=(service,)),
    "core.v1.ServicePort": Default({"protocol": "TCP"}, setters=(_target_port,)),
    "core.v1.LoadBalancerIngress": Default(setters=(_ingress_mode,)),
    "core.v1.EndpointPort": Default({"protocol": "TCP"}),
    "discovery.v1.EndpointPort": Default({"name": "", "protocol": "TCP"}),
}
