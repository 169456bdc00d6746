"""Whatever happens in whatever order: the tracker ends where a fresh one begins, and names every Service that differs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from linux.iptables.rules import Family
from proxy.model import ServicePort
from tests.unit.proxy.strategies import Action, Cluster, histories

HISTORIES = st.one_of(histories(), histories(odd=True))


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.sampled_from(Family), st.sets(st.integers(0, 12)))
def test_what_is_kept_is_what_a_fresh_start_finds(history: list[Action], family: Family, pauses: set[int]) -> None:
    cluster = Cluster(family)
    before: dict[str, tuple[ServicePort, ...]] = {}
    for step, action in enumerate(history):
        cluster.do(action)
        if step in pauses or step == len(history) - 1:
            taken = cluster.take()
            now = dict(taken.services)
            assert now == cluster.fresh()
            assert taken.changed == {key for key in before | now if before.get(key) != now.get(key)}
            before = now
    assert not cluster.take().changed


@settings(max_examples=50, deadline=None)
@given(HISTORIES, st.sampled_from(Family))
def test_what_backends_may_rely_on(history: list[Action], family: Family) -> None:
    cluster = Cluster(family)
    for action in history:
        cluster.do(action)
    for key, ports in cluster.take().services.items():
        assert ports
        assert len({(port.name, port.protocol) for port in ports}) == len(ports)
        assert len({(port.port, port.protocol) for port in ports}) == len(ports)
        for port in ports:
            assert port.name.partition(":")[0] == key
            assert {ip.version for ip in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)} == {family}
            assert {net.version for net in port.source_ranges} <= {family}
            ends = port.endpoints
            for members in (ends.cluster, ends.local, ends.serving, ends.all):
                texts = [end.text for end in members]
                assert texts == sorted(set(texts))
            assert all(end.local for end in ends.local)
            assert ends.any or not ends.all
