"""Ingresses, their classes, NetworkPolicies, and the ranges and addresses of Services (pkg/apis/networking/validation)."""

from ipaddress import ip_network
from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.containers import PROTOCOLS
from apiserver.validation.rules import TOP, Found, Json, Path, Rule, Rules, one_of, written

_SPEC: Final[Path] = (TOP, "spec")
_CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
_PEERS: Final = ("podSelector", "namespaceSelector", "ipBlock")


def ingress(spec: Json, path: Path, found: Found) -> None:
    if not spec.get("rules") and "defaultBackend" not in spec:
        found.invalid(path, spec.get("rules", []), "either `defaultBackend` or `rules` must be specified")
    for index, tls in enumerate(spec.get("tls", ())):
        for at, host in enumerate(tls.get("hosts", ())):
            _host(host, ((((path, "tls"), index), "hosts"), at), found)


def _host(host: str, path: Path, found: Found) -> None:
    rule = names.wildcard_subdomain if "*" in host else names.dns_subdomain
    for text in rule(host):
        found.invalid(path, host, text)


def _rule(one: Json, path: Path, found: Found) -> None:
    host = one.get("host")
    if not host:
        return
    if not names.ip(host):
        found.invalid((path, "host"), host, "must be a DNS name, not an IP address")
        return
    _host(host, (path, "host"), found)


def _http_path(one: Json, path: Path, found: Found) -> None:
    kind, target = one.get("pathType"), one.get("path", "")
    if kind is None:
        found.required((path, "pathType"), "pathType must be specified")
        return
    match kind:
        case "Exact" | "Prefix":
            if not target.startswith("/"):
                found.invalid((path, "path"), target, "must be an absolute path")
            for bad in ("//", "/./", "/../", "%2f", "%2F"):
                if bad in target:
                    found.invalid((path, "path"), target, f"must not contain '{bad}'")
            for bad in ("/..", "/."):
                if target.endswith(bad):
                    found.invalid((path, "path"), target, f"cannot end with '{bad}'")
        case "ImplementationSpecific":
            if target and not target.startswith("/"):
                found.invalid((path, "path"), target, "must be an absolute path")
        case _:
            found.unsupported((path, "pathType"), kind, ("Exact", "ImplementationSpecific", "Prefix"))


def _backend(one: Json, path: Path, found: Found) -> None:
    service, resource = one.get("service"), one.get("resource")
    if service is not None and resource is not None:
        found.invalid(path, "", "cannot set both resource and service backends")
    elif service is None and resource is None:
        found.required(path, "resource or service backend is required")
    elif service is not None:
        here = (path, "service")
        if not service.get("name"):
            found.required((here, "name"))
        for text in names.dns_1035_label(service["name"]) if service.get("name") else ():
            found.invalid((here, "name"), service["name"], text)
        port = service.get("port", {})
        if port.get("name") and port.get("number"):
            found.invalid(here, "", "cannot set both port name & port number")
        elif port.get("name"):
            for text in names.port_name(port["name"]):
                found.invalid(((here, "port"), "name"), port["name"], text)
        elif "number" in port:
            for text in names.port_number(port["number"]):
                found.invalid(((here, "port"), "number"), port["number"], text)
        else:
            found.required(here, "port name or number is required")


def ingress_created(obj: Json, path: Path, found: Found) -> None:
    given = obj.get("metadata", {}).get("annotations", {}).get(_CLASS_ANNOTATION)
    if given is not None and "ingressClassName" in obj.get("spec", {}):
        here = (((path, "metadata"), "annotations"), f"[{_CLASS_ANNOTATION}]")
        found.invalid(here, given, "can not be set when the class field is also set")


def ingress_class_update(new: Json, old: Json, found: Found) -> None:
    after = new.get("spec", {}).get("controller", "")
    if after != old.get("spec", {}).get("controller", ""):
        found.invalid((_SPEC, "controller"), after, names.IMMUTABLE)


def _parameters(one: Json, path: Path, found: Found) -> None:
    scope, namespace = one.get("scope"), one.get("namespace")
    if scope is None:
        found.required((path, "scope"))
    elif scope == "Namespace" and not namespace:
        detail = "`parameters.scope` is set to 'Namespace'"
        found.required((path, "namespace"), detail)
    elif scope == "Cluster" and namespace is not None:
        detail = "`parameters.scope` is set to 'Cluster'"
        found.forbidden((path, "namespace"), detail)


def _peer(one: Json, path: Path, found: Found) -> None:
    if not any(key in one for key in _PEERS):
        found.required(path, "must specify a peer")
    elif "ipBlock" in one and ("podSelector" in one or "namespaceSelector" in one):
        detail = "may not specify both ipBlock and another peer"
        found.forbidden(path, detail)


def _block(one: Json, path: Path, found: Found) -> None:
    block = one.get("cidr", "")
    if not block:
        found.required((path, "cidr"))
        return
    if messages := names.cidr(block):
        found.invalid((path, "cidr"), block, messages[0])
        return
    whole: Any = ip_network(block, strict=False)
    for index, text in enumerate(one.get("except", ())):
        here = ((path, "except"), index)
        if messages := names.cidr(text):
            found.invalid(here, text, messages[0])
            continue
        part: Any = ip_network(text, strict=False)
        if part.version != whole.version or not part.subnet_of(whole) or part.prefixlen <= whole.prefixlen:
            found.invalid(here, text, f'must be a strict subset of `cidr`: "{block}"')


def _policy_port(one: Json, path: Path, found: Found) -> None:
    port, end = one.get("port"), one.get("endPort")
    if isinstance(port, int):
        for text in names.port_number(port):
            found.invalid((path, "port"), port, text)
        if end is not None and end < port:
            found.invalid((path, "endPort"), end, "must be greater than or equal to `port`")
        if end is not None:
            for text in names.port_number(end):
                found.invalid((path, "endPort"), end, text)
        return
    if port is not None:
        for text in names.port_name(port):
            found.invalid((path, "port"), port, text)
    if end is not None:
        if port is None:
            found.required((path, "port"), "must be specified when `endPort` is specified")
        else:
            found.invalid((path, "endPort"), end, "may not be specified when `port` is non-numeric")


def _policy_types(values: Any, path: Path, found: Found) -> None:
    if len(values) > 2:
        found.invalid(path, values, "may not specify more than two policyTypes")
        return
    for index, one in enumerate(values):
        if one not in ("Ingress", "Egress"):
            found.unsupported((path, index), one, ("Egress", "Ingress"))


def service_cidr(spec: Json, path: Path, found: Found) -> None:
    blocks = spec.get("cidrs", [])
    if not blocks:
        found.required((path, "cidrs"), "at least one CIDR required")
    if len(blocks) > 2:
        found.invalid((path, "cidrs"), blocks, "may only hold up to 2 values")
    seen: set[int] = set()
    for index, block in enumerate(blocks):
        here = ((path, "cidrs"), index)
        if messages := names.cidr(block):
            found.invalid(here, block, messages[0])
            continue
        network = ip_network(block, strict=False)
        if str(network) != block:
            found.invalid(here, block, f'must be in canonical form ("{network}")')
        if network.version in seen:
            detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"
            found.invalid(here, block, detail)
        seen.add(network.version)


def service_cidr_update(new: Json, old: Json, found: Found) -> None:
    after, before = new.get("spec", {}).get("cidrs", []), old.get("spec", {}).get("cidrs", [])
    if len(before) == 1 and len(after) == 2 and after[0] == before[0]:
        return
    if after != before:
        found.invalid((_SPEC, "cidrs"), after, names.IMMUTABLE)


def ip_address(spec: Json, path: Path, found: Found) -> None:
    parent = spec.get("parentRef")
    here = (path, "parentRef")
    if parent is None:
        found.required(here, "")
        return
    for field in ("resource", "name"):
        if not parent.get(field):
            found.required((here, field))


def ip_address_update(new: Json, old: Json, found: Found) -> None:
    after = new.get("spec", {}).get("parentRef")
    if after != old.get("spec", {}).get("parentRef"):
        found.invalid((_SPEC, "parentRef"), after, names.IMMUTABLE)


RULES: Final[Rules] = {
    "networking.v1.Ingress": Rule(required=("spec",)),
    "networking.v1.IngressSpec": Rule({"ingressClassName": written(names.dns_subdomain)}, checks=(ingress,)),
    "networking.v1.IngressRule": Rule(checks=(_rule,)),
    "networking.v1.HTTPIngressRuleValue": Rule(required=("paths",)),
    "networking.v1.HTTPIngressPath": Rule(required=("backend",), checks=(_http_path,)),
    "networking.v1.IngressBackend": Rule(checks=(_backend,)),
    "networking.v1.IngressLoadBalancerIngress": Rule(
        {"ip": written(names.ip), "hostname": written(names.dns_subdomain)}
    ),
    "networking.v1.IngressClass": Rule(required=("spec",)),
    "networking.v1.IngressClassSpec": Rule({"controller": written(names.domain_path)}, ("controller",)),
    "networking.v1.IngressClassParametersReference": Rule(
        {"scope": one_of("Cluster", "Namespace")}, ("kind", "name"), (_parameters,)
    ),
    "networking.v1.NetworkPolicySpec": Rule({"policyTypes": _policy_types}),
    "networking.v1.NetworkPolicyPeer": Rule(checks=(_peer,)),
    "networking.v1.IPBlock": Rule(checks=(_block,)),
    "networking.v1.NetworkPolicyPort": Rule({"protocol": one_of(*PROTOCOLS)}, checks=(_policy_port,)),
    "networking.v1.ServiceCIDR": Rule(required=("spec",)),
    "networking.v1.ServiceCIDRSpec": Rule(checks=(service_cidr,)),
    "networking.v1.IPAddress": Rule(required=("spec",)),
    "networking.v1.IPAddressSpec": Rule(checks=(ip_address,)),
}
