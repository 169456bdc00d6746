"""The shape of the tree: names, golden text, and that it always holds together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linux.iptables.rules import render
from proxy.endpoints import Candidate, usable
from proxy.iptables import chains, plan
from proxy.model import Endpoint, Policy, Protocol, Reach, ServicePort
from tests.unit.proxy.flows import HERE, POLICY, THERE, endpoint, service

GOLDEN = Path(__file__).parent / "golden"

KINDS = {
    "cluster_ip": service(HERE, THERE, node_port=0),
    "node_port": service(HERE, THERE),
    "no_endpoints": service(),
    "affinity": service(HERE, THERE, affinity=10800),
    "local_policies": service(HERE, THERE, internal=Reach.LOCAL, external=Reach.LOCAL),
    "local_policies_elsewhere": service(THERE, internal=Reach.LOCAL, external=Reach.LOCAL),
    "udp_three": service(
        *[endpoint(f"10.180.2.{n}") for n in (1, 2, 3)], protocol=Protocol.UDP, name="kube-system/dns"
    ),
}


def text(subject: ServicePort) -> str:
    """The tree as iptables-restore reads it, without the stamps, which any change of wording would change."""
    import re

    shown = render(plan.tree([subject], POLICY).chains())
    return re.sub(r" ?wherry:[0-9a-f]{12}", "", shown).replace('-m comment --comment "" ', "")


@pytest.mark.parametrize("kind", KINDS)
def test_golden(kind: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"{kind}.txt", text(KINDS[kind]))


def test_names_are_upstreams() -> None:
    assert chains.hashed("ns1/svc1:p80tcp") == "XPGD46QRK7WJZT7O"
    subject = KINDS["node_port"]
    assert chains.cluster_chain(subject) == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert chains.endpoint_chain(subject, endpoint("10.180.0.1", port=80).endpoint) == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert POLICY.mark == "0x00004000"


_candidates = st.builds(
    Candidate,
    st.builds(
        Endpoint,
        ip=st.integers(1, 6).map(lambda n: IPv4Address(f"10.0.0.{n}")),
        port=st.sampled_from([80, 8080]),
        local=st.booleans(),
    ),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
)


@st.composite
def _service(draw: st.DrawFn) -> ServicePort:
    internal, external = draw(st.sampled_from(Reach)), draw(st.sampled_from(Reach))
    node_port = draw(st.sampled_from([0, 30080]))
    found = draw(st.lists(_candidates, max_size=4, unique_by=lambda each: each.endpoint.text))
    return ServicePort(
        name=draw(st.sampled_from(["a/a", "a/b:http", "b/b:x"])),
        protocol=draw(st.sampled_from(Protocol)),
        cluster_ip=IPv4Address(f"10.96.0.{draw(st.integers(1, 3))}"),
        port=draw(st.sampled_from([80, 443])),
        node_port=node_port,
        affinity_seconds=draw(st.sampled_from([None, 60])),
        internal=internal,
        external=external,
        endpoints=usable(
            sorted(found, key=lambda each: each.endpoint.text),
            internal=internal,
            external=external,
            externally_reachable=node_port != 0,
        ),
    )


_services = _service()
_policies = st.builds(
    Policy,
    masquerade_bit=st.integers(0, 31),
    masquerade_all=st.booleans(),
    random_fully=st.booleans(),
    pods=st.sampled_from([None, POLICY.pods]),
    node_port_addresses=st.sampled_from([None, (), (IPv4Address("192.168.0.1"),)]),
    drop_invalid=st.booleans(),
)


@given(st.lists(_services, max_size=4, unique_by=lambda each: (each.name, each.protocol)), _policies)
def test_every_chain_is_declared_once_used_and_not_empty(services: list[ServicePort], policy: Policy) -> None:
    wanted = plan.tree(services, policy)
    declared = [chain.key for chain in wanted.chains()]
    assert len(declared) == len(set(declared))
    targets = {
        (chain.table, rule.target)
        for chain in wanted.chains()
        for rule in chain.rules
        if rule.target is not None and rule.target.startswith("KUBE-")
    } | {(jump.table, str(jump.rule.target)) for jump in wanted.jumps}
    assert targets <= set(declared)
    for chain in wanted.chains():
        if chains.is_per_service(chain.key):
            assert chain.rules
            assert chain.key in targets


@given(st.lists(_services, max_size=4, unique_by=lambda each: (each.name, each.protocol)), _policies)
def test_groups_refer_only_backwards(services: list[ServicePort], policy: Policy) -> None:
    seen = set()
    for group in plan.tree(services, policy).groups:
        seen |= {chain.key for chain in group}
        for chain in group:
            for rule in chain.rules:
                if rule.target is not None and rule.target.startswith("KUBE-"):
                    assert (chain.table, rule.target) in seen


@given(st.lists(_services, max_size=3, unique_by=lambda each: (each.name, each.protocol)), st.randoms())
def test_the_order_of_objects_does_not_matter(services: list[ServicePort], random: object) -> None:
    shuffled = list(services)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert render(plan.tree(shuffled, POLICY).chains()) == render(plan.tree(services, POLICY).chains())


def test_fragments_are_kept_until_service_or_policy_changes() -> None:
    fragments = plan.Fragments()
    one, other = service(HERE, name="a/a"), service(THERE, name="b/b")
    first = fragments.of([one, other], POLICY)
    again = fragments.of([service(HERE, name="a/a"), other], POLICY)
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True]
    changed = fragments.of([replace(one, port=81), other], POLICY)
    assert [a is b for a, b in zip(first, changed, strict=True)] == [False, True]
    policy = fragments.of([one, other], replace(POLICY, masquerade_all=True))
    assert not any(a is b for a, b in zip(first, policy, strict=True))


def test_the_node_port_jump_is_the_last_rule() -> None:
    wanted = plan.tree([KINDS["node_port"], KINDS["udp_three"]], POLICY)
    services = [chain for chain in wanted.chains() if chain.key == ("nat", "KUBE-SERVICES")]
    assert [rule.target for rule in services[0].rules][-1] == "KUBE-NODEPORTS"
