"""Which UDP flows are stale, and when they are looked for."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from linux.conntrack import endpoint as key_of
from linux.iptables.rules import Family
from proxy.conntrack import Flows
from proxy.model import Protocol, ServicePort
from tests.unit.proxy.flows import CLUSTER_IP, HERE, LOCAL_END, NODE, NODE_PORT, THERE, endpoint, service

GONE, EXTERNAL = "10.180.0.77", "203.0.113.200"
TABLE = (
    (CLUSTER_IP, 80, LOCAL_END, 8080),
    (CLUSTER_IP, 80, GONE, 8080),
    (CLUSTER_IP, 80, LOCAL_END, 9999),  # the right address, another port
    (CLUSTER_IP, 81, GONE, 8080),  # not our port
    (NODE, NODE_PORT, NODE, NODE_PORT),  # began before the rules
    (NODE, NODE_PORT, GONE, 8080),
    ("8.8.8.8", NODE_PORT, "8.8.8.8", NODE_PORT),  # a NodePort's number, but not here
    (EXTERNAL, 80, GONE, 8080),
)


def udp(*ends: object, **more: object) -> ServicePort:
    return service(*ends, protocol=Protocol.UDP, **more)  # type: ignore[arg-type]


def at(address: str, port: int) -> bytes:
    return key_of(ip_address(address).packed, port)


def told(flows: Flows, *ports: ServicePort, changed: str | None = None, refused: tuple[str, ...] = ()) -> None:
    services = {port.name.partition(":")[0]: (port,) for port in ports}
    flows.note(services, None if changed is None else frozenset(changed.split()), refused)


def stale(flows: Flows) -> list[int]:
    """The indexes of the table's stale flows; then nothing is due."""
    question = flows.take([IPv4Address(NODE)])
    return [n for n, (to, port, by, source) in enumerate(TABLE) if question.stale(at(to, port), at(by, source))]


def of(*ports: ServicePort) -> list[int]:
    flows = Flows(Family.V4)
    told(flows, *ports)
    return stale(flows)


def test_flows_that_nobody_who_should_answers() -> None:
    assert of(udp(HERE, THERE)) == [1, 2, 4, 5]


def test_a_service_without_endpoints_keeps_no_flow() -> None:
    assert of(udp()) == [0, 1, 2, 4, 5]


def test_every_address_of_a_service_counts() -> None:
    assert of(replace(udp(HERE, node_port=0), external_ips=(IPv4Address(EXTERNAL),))) == [1, 2, 7]
    assert of(replace(udp(HERE, node_port=0), load_balancer_ips=(IPv4Address(EXTERNAL),))) == [1, 2, 7]


def test_who_drains_keeps_its_flows() -> None:
    draining = endpoint(GONE, state="draining")
    assert 1 not in of(udp(draining))
    port = udp(draining, HERE)
    assert 1 not in of(replace(port, endpoints=replace(port.endpoints, serving=(draining.endpoint, HERE.endpoint))))


def test_a_cluster_ip_is_its_own_services_whoever_else_names_it() -> None:
    mine = udp(HERE, node_port=0)
    other = replace(udp(endpoint(GONE), node_port=0), name="a/thief:p", cluster_ip=IPv4Address("10.96.7.7"))
    other = replace(other, external_ips=(mine.cluster_ip,))
    flows = Flows(Family.V4)
    told(flows, mine)
    stale(flows)
    told(flows, mine, other, changed="a/thief")
    assert stale(flows) == [1, 2]


def test_tcp_is_left_alone() -> None:
    flows = Flows(Family.V4)
    told(flows, service(HERE))
    assert not flows.due


def cleaned(*ports: ServicePort) -> Flows:
    """After a cleaning that had nothing to delete."""
    flows = Flows(Family.V4)
    told(flows, *ports)
    flows.take(())
    assert not flows.due
    return flows


def test_only_an_endpoint_less_is_looked_for() -> None:
    flows = cleaned(udp(HERE))
    told(flows, udp(HERE), changed="ns1/svc1")
    told(flows, udp(HERE, THERE), changed="ns1/svc1")
    assert not flows.due
    told(flows, udp(THERE), changed="ns1/svc1")
    assert stale(flows) == [0, 1, 2, 4, 5]


def test_the_first_endpoint_is_looked_for() -> None:
    """Senders went past the rules while there was none."""
    flows = cleaned(udp())
    told(flows, udp(HERE), changed="ns1/svc1")
    assert stale(flows) == [1, 2, 4, 5]


def test_after_rules_were_gone_everything_is_looked_for() -> None:
    flows = cleaned(udp(HERE))
    flows.doubt()
    assert stale(flows) == [1, 2, 4, 5]
    flows = cleaned(service(HERE))
    flows.doubt()
    assert not flows.due


def test_of_a_service_that_is_gone_only_its_own_flows_are_deleted() -> None:
    flows = cleaned(udp(endpoint(GONE)))
    told(flows, changed="ns1/svc1")
    assert stale(flows) == [1, 5]


def test_an_address_that_passes_to_another_service_is_that_ones() -> None:
    for order in ("ns1/old ns1/new", "ns1/new ns1/old"):
        first = udp(endpoint(GONE), name="ns1/old:p80")
        second = udp(HERE, name="ns1/new:p80")
        flows = cleaned(first)
        for key in order.split():
            told(flows, *([second] if key == "ns1/new" or order.startswith("ns1/new") else []), changed=key)
        assert stale(flows) == [1, 2, 4, 5], order


def test_of_two_services_at_one_address_the_first_in_order_has_it() -> None:
    first = udp(HERE, name="ns1/first:p80")
    second = udp(endpoint(GONE), name="ns1/second:p80")
    assert of(second, first) == [1, 2, 4, 5]
    flows = cleaned(first, second)
    told(flows, second, changed="ns1/first")
    assert stale(flows) == [0, 2, 4]


def test_what_was_refused_is_looked_for_when_it_is_in() -> None:
    flows = cleaned(udp(HERE))
    told(flows, udp(THERE), changed="ns1/svc1", refused=("ns1/svc1:p80",))
    assert not flows.due
    told(flows, udp(THERE), changed="")
    assert stale(flows) == [0, 1, 2, 4, 5]


def test_the_kernel_is_asked_for_as_little_as_possible() -> None:
    one, two = udp(HERE, node_port=0), udp(HERE, name="ns1/other", cluster_ip="172.30.0.42", node_port=0)
    for ports, narrowed in (
        ([], (None, None)),
        ([one], (at(CLUSTER_IP, 80), None)),
        ([one, two], (None, 80)),
        ([udp(HERE)], (None, None)),
    ):
        flows = Flows(Family.V4)
        told(flows, *ports)
        assert flows.take(()).narrowed() == narrowed
