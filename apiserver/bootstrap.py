"""What every cluster has from the first second: four namespaces, and Service kubernetes with its endpoints.

Done at each start, by difference: what is missing is created, what has drifted (the server's address) is written again, and
what is as it should be is left alone.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Any, Final

from apiserver.errors import StatusError
from apiserver.pipeline import Obj, Target, Writer
from apiserver.registry import Registry, Resource

log = logging.getLogger(__name__)

NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")


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


def endpoints(address: str, port: int) -> Obj:
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    }


def endpoint_slice(address: str, port: int) -> Obj:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": f"IPv{ipaddress.ip_address(address).version}",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }


async def ensure(registry: Registry, writer: Writer, *, cluster_ip: str, address: str, port: int) -> None:
    namespaces = registry.core("namespaces")
    for name in NAMESPACES:
        namespace: Obj = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
        await _create(writer, Target(namespaces, "", name), namespace)
    await _ensure(writer, registry.core("services"), service(cluster_ip, port))
    if not address:
        log.warning("Service kubernetes gets no endpoints: a server on loopback has no address that pods reach")
        return
    await _ensure(writer, registry.core("endpoints"), endpoints(address, port))
    slices = registry.find("discovery.k8s.io", "v1", "endpointslices")
    if slices:
        await _ensure(writer, slices, endpoint_slice(address, port))


async def _ensure(writer: Writer, resource: Resource, wanted: Obj) -> None:
    target = Target(resource, "default", "kubernetes")
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
            labels = (current["metadata"].get("labels") or {}) | value["labels"]
            merged["metadata"] = current["metadata"] | {"labels": labels}
        elif isinstance(value, dict):
            merged[key] = current.get(key, {}) | value
        else:
            merged[key] = value
    return merged
