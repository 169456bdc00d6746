"""What every cluster has from the first second: four namespaces, Service kubernetes with its endpoints, the range that
Services' addresses come from, the system's priority classes and flow schemas, and how extension servers recognise us.

Done at each start, by difference: what is missing is created, what has drifted (the server's address, the client CA) is
written again, and what is as it should be is left alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from apiserver import flowobjects
from apiserver.errors import StatusError
from apiserver.pipeline import Obj, Target, Writer, now, rfc3339
from apiserver.ranges import Network
from apiserver.registry import Registry, Resource

log = logging.getLogger(__name__)

NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
AUTHENTICATION: Final = "extension-apiserver-authentication"
PRIORITIES: Final = (
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """`address` is where pods reach this server, empty when they do not; `client_ca` is PEM."""

    addresses: Network
    address: str
    port: int
    client_ca: str = ""


def service(cluster_ip: str, port: int) -> Obj:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    }


def endpoints(addresses: Sequence[str], port: int) -> Obj:
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": address} for address in addresses],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }
        ],
    }


def endpoint_slice(addresses: Sequence[str], port: int) -> Obj:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": f"IPv{ipaddress.ip_address(addresses[0]).version}",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }


def service_cidr(network: Network) -> Obj:
    return {
        "kind": "ServiceCIDR",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [str(network)]},
    }


def ready(cidr: Obj) -> Obj:
    """Ready as soon as it is there: this server allocates from it."""
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": rfc3339(now()),
    }
    present = (cidr.get("status") or {}).get("conditions") or []
    if any(one.get("type") == "Ready" and one.get("status") == "True" for one in present):
        return cidr
    return cidr | {"status": {"conditions": [*(one for one in present if one.get("type") != "Ready"), condition]}}


def priority_class(name: str, value: int, description: str) -> Obj:
    return {
        "kind": "PriorityClass",
        "apiVersion": "scheduling.k8s.io/v1",
        "metadata": {"name": name},
        "value": value,
        "description": description,
    }


def authentication(client_ca: str) -> Obj:
    return {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": AUTHENTICATION, "namespace": "kube-system"},
        "data": {"client-ca-file": client_ca},
    }


async def ensure(registry: Registry, writer: Writer, cluster: Cluster, addresses: Sequence[str]) -> None:
    """All of it, before the server is ready; `addresses` are those of all servers that are known."""
    await stand(registry, writer, cluster, addresses)
    await _furnish(registry, writer)
    if cluster.client_ca:
        await _ensure(writer, registry.core("configmaps"), authentication(cluster.client_ca))
    if not cluster.address:
        log.warning("Service kubernetes gets no endpoints: a server on loopback has no address that pods reach")


async def stand(registry: Registry, writer: Writer, cluster: Cluster, addresses: Sequence[str]) -> None:
    """What must not be missing while servers at `addresses` run: namespaces, and Service kubernetes with its endpoints."""
    namespaces = registry.core("namespaces")
    for name in NAMESPACES:
        namespace: Obj = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
        await _create(writer, Target(namespaces, "", name), namespace)
    await _cidr(registry, writer, cluster.addresses)
    await _ensure(writer, registry.core("services"), service(str(cluster.addresses[1]), cluster.port))
    if addresses:
        await _ensure(writer, registry.core("endpoints"), endpoints(addresses, cluster.port))
        slices = _resource(registry, "discovery.k8s.io", "endpointslices")
        await _ensure(writer, slices, endpoint_slice(addresses, cluster.port))


def _resource(registry: Registry, group: str, plural: str) -> Resource:
    found = registry.find(group, "v1", plural)
    if found is None:
        raise LookupError(f"{plural}.{group} is not served")
    return found


async def _cidr(registry: Registry, writer: Writer, network: Network) -> None:
    target = Target(_resource(registry, "networking.k8s.io", "servicecidrs"), "", "kubernetes")
    await _create(writer, target, service_cidr(network))
    if writer.get(target).parse()["spec"].get("cidrs") != [str(network)]:
        log.warning(
            "ServiceCIDR kubernetes is not %s: addresses of the old range stay until their Services go", network
        )
    await writer.modify(target, ready, subresource="status")


async def _furnish(registry: Registry, writer: Writer) -> None:
    """Many small objects, in as few commits as the store makes of them."""
    classes = _resource(registry, "scheduling.k8s.io", "priorityclasses")
    levels = _resource(registry, "flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations")
    schemas = _resource(registry, "flowcontrol.apiserver.k8s.io", "flowschemas")
    wanted = (
        *((classes, priority_class(*one)) for one in PRIORITIES),
        *((levels, one) for one in flowobjects.levels()),
        *((schemas, one) for one in flowobjects.schemas()),
    )
    async with asyncio.TaskGroup() as group:
        for resource, obj in wanted:
            group.create_task(_create(writer, Target(resource, "", obj["metadata"]["name"]), obj))


async def _ensure(writer: Writer, resource: Resource, wanted: Obj) -> None:
    target = Target(resource, wanted["metadata"]["namespace"], wanted["metadata"]["name"])
    if not await _create(writer, target, wanted):
        await writer.modify(target, lambda current: _overlaid(current, wanted))


async def _create(writer: Writer, target: Target, wanted: Obj) -> bool:
    if writer.shelf(target.resource).get(target.namespace, target.name):
        return False
    try:
        await writer.create(target, wanted)
    except StatusError as error:
        if error.reason != "AlreadyExists":
            raise
        return False
    return True


def _overlaid(current: Obj, wanted: Obj) -> Obj:
    """`current` with what is ours in it as wanted: labels merged, spec fields merged, lists replaced."""
    merged: dict[str, Any] = dict(current)
    for key, value in wanted.items():
        if key == "metadata":
            labels = (current["metadata"].get("labels") or {}) | value.get("labels", {})
            merged["metadata"] = current["metadata"] | ({"labels": labels} if labels else {})
        elif isinstance(value, dict):
            merged[key] = current.get(key, {}) | value
        else:
            merged[key] = value
    return merged
