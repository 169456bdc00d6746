"""The words of `cases` as addresses: what a case's Service, node and packets are in one world."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from linux.iptables.rules import Family
from linux.packets import Address, Ending, Packet
from proxy.endpoints import Candidate, usable
from proxy.model import Endpoint, Network, PodNetwork, Policy, ServicePort
from tests.unit.proxy.cases import Flow, Settings, Subject

STATES = ("ready", "unready", "draining", "dead")


@dataclass(frozen=True, slots=True)
class World:
    """`addresses` has every source's, and cluster, node, node2, loopback, external, balancer, balancer2; `ends` those of
    the endpoints. `pods` is the range in which this node takes senders for pods. The first packets of the node's own
    sources are `local`; interfaces matter only to worlds that tell pods by them."""

    family: Family
    addresses: Mapping[str, Address]
    ends: Mapping[str, tuple[Address, int]]
    pods: Network
    port: int = 80
    node_port: int = 30080
    interfaces: Mapping[str, str] = field(default_factory=dict)

    def service(self, subject: Subject, name: str = "ns1/svc1:p80") -> ServicePort:
        candidates = [self._candidate(end, state) for end, state in subject.ends]
        reachable = subject.reachable
        return ServicePort(
            name,
            subject.protocol,
            self.addresses["cluster"],
            self.port,
            node_port=self.node_port if reachable else 0,
            external_ips=(self.addresses["external"],) if reachable else (),
            load_balancer_ips=(self.addresses["balancer"], self.addresses["balancer2"]) if reachable else (),
            source_ranges=tuple(self._range(word) for word in subject.ranges),
            affinity_seconds=subject.affinity,
            internal=subject.internal,
            external=subject.external,
            endpoints=usable(
                sorted(candidates, key=lambda each: each.endpoint.text),
                internal=subject.internal,
                external=subject.external,
                externally_reachable=reachable,
            ),
        )

    def policy(self, settings: Settings) -> Policy:
        served = settings.node_ports
        return Policy(
            family=self.family,
            masquerade_all=settings.masquerade_all,
            pods=PodNetwork(self.pods) if settings.detector else None,
            node_port_addresses=None if served is None else tuple(self._node_port_address(word) for word in served),
            localhost_node_ports=settings.localhost_node_ports,
            node_ip=self.addresses["node"],
        )

    @property
    def node_addresses(self) -> frozenset[Address]:
        return frozenset([self.addresses["node"], self.addresses["node2"]])

    def packet(self, flow: Flow, protocol: str = "tcp") -> Packet:
        to, _, port = flow.destination.partition(":")
        default = self.node_port if to in ("nodeport", "nodeport2", "localport") else self.port
        return Packet(
            self.source(flow.source),
            self.destination(to),
            int(port or default),
            protocol,
            local=flow.source in ("node", "localhost", "vip"),
            in_interface=self.interfaces.get(flow.source, "eth0"),
        )

    def source(self, word: str) -> Address:
        if word in self.ends:
            return self.ends[word][0]
        return self.addresses[{"localhost": "loopback", "vip": "balancer"}.get(word, word)]

    def destination(self, word: str) -> Address:
        if word in self.ends:
            return self.ends[word][0]
        return self.addresses[{"nodeport": "node", "nodeport2": "node2", "localport": "loopback"}.get(word, word)]

    def outcome(self, endings: Iterable[Ending]) -> frozenset[str]:
        return frozenset(self._word(ending) for ending in endings)

    def _word(self, ending: Ending) -> str:
        if ending.verdict != "ACCEPT":
            return ending.verdict
        names = {end: name for name, end in self.ends.items()}
        where = names[ending.destination, ending.port] if ending.rewritten else "pass"
        return f"{where} masq" if ending.masqueraded else where

    def _candidate(self, name: str, state: str) -> Candidate:
        assert state in STATES
        address, port = self.ends[name]
        return Candidate(
            Endpoint.at(address, port, local=name.startswith("here")),
            ready=state == "ready",
            serving=state in ("ready", "draining"),
            terminating=state in ("draining", "dead"),
        )

    def _range(self, word: str) -> Network:
        if word == "elsewhere":
            return ip_network("198.51.100.0/24" if self.family is Family.V4 else "2001:db8:ffff::/48")
        return ip_network(self.addresses[word])

    def _node_port_address(self, word: str) -> Address:
        return self.addresses["loopback" if word == "localhost" else word]


def _world(family: Family, pods: str, ends: Mapping[str, str], addresses: Mapping[str, str]) -> World:
    return World(
        family,
        {word: ip_address(text) for word, text in addresses.items()},
        {name: (ip_address(text), 8080) for name, text in ends.items()},
        ip_network(pods),
    )


WORLDS = (
    _world(
        Family.V4,
        "10.180.0.0/16",
        {"here": "10.180.0.2", "here2": "10.180.0.3", "there": "10.180.1.2", "there2": "10.180.1.3"},
        {
            "pod": "10.180.0.9",
            "remote-pod": "10.180.1.9",
            "node": "192.168.0.1",
            "node2": "192.168.100.1",
            "other-node": "192.168.0.2",
            "outsider": "203.0.113.7",
            "stranger": "203.0.113.8",
            "loopback": "127.0.0.1",
            "cluster": "172.30.0.41",
            "external": "203.0.113.101",
            "balancer": "203.0.113.201",
            "balancer2": "203.0.113.202",
        },
    ),
    _world(
        Family.V6,
        "fd00:10:180::/48",
        {
            "here": "fd00:10:180::2",
            "here2": "fd00:10:180::3",
            "there": "fd00:10:180:1::2",
            "there2": "fd00:10:180:1::3",
        },
        {
            "pod": "fd00:10:180::9",
            "remote-pod": "fd00:10:180:1::9",
            "node": "fd00:192:168::1",
            "node2": "fd00:192:168:100::1",
            "other-node": "fd00:192:168::2",
            "outsider": "2001:db8:1::7",
            "stranger": "2001:db8:1::8",
            "loopback": "::1",
            "cluster": "fd00:172:30::41",
            "external": "2001:db8:2::101",
            "balancer": "2001:db8:2::201",
            "balancer2": "2001:db8:2::202",
        },
    ),
)
