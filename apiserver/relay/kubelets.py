"""Where a pod's kubelet listens, and which of the pod's containers is meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from apiserver import errors

Obj = dict[str, Any]
PORT: Final = 10250


@dataclass(frozen=True, slots=True)
class Kubelet:
    host: str
    port: int

    @property
    def authority(self) -> str:
        return authority(self.host, self.port)


def authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def kubelet_at(name: str, node: Obj | None) -> Kubelet:
    """Raises 404 or 500 when it is not known where."""
    if node is None:
        raise errors.not_found("", "nodes", name)
    status = node.get("status") or {}
    known = {one.get("type"): one.get("address") for one in status.get("addresses") or ()}
    host = known.get("InternalIP") or known.get("ExternalIP") or known.get("Hostname")
    if not host:
        raise errors.internal(f"no preferred addresses found for node {name}; is its kubelet running?")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or PORT
    return Kubelet(host, port)


def kubelet_of(pod: Obj, node: Obj | None) -> Kubelet:
    """Raises 400, 404 or 500."""
    if not pod["spec"].get("nodeName"):
        raise errors.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return kubelet_at(pod["spec"]["nodeName"], node)


def container_of(pod: Obj, asked: str) -> str:
    """The container that is meant; raises 400 when that is not clear."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    plain = [one["name"] for one in spec.get("containers") or ()]
    init = [one["name"] for one in spec.get("initContainers") or ()]
    ephemeral = [one["name"] for one in spec.get("ephemeralContainers") or ()]
    if not asked:
        if len(plain) == 1 and not init and not ephemeral:
            return str(plain[0])
        default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
        if default in plain:
            return str(default)
        if len(plain) == 1:
            return str(plain[0])
        hint = f", choose one of: [{' '.join(plain)}]"
        if init:
            hint += f" or one of the init containers: [{' '.join(init)}]"
        raise errors.bad_request(f"a container name must be specified for pod {name}{hint}")
    if asked not in (*plain, *init, *ephemeral):
        raise errors.bad_request(f"container {asked} is not valid for pod {name}")
    return asked
