"""discovery.k8s.io/v1.

Absent conditions mean what upstream says they mean: `ready` and `serving` absent are true, `terminating` absent is false.
"""

from kube.meta import Object, Typed
from kube.pods import ObjectReference


class EndpointConditions(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str


class ForNode(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str


class EndpointHints(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForNode, ...] = ()


class Endpoint(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None
    target_ref: ObjectReference | None = None

    @property
    def ready(self) -> bool:
        return self.conditions.ready is not False

    @property
    def serving(self) -> bool:
        return self.conditions.serving is not False

    @property
    def terminating(self) -> bool:
        return self.conditions.terminating is True


class EndpointPort(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str | None = None
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str | None = None


class EndpointSlice(Typed, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = ()
    ports: tuple[EndpointPort, ...] | None = ()
