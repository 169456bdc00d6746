"""The fallback layout: kube-proxy's names, and packets that go where kube-proxy's own tables say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest

from linux.iptables.rules import Family
from linux.nftables.batch import Batch
from linux.nftables.elements import DROP, GOTO, Element, Verdict
from linux.nftables.ruleset import Ruleset
from linux.nftables.tracer import trace
from proxy.model import Endpoint, Policy, Protocol, ServicePort
from proxy.nftables.fallback import Fallback
from proxy.nftables.layout import TABLE, Map, socket_family
from proxy.nftables.names import base_name, endpoint_name, owner
from proxy.nftables.plan import Content, Leads, Value, placed
from tests.unit.proxy.cases import BASE, CASES, EXTERNAL_LOCAL, PLAIN, Case, Mode, Subject
from tests.unit.proxy.worlds import WORLDS, World


def content(services: Sequence[ServicePort], policy: Policy) -> Content:
    made = Content()
    Fallback().render([placed(port, None) for port in services], policy, lambda key: True, made)
    return made


def batch(services: Sequence[ServicePort], policy: Policy) -> Batch:
    """The whole table."""
    made, layout = content(services, policy), Fallback()
    written = Batch(socket_family(policy.family), TABLE)
    written.add_table(comment=layout.name)
    for one in (*layout.sets(policy.family), *made.sets.values()):
        written.add_set(one)
    chains = [*made.chains.values(), *layout.fixed(policy)]
    for chain in chains:
        written.add_chain(chain.name, chain.hook)
    for chain in chains:
        for rule, comment in zip(chain.rules, chain.comments(), strict=True):
            written.add_rule(chain.name, rule.expressions, comment=comment)
    for which in Map:
        written.add_elements(which.title, [_element(key, value) for key, value in made.maps[which].items()])
    addresses = policy.node_port_addresses or ()
    written.add_elements(Map.NODEPORT_IPS.title, [Element(ip.packed) for ip in addresses if not ip.is_loopback])
    return written


def _element(key: bytes, value: Value) -> Element:
    match value:
        case Leads(chain, about):
            return Element(key, Verdict(GOTO, chain) if chain else Verdict(DROP), comment=about)
        case int() | None:
            return Element(key)
        case bytes():
            raise AssertionError(f"the fallback has no map of values: {value!r}")


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"v{world.family.value}")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packets_go_where_upstreams_tables_say(world: World, case: Case) -> None:
    service = world.service(case.subject)
    ruleset = Ruleset()
    ruleset.take(batch([service], world.policy(case.settings)).contents())
    wrong = []
    for flow in case.flows:
        seen = world.outcome(trace(ruleset, world.packet(flow, case.subject.protocol), world.node_addresses))
        if seen != flow.expected(Mode.NFTABLES, world.family.value):
            wrong.append(f"{flow}: {', '.join(sorted(seen))}, not {flow.expected(Mode.NFTABLES, world.family.value)}")
    assert not wrong


def test_chains_have_upstreams_names() -> None:
    world = WORLDS[0]
    service = world.service(Subject(affinity=900))
    assert base_name(service) == "ULMVA6XW-ns1/svc1/tcp/p80"
    assert endpoint_name(service, Endpoint.at(ip_address("10.180.0.1"), 80)) == (
        "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"
    )
    made = content([service], world.policy(BASE))
    assert list(made.chains) == [
        "endpoint-COL4JORS-ns1/svc1/tcp/p80__10.180.0.2/8080",
        "endpoint-LLMD5Z3K-ns1/svc1/tcp/p80__10.180.1.2/8080",
        "service-ULMVA6XW-ns1/svc1/tcp/p80",
        "external-ULMVA6XW-ns1/svc1/tcp/p80",
    ]
    assert [name.partition("-")[0] for name in made.sets] == ["affinity", "affinity"]
    assert {owner(name) for name in (*made.chains, *made.sets)} == {"ns1/svc1"}
    assert not [chain.name for chain in Fallback().fixed(world.policy(BASE)) if owner(chain.name)]
    long = replace(service, name=f"{'n' * 63}/{'s' * 63}:{'p' * 63}", protocol=Protocol.SCTP)
    assert all(len(name) < 256 for name in content([long], world.policy(BASE)).chains)


@pytest.mark.parametrize("subject", [PLAIN, EXTERNAL_LOCAL, Subject(affinity=5), Subject(ranges=("node",))], ids=str)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"v{world.family.value}")
def test_every_chain_that_is_named_exists(world: World, subject: Subject) -> None:
    """And only sets of Services with affinity belong to a Service."""
    made = content([world.service(subject)], world.policy(BASE))
    led = {value.chain for held in made.maps for value in held.values() if isinstance(value, Leads) and value.chain}
    assert led <= set(made.chains)
    assert bool(made.sets) == (subject.affinity is not None)


def test_no_value_lies_in_a_map_and_nothing_counts() -> None:
    """What the flat layout needs and an old kernel may lack."""
    for world in WORLDS:
        made = content([world.service(case.subject) for case in CASES], world.policy(BASE))
        assert not any(isinstance(value, bytes) for held in made.maps for value in held.values())
    assert not any(one.counts for one in Fallback().sets(Family.V4))
