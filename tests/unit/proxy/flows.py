"""A small cluster as values, and where its packets go by the rules that the plan wrote into a fake packet filter."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from proxy.endpoints import Candidate, usable
from proxy.model import Endpoint, PodNetwork, Policy, Protocol, Reach, ServicePort

POD, OTHER_POD = "10.180.0.9", "10.180.1.9"
NODE, OTHER_NODE, LOOPBACK, OUTSIDER = "192.168.0.1", "192.168.0.2", "127.0.0.1", "203.0.113.7"
NODE_ADDRESSES = frozenset([IPv4Address(NODE), IPv4Address("10.180.0.1")])
LOCAL_END, REMOTE_END = "10.180.0.2", "10.180.1.2"
CLUSTER_IP, PORT, NODE_PORT = "172.30.0.41", 80, 30080
POLICY = Policy(pods=PodNetwork(IPv4Network("10.180.0.0/16")))


def endpoint(ip: str, *, local: bool = False, state: str = "ready", port: int = 8080) -> Candidate:
    """`state`: ready, unready, draining (serving while it terminates) or dead (terminating)."""
    return Candidate(
        Endpoint.at(IPv4Address(ip), port, local=local),
        ready=state == "ready",
        serving=state in ("ready", "draining"),
        terminating=state in ("draining", "dead"),
    )


HERE, THERE = endpoint(LOCAL_END, local=True), endpoint(REMOTE_END)


def service(
    *endpoints: Candidate,
    name: str = "ns1/svc1:p80",
    cluster_ip: str = CLUSTER_IP,
    node_port: int = NODE_PORT,
    internal: Reach = Reach.CLUSTER,
    external: Reach = Reach.CLUSTER,
    protocol: Protocol = Protocol.TCP,
    affinity: int | None = None,
) -> ServicePort:
    return ServicePort(
        name,
        protocol,
        IPv4Address(cluster_ip),
        PORT,
        node_port=node_port,
        affinity_seconds=affinity,
        internal=internal,
        external=external,
        endpoints=usable(
            sorted(endpoints, key=lambda each: each.endpoint.text),
            internal=internal,
            external=external,
            externally_reachable=node_port != 0,
        ),
    )
