"""Which UDP flows are stale."""

from proxy.conntrack import destinations, parse, stale
from proxy.model import Protocol
from tests.unit.proxy.flows import CLUSTER_IP, HERE, NODE, NODE_PORT, OUTSIDER, POD, THERE, endpoint, service

LISTING = f"""
udp 17 29 src={POD} dst={CLUSTER_IP} sport=5000 dport=80 src=10.180.0.2 dst={POD} sport=8080 dport=5000 [ASSURED] mark=0 use=1
udp      17 29 src={POD} dst={CLUSTER_IP} sport=5001 dport=80 [UNREPLIED] src=10.180.0.77 dst={POD} sport=8080 dport=5001
udp      17 29 src={POD} dst={CLUSTER_IP} sport=5002 dport=80 src=10.180.0.2 dst={POD} sport=9999 dport=5002
udp      17 29 src={POD} dst={CLUSTER_IP} sport=5003 dport=81 src=10.180.0.77 dst={POD} sport=8080 dport=5003
udp 17 29 src={OUTSIDER} dst={NODE} sport=5004 dport={NODE_PORT} src={NODE} dst={OUTSIDER} sport={NODE_PORT} dport=5004
udp      17 29 src={OUTSIDER} dst={NODE} sport=5005 dport={NODE_PORT} src=10.180.1.2 dst={NODE} sport=8080 dport=5005
udp      17 29 src={POD} dst=8.8.8.8 sport=5006 dport={NODE_PORT} src=8.8.8.8 dst={NODE} sport={NODE_PORT} dport=5006
conntrack v1.4.7 (conntrack-tools): 7 flow entries have been shown.
"""


def ports(*services: object) -> list[int]:
    wanted = destinations(services)  # type: ignore[arg-type]
    return [flow.source_port for flow in stale(parse(LISTING), wanted, frozenset([NODE]))]


def test_flows_that_nobody_who_should_answers() -> None:
    assert ports(service(HERE, THERE, protocol=Protocol.UDP)) == [5001, 5002, 5004]


def test_a_service_without_endpoints_keeps_no_flow() -> None:
    assert ports(service(protocol=Protocol.UDP)) == [5000, 5001, 5002, 5004, 5005]


def test_endpoints_that_drain_still_answer_when_nobody_else_does() -> None:
    draining = endpoint("10.180.0.77", state="draining")
    assert 5001 not in ports(service(draining, protocol=Protocol.UDP))
    assert 5001 in ports(service(draining, HERE, protocol=Protocol.UDP))


def test_tcp_is_left_alone() -> None:
    assert ports(service(HERE)) == []
    assert not destinations([service(HERE)])
