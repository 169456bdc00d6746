"""A pass hands over what changed until that was carried out, and tells everybody only then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest

from kube import labels
from kube.errors import Retry
from linux.iptables.rules import Family
from proxy.backend import Applied, Backend, Wish
from proxy.health import Waiting
from proxy.healthchecks import HealthChecks
from proxy.metrics import Metrics
from proxy.model import Policy
from proxy.news import REFUSED, News
from proxy.objects import EndpointSlice, Service
from proxy.sync import Pass, WithoutLocal
from tests.unit.proxy.strategies import NODE, Cluster, Put


@dataclass
class Recorded:
    """Satisfies proxy.backend.Backend; remembers what it was asked, and answers what a test says."""

    words: str = "rules in memory"
    sees_changes: bool = True
    wishes: list[Wish] = field(default_factory=list)
    answer: Applied = field(default_factory=lambda: Applied(full=False))
    refusal: str = ""
    doubts: int = 0
    doubted: bool = True

    @asynccontextmanager
    async def watching(self, touched: Callable[[], None]) -> AsyncIterator[None]:
        yield

    def doubt(self) -> None:
        self.doubts += 1
        self.doubted = True

    async def apply(self, wish: Wish) -> Applied:
        self.wishes.append(replace(wish, services=dict(wish.services)))
        if self.refusal:
            raise Retry(self.refusal)
        full, self.doubted = self.doubted, False
        return replace(self.answer, full=full)

    async def forget(self) -> int:
        return 0

    async def forget_others(self) -> int:
        return 0

    def close(self) -> None: ...


class Rig:
    def __init__(self) -> None:
        self.now = 1000.0
        self.policy = Policy(Family.V4)
        self.backend = Recorded()
        self.cluster = Cluster(Family.V4)
        self.metrics = Metrics("iptables", ("IPv4",))
        self.waiting = Waiting(self.now)
        self.told: list[tuple[str, str, str]] = []
        self.skipped: list[str] = []
        tell: Callable[[str, str, str], None] = lambda *words: self.told.append(words)  # noqa: E731
        backend: Backend = self.backend
        self.one = Pass(
            Family.V4,
            backend,
            self.cluster.tracker,
            lambda: self.policy,
            waiting=self.waiting,
            metrics=self.metrics.families["IPv4"],
            checks=HealthChecks(NODE, tell, lambda: True),
            news=News(tell, self.skipped.append),
            sync_period=30.0,
            clock=lambda: self.now,
        )

    def put(self, name: str, *endpoints: str, trigger: str = "", **spec: Any) -> None:
        body = {
            "metadata": {"namespace": "ns", "name": name},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}], **spec},
        }
        piece = {
            "metadata": {
                "namespace": "ns",
                "name": f"{name}-x",
                "labels": {labels.SERVICE_NAME: name},
                "annotations": {labels.LAST_CHANGE_TRIGGER_TIME: trigger} if trigger else {},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip]} for ip in endpoints],
            "ports": [{"name": "http", "port": 8080}],
        }
        self.cluster.do(Put(msgspec.convert(body, Service)))
        self.cluster.do(Put(msgspec.convert(piece, EndpointSlice)))

    def metric(self, name: str) -> float:
        for line in generate_latest(self.metrics.registry).decode().splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                return float(line.rpartition(" ")[2])
        raise LookupError(name)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_the_first_pass_is_whole_and_later_ones_name_what_changed(rig: Rig) -> None:
    rig.put("a", "10.244.0.2")
    rig.put("b", "10.244.0.3")
    await rig.one.sync()
    rig.put("b", "10.244.0.4")
    await rig.one.sync()
    await rig.one.sync()
    assert [wish.changed for wish in rig.backend.wishes] == [None, frozenset({"ns/b"}), frozenset()]
    assert set(rig.backend.wishes[-1].services) == {"ns/a", "ns/b"}


async def test_what_was_refused_stays_changed_until_it_is_in(rig: Rig) -> None:
    await rig.one.sync()
    rig.backend.refusal = "the lock is held"
    rig.put("a", "10.244.0.2")
    with pytest.raises(Retry):
        await rig.one.sync()
    rig.put("b", "10.244.0.3")
    with pytest.raises(Retry):
        await rig.one.sync()
    rig.backend.refusal = ""
    await rig.one.sync()
    await rig.one.sync()
    assert [wish.changed for wish in rig.backend.wishes[-2:]] == [frozenset({"ns/a", "ns/b"}), frozenset()]
    assert rig.metric("kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total") == 1
    assert rig.metric("kubeproxy_sync_proxy_rules_iptables_restore_failures_total") == 2


async def test_another_policy_concerns_every_service_until_it_is_in(rig: Rig) -> None:
    rig.put("a", "10.244.0.2")
    await rig.one.sync()
    rig.policy = Policy(Family.V4, masquerade_all=True)
    rig.backend.refusal = "no"
    with pytest.raises(Retry):
        await rig.one.sync()
    rig.backend.refusal = ""
    await rig.one.sync()
    await rig.one.sync()
    assert [wish.changed for wish in rig.backend.wishes[1:]] == [None, None, frozenset()]


async def test_a_refusal_leaves_the_change_waiting(rig: Rig) -> None:
    rig.backend.refusal = "no"
    with pytest.raises(Retry):
        await rig.one.sync()
    assert rig.waiting.late(rig.now + 60, 60)
    rig.backend.refusal = ""
    await rig.one.sync()
    assert not rig.waiting.late(rig.now + 3600, 60)


async def test_rules_are_compared_once_a_period_only_where_nobody_tells_of_changes(rig: Rig) -> None:
    for sees, doubts in ((True, 0), (False, 2)):
        rig.backend.sees_changes, rig.backend.doubts = sees, 0
        rig.backend.answer = Applied(full=True)
        for _ in range(6):
            rig.now += 10
            await rig.one.sync()
        assert rig.backend.doubts == doubts


async def test_latency_is_measured_from_its_cause_to_the_rules_even_through_a_refusal(rig: Rig) -> None:
    await rig.one.sync()
    rig.put("a", "10.244.0.2", trigger="1970-01-01T00:16:42Z")  # 1002
    rig.backend.refusal = "no"
    rig.now = 1003.0
    with pytest.raises(Retry):
        await rig.one.sync()
    rig.backend.refusal, rig.now = "", 1006.5
    await rig.one.sync()
    await rig.one.sync()
    assert rig.metric("kubeproxy_network_programming_duration_seconds_count") == 1
    assert rig.metric("kubeproxy_network_programming_duration_seconds_sum") == 4.5


async def test_causes_that_wait_through_a_long_refusal_are_bounded(rig: Rig) -> None:
    await rig.one.sync()
    rig.backend.refusal = "no"
    for second in range(3):
        for index in range(2000):
            rig.put(f"s{index}", f"10.244.{second}.2", trigger=f"1970-01-01T00:16:4{second}Z")
        with pytest.raises(Retry):
            await rig.one.sync()
    rig.backend.refusal = ""
    await rig.one.sync()
    assert rig.metric("kubeproxy_network_programming_duration_seconds_count") == 4096


async def test_a_refused_service_is_told_once_for_each_reason(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.backend.answer = Applied(full=False, refused={"ns/a:http": "too long"})
    await rig.one.sync()
    await rig.one.sync()
    assert rig.told == [("ns/a", REFUSED, "IPv4 rules of ns/a:http were refused: too long")]
    assert rig.metric("wherry_proxy_refused_service_ports") == 1
    rig.backend.answer = Applied(full=False, refused={"ns/a:http": "too wide"})
    await rig.one.sync()
    assert len(rig.told) == 2
    rig.backend.answer = Applied(full=False)
    await rig.one.sync()
    assert rig.metric("wherry_proxy_refused_service_ports") == 0


async def test_what_cannot_be_used_is_told_and_counted_once(rig: Rig) -> None:
    rig.put("a", "10.244.0.2", externalIPs=["10.1.1.300"])
    await rig.one.sync()
    await rig.one.sync()
    assert len(rig.told) == len(rig.skipped) == 1
    assert rig.told[0][0] == "ns/a"
    assert "10.1.1.300" in rig.told[0][2]


async def test_rules_are_counted_by_table(rig: Rig) -> None:
    rig.backend.answer = Applied(full=True, rules={"nat": 20, "filter": 7}, rules_written={"nat": 3})
    await rig.one.sync()
    text = generate_latest(rig.metrics.registry).decode()
    assert 'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 20.0' in text
    assert 'kubeproxy_sync_proxy_rules_iptables_last{ip_family="IPv4",table="nat"} 3.0' in text
    assert 'kubeproxy_sync_proxy_rules_iptables_last{ip_family="IPv4",table="filter"} 0.0' in text


async def test_repairs_are_told(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.backend.answer = Applied(full=True, repaired=("chain KUBE-SERVICES of nat",), written=3)
    await rig.one.sync()
    assert any("behind our back" in line and "KUBE-SERVICES" in line for line in caplog.messages)
    assert rig.metric("wherry_proxy_repairs_total") == 1


async def test_services_whose_endpoints_are_all_elsewhere_are_counted(rig: Rig) -> None:
    rig.put("a", "10.244.1.2", internalTrafficPolicy="Local")
    rig.put("b", "10.244.1.3", type="NodePort", externalTrafficPolicy="Local", ports=_PUBLISHED)
    rig.put("c", internalTrafficPolicy="Local")  # has none anywhere: refused, which is another matter
    await rig.one.sync()
    counted = WithoutLocal()
    counted.note(rig.cluster.tracker.services, None)
    assert (counted.internal, counted.external) == (1, 1)
    rig.put("a", "10.244.1.2")
    rig.cluster.take()
    counted.note(rig.cluster.tracker.services, {"ns/a"})
    assert (counted.internal, counted.external) == (0, 1)


_PUBLISHED = [{"name": "http", "port": 80, "nodePort": 30080}]


def test_each_mode_has_its_own_series() -> None:
    iptables = generate_latest(Metrics("iptables", ("IPv4", "IPv6")).registry).decode()
    nftables = generate_latest(Metrics("nftables", ("IPv4",)).registry).decode()
    assert "iptables_restore_failures_total" in iptables
    assert "nftables" not in iptables
    assert "nftables_sync_failures_total" in nftables
    assert "nftables_cleanup_failures_total" in nftables
    assert "iptables" not in nftables
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv6"} 0.0' in iptables


def test_events_are_counted_until_a_pass_takes_them() -> None:
    metrics = Metrics("iptables", ("IPv4", "IPv6"))
    for _ in range(3):
        metrics.changes.service()
    metrics.changes.endpoint()
    metrics.changes.queued = 12.5
    value = metrics.registry.get_sample_value
    assert value("kubeproxy_sync_proxy_rules_service_changes_total") == 3
    assert value("kubeproxy_sync_proxy_rules_service_changes_pending") == 3
    assert value("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", {"ip_family": "IPv6"}) == 12.5
    metrics.changes.taken()
    assert value("kubeproxy_sync_proxy_rules_endpoint_changes_pending") == 0
    assert value("kubeproxy_sync_proxy_rules_endpoint_changes_total") == 1
