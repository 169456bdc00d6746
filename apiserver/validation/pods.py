"""Pods and pod templates: the spec as a whole, what its containers owe each other, and its status.

After pkg/apis/core/validation/validation.go (`ValidatePodSpec`). What may change later is in `pod_updates`.
"""

import re
from typing import Any, Final

from apiserver.validation import handlers, meta, names, scheduling
from apiserver.validation.rules import (
    Found,
    Json,
    Path,
    Rule,
    Rules,
    at_least,
    between,
    each,
    one_of,
    unique,
    written,
)

RESTART_POLICIES: Final = ("Always", "Never", "OnFailure")
MAX_DEADLINE: Final = 2**31 - 1
MIRROR: Final = "kubernetes.io/config.mirror"
_DNS: Final = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_LISTS: Final = ("containers", "initContainers", "ephemeralContainers")
_NOT_EPHEMERAL: Final = (
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
)
_SYSCTL: Final = re.compile(r"([a-z0-9][-_a-z0-9]*[\./])*[a-z0-9][-_a-z0-9]*")
_SEARCHES: Final = 32
_SEARCH_CHARACTERS: Final = 2048
_LINUX_ONLY: Final = ("hostIPC", "hostPID", "shareProcessNamespace")
_HOST_NAMESPACES: Final = ("hostNetwork", "hostPID", "hostIPC")
_SIDECAR: Final = "may not be set for init containers without restartPolicy=Always"
_BIDIRECTIONAL: Final = "Bidirectional mount propagation is available only to privileged containers"


def pod_spec(spec: Json, path: Path, found: Found) -> None:
    _containers(spec, path, found)
    if spec.get("dnsPolicy") == "None" and not spec.get("dnsConfig", {}).get("nameservers"):
        detail = 'must provide at least one DNS nameserver when `dnsPolicy` is "None"'
        found.required(((path, "dnsConfig"), "nameservers"), detail)
    if spec.get("hostPID") and spec.get("shareProcessNamespace"):
        here = ((path, "securityContext"), "shareProcessNamespace")
        found.invalid(here, True, "ShareProcessNamespace and HostPID cannot both be enabled")
    if spec.get("hostUsers") is False:
        for field in _HOST_NAMESPACES:
            if spec.get(field):
                found.forbidden((path, field), "when `pod.Spec.HostUsers` is false")
    if spec.get("os", {}).get("name") == "windows":
        for field in _LINUX_ONLY:
            if spec.get(field):
                found.forbidden((path, field), "cannot be set for a windows pod")


def _containers(spec: Json, path: Path, found: Found) -> None:
    """Names are unique over the three lists, mounts name volumes of the pod, and a host port is taken once."""
    volumes = {one.get("name", "") for one in spec.get("volumes", ())} | found.claims
    host_network = spec.get("hostNetwork", False)
    taken: set[str] = set()
    for field in _LISTS:
        ports: set[tuple[Any, ...]] = set()
        for index, one in enumerate(spec.get(field, ())):
            here = ((path, field), index)
            name = one.get("name", "")
            if name and name in taken:
                found.duplicate((here, "name"), name)
            taken.add(name)
            _mounts(one, here, volumes, found)
            if "ports" in one and field != "ephemeralContainers":
                _host_ports(one["ports"], (here, "ports"), host_network, ports, found)
            if field == "initContainers" and one.get("restartPolicy") != "Always":
                for extra in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
                    if extra in one:
                        found.forbidden((here, extra), _SIDECAR)
            elif field != "ephemeralContainers":
                handlers.probes(one, here, found)
            else:
                _ephemeral(one, here, taken, found)


def _ephemeral(one: Json, path: Path, others: set[str], found: Found) -> None:
    """What comes to look at a running pod serves nobody and is promised nothing."""
    target = one.get("targetContainerName")
    if target and target not in others:
        found.missing((path, "targetContainerName"), target)
    for field in _NOT_EPHEMERAL:
        if one.get(field):
            found.forbidden((path, field), "cannot be set for an Ephemeral Container")


def _mounts(one: Json, path: Path, volumes: set[str], found: Found) -> None:
    for index, mount in enumerate(one.get("volumeMounts", ())):
        name = mount.get("name")
        if name and name not in volumes:
            found.missing((((path, "volumeMounts"), index), "name"), name)
        if mount.get("mountPropagation") == "Bidirectional" and not one.get("securityContext", {}).get("privileged"):
            found.forbidden((((path, "volumeMounts"), index), "mountPropagation"), _BIDIRECTIONAL)
    for index, device in enumerate(one.get("volumeDevices", ())):
        name = device.get("name")
        if name and name not in volumes:
            found.missing((((path, "volumeDevices"), index), "name"), name)


def _host_ports(ports: Any, path: Path, host_network: bool, taken: set[tuple[Any, ...]], found: Found) -> None:
    for index, port in enumerate(ports):
        host = port.get("hostPort")
        if not host:  # a Pod's are filled in when it is made; templates leave them out
            continue
        if host_network and host != port.get("containerPort"):
            detail = "must match `containerPort` when `hostNetwork` is true"
            found.invalid(((path, index), "hostPort"), host, detail)
        key = (port.get("protocol", ""), port.get("hostIP", ""), host)
        if key in taken:
            found.duplicate(((path, index), "hostPort"), "/".join(str(part) for part in key))
        taken.add(key)


def pod(obj: Json, path: Path, found: Found) -> None:
    spec = obj.get("spec", {})
    if spec.get("ephemeralContainers"):
        found.forbidden(((path, "spec"), "ephemeralContainers"), "cannot be set on create")
    mirrored = obj.get("metadata", {}).get("annotations", {}).get(MIRROR)
    if mirrored is not None and not spec.get("nodeName"):
        here = (((path, "metadata"), "annotations"), f"[{MIRROR}]")
        found.invalid(here, mirrored, "must set spec.nodeName if mirror pod annotation is set")
    if spec.get("schedulingGates") and spec.get("nodeName"):
        found.forbidden(((path, "spec"), "nodeName"), "cannot be set until all schedulingGates have been cleared")


def template(obj: Json, path: Path, found: Found) -> None:
    meta.labels_and_annotations(obj.get("metadata", {}), (path, "metadata"), found)
    if obj.get("spec", {}).get("ephemeralContainers"):
        found.forbidden(((path, "spec"), "ephemeralContainers"), "ephemeral containers not allowed in pod template")


def _dns_config(one: Json, path: Path, found: Found) -> None:
    servers = one.get("nameservers", ())
    if len(servers) > 3:
        found.invalid((path, "nameservers"), servers, "must not have more than 3 nameservers")
    for index, address in enumerate(servers):
        for text in names.ip(address):
            found.invalid(((path, "nameservers"), index), address, text)
    searches = one.get("searches", ())
    if len(searches) > _SEARCHES:
        found.invalid((path, "searches"), searches, f"must not have more than {_SEARCHES} search paths")
    if len(" ".join(searches)) > _SEARCH_CHARACTERS:
        detail = f"must not have more than {_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        found.invalid((path, "searches"), searches, detail)
    for index, search in enumerate(searches):
        for text in names.dns_subdomain(search.removesuffix(".")) if search != "." else ():
            found.invalid(((path, "searches"), index), search, text)
    for index, option in enumerate(one.get("options", ())):
        if not option.get("name"):
            found.required((((path, "options"), index), "name"))


def _alias(one: Json, path: Path, found: Found) -> None:
    for text in names.ip(one.get("ip", "")):
        found.invalid((path, "ip"), one.get("ip", ""), text)
    for at, name in enumerate(one.get("hostnames", ())):
        for text in names.dns_subdomain(name):
            found.invalid(((path, "hostnames"), at), name, text)


def _claim(one: Json, path: Path, found: Found) -> None:
    given = [key for key in ("resourceClaimName", "resourceClaimTemplateName") if key in one]
    if len(given) != 1:
        detail = (
            "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            if given
            else "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
        )
        found.invalid(path, one, detail)


def _sysctl(one: Json, path: Path, found: Found) -> None:
    name = one.get("name", "")
    if not name:
        found.required((path, "name"))
    elif len(name) > 253 or not _SYSCTL.fullmatch(name):
        found.invalid((path, "name"), name, f"must have at most 253 characters and match regex ^{_SYSCTL.pattern}$")


def _labels(pairs: Any, path: Path, found: Found) -> None:
    meta.labels(pairs, path, found)


_SUBDOMAIN: Final = written(names.dns_subdomain)
_LABEL: Final = written(names.dns_label)
RULES: Final[Rules] = {
    "core.v1.Pod": Rule(required=("spec",)),
    "core.v1.PodTemplateSpec": Rule(checks=(template,)),
    "core.v1.PodSpec": Rule(
        {
            "volumes": unique("name"),
            "restartPolicy": one_of(*RESTART_POLICIES),
            "dnsPolicy": one_of(*_DNS),
            "terminationGracePeriodSeconds": at_least(0),
            "activeDeadlineSeconds": between(1, MAX_DEADLINE),
            "nodeName": _SUBDOMAIN,
            "serviceAccountName": _SUBDOMAIN,
            "priorityClassName": _SUBDOMAIN,
            "runtimeClassName": _SUBDOMAIN,
            "hostname": _LABEL,
            "subdomain": _LABEL,
            "nodeSelector": _labels,
            "preemptionPolicy": one_of("Never", "PreemptLowerPriority"),
            "topologySpreadConstraints": scheduling.spreads,
            "schedulingGates": unique("name"),
            "resourceClaims": unique("name"),
            "hostAliases": each(_alias),
        },
        ("containers", "restartPolicy", "dnsPolicy"),
        (pod_spec,),
    ),
    "core.v1.PodDNSConfig": Rule(checks=(_dns_config,)),
    "core.v1.PodReadinessGate": Rule({"conditionType": written(names.qualified_name)}, ("conditionType",)),
    "core.v1.PodSchedulingGate": Rule({"name": written(names.qualified_name)}, ("name",)),
    "core.v1.PodOS": Rule({"name": one_of("linux", "windows")}, ("name",)),
    "core.v1.PodResourceClaim": Rule({"name": _LABEL}, ("name",), (_claim,)),
    "core.v1.Sysctl": Rule(checks=(_sysctl,)),
    "core.v1.PodStatus": Rule({"nominatedNodeName": _SUBDOMAIN}),
    "core.v1.PodCondition": Rule({"type": written(names.qualified_name)}),
    "core.v1.PodIP": Rule({"ip": written(names.ip)}),
    "core.v1.HostIP": Rule({"ip": written(names.ip)}),
}
