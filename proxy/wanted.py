"""What the API wants of this node, asked once: for commands, which do not watch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kube import core
from kube.client import Client
from kube.errors import ApiError, UsageError
from kube.informer import Change
from kube.resources import NODES, PODS
from linux.iptables.rules import Family
from linux.packets import Address
from proxy.addresses import address
from proxy.kernel_rules import At
from proxy.model import ServicePort
from proxy.objects import ENDPOINTSLICES, SERVICES
from proxy.observe import SERVICES_FIELDS, SERVICES_SELECTOR, SLICES_SELECTOR, Tracker


@dataclass(frozen=True, slots=True)
class Wanted:
    """Service ports by `namespace/name`, of each family, with the endpoints that the node of this name should use. `here`:
    the Node, where there is one."""

    node: str
    services: Mapping[Family, Mapping[str, tuple[ServicePort, ...]]]
    here: core.Node | None = None

    @property
    def known(self) -> bool:
        """Whether the API was asked."""
        return bool(self.services)

    def ports(self, family: Family) -> Iterable[ServicePort]:
        for key in sorted(self.services.get(family, {})):
            yield from self.services[family][key]

    def names(self, family: Family) -> dict[At, str]:
        """Whose each address and port is: of several claimants the one whose cluster IP it is, else the first by name."""
        ports = list(self.ports(family))
        found = {destinations(port)[0]: port.name for port in ports}
        for port in ports:
            for at in destinations(port):
                found.setdefault(at, port.name)
        return found


NOTHING = Wanted("", {})


def destinations(port: ServicePort) -> list[At]:
    """Everything that a packet for this Service port may be sent to: its cluster IP first."""
    protocol = port.protocol.value
    found = [At(each, protocol, port.port) for each in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)]
    if port.node_port:
        found.append(At(None, protocol, port.node_port))
    return found


async def asked(client: Client, node: str) -> Wanted:
    """Raises ApiError, ApiUnreachable."""
    services = await client.list(SERVICES, label_selector=SERVICES_SELECTOR, field_selector=SERVICES_FIELDS)
    slices = await client.list(ENDPOINTSLICES, label_selector=SLICES_SELECTOR)
    nodes = (await client.list(NODES, field_selector=f"metadata.name={node}")).items
    here = next(iter(nodes), None)
    made = {}
    for family in Family:
        tracker = Tracker(node, family)
        tracker.node_changed(here)
        for service in services.items:
            tracker.service_changed(Change(service.metadata.key, None, service))
        for piece in slices.items:
            tracker.slice_changed(Change(piece.metadata.key, None, piece))
        made[family] = tracker.take().services
    return Wanted(node, made, here)


async def pod_address(client: Client, namespace: str, name: str, family: Family | None) -> Address:
    """A pod's address. Raises UsageError when there is no such pod or it has none (of that family)."""
    try:
        pod = await client.get(PODS, name, namespace)
    except ApiError as error:
        raise UsageError(f"pod {namespace}/{name}: {error}") from error
    texts = [each.ip for each in pod.status.pod_ips] or [pod.status.pod_ip]
    found = [each for each in map(address, texts) if each is not None]
    for each in found:
        if family is None or each.version == family:
            return each
    kind = f"IPv{family:d} " if family else ""
    raise UsageError(f"pod {namespace}/{name} has no {kind}address; is it running?")


def service_target(wanted: Wanted, family: Family | None, namespace: str, name: str, port: str) -> tuple[At, Family]:
    """The cluster IP and port of a Service. `port` is a number, a name, or empty where there is only one."""
    key = f"{namespace}/{name}"
    for each in [family] if family else list(Family):
        ports = wanted.services.get(each, {}).get(key, ())
        chosen = [one for one in ports if port in ("", str(one.port), one.name.partition(":")[2])]
        if port == "" and len(chosen) > 1:
            known = ", ".join(one.name.partition(":")[2] or str(one.port) for one in ports)
            raise UsageError(f"Service {key} has several ports; say which: {key}:PORT with PORT one of {known}")
        if chosen:
            return At(chosen[0].cluster_ip, chosen[0].protocol.value, chosen[0].port), each
        if ports:
            known = ", ".join(one.name.partition(":")[2] or str(one.port) for one in ports)
            raise UsageError(f"Service {key} has no port {port}; it has {known}")
    raise UsageError(f"Service {key} is not there, or has no cluster IP for this node to serve")
