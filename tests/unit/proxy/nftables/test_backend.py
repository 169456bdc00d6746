"""What nftables mode leaves in the kernel: the same bit by bit as at once, at any interruption, whoever interferes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.errors import Retry
from linux.iptables.rules import Family
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection, Failure, Refused
from linux.nftables.elements import GOTO, Element, Verdict
from linux.nftables.objects import Hook, Set, Table
from linux.nftables.tracer import trace
from linux.packets import Packet
from proxy.backend import Applied, Wish
from proxy.model import Endpoint, PodBridge, PodNetwork, Policy, Protocol, Reach, ServicePort, Usable
from proxy.nftables import kernel, names, plan
from proxy.nftables.backend import NftablesBackend
from proxy.nftables.fallback import Fallback
from proxy.nftables.layout import AFFINITY, REJECT, SERVICES, TABLE, Map, socket_family
from proxy.nftables.plan import Flat, Layout
from proxy.nftables.shadow import Shadow
from tests.fakes.nftables import FakeNftables
from tests.unit.proxy.strategies import Action, Cluster, histories

Services = Mapping[str, tuple[ServicePort, ...]]
LAYOUTS: tuple[Layout, ...] = (Flat(), Fallback())
IP = 2


def policy(family: Family = Family.V4) -> Policy:
    pods = IPv4Network("10.0.0.0/8") if family is Family.V4 else IPv6Network("fd00::/16")
    return Policy(family=family, pods=PodNetwork(pods))


def backend(fake: FakeNftables, layout: Layout | None = None, family: Family = Family.V4) -> NftablesBackend:
    return NftablesBackend(family, cast("Connection", fake), layout or Flat())


def apply(writer: NftablesBackend, services: Services, *changed: str, rules: Policy | None = None) -> Applied:
    """`changed`: none means all."""
    return asyncio.run(writer.apply(Wish(services, frozenset(changed) or None, rules or policy())))


def nothing_to_do(fake: FakeNftables, services: Services, layout: Layout, rules: Policy) -> None:
    """Who reads the kernel and compares all of it with all that is wanted finds nothing to write."""
    seen = kernel.read(cast("Connection", fake), rules.family, layout)
    assert seen.why == ""
    delta = Shadow(layout, rules).whole(services, seen, frozenset())
    assert (delta.chains, delta.sets) == ([], [])
    assert (delta.written, delta.deleted) == (0, 0), delta


def end(number: int, *, local: bool = False) -> Endpoint:
    return Endpoint.at(ip_address(f"10.0.{number >> 8}.{number & 255}"), 8080, local=local)


def port(name: str = "ns/a:http", *ends: Endpoint, ip: str = "10.96.0.1", **more: object) -> ServicePort:
    made = ServicePort(name, Protocol.TCP, ip_address(ip), 80, endpoints=Usable(ends, (), bool(ends)))
    return replace(made, **more)  # type: ignore[arg-type]


def held(fake: FakeNftables, which: Map) -> dict[bytes, Element]:
    return fake.held[IP, TABLE].elements[which.title]


# --- properties --------------------------------------------------------------------------------------------------

_moments = st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 1), st.booleans()), min_size=12, max_size=12)
"""For each action: whether a pass follows, after how many transactions it is killed, whether the proxy then starts anew."""


@settings(max_examples=40, deadline=None)
@given(histories(longest=8), _moments, st.sampled_from(Family), st.sampled_from(LAYOUTS))
def test_written_bit_by_bit_it_is_what_it_would_be_at_once(
    history: list[Action], moments: Sequence[tuple[bool, int | None, bool]], family: Family, layout: Layout
) -> None:
    cluster, fake, rules = Cluster(family), FakeNftables(), policy(family)
    writer = backend(fake, layout, family)
    changed: set[str] = set()
    for action, (passes, cut, anew) in zip(history, moments, strict=False):
        cluster.do(action)
        if not passes:
            continue
        taken = cluster.take()
        changed |= taken.changed
        fake.cut = cut
        try:
            asyncio.run(writer.apply(Wish(taken.services, frozenset(changed), rules)))
            changed = set()
        except Retry:
            pass
        fake.cut = None
        if anew:
            writer, changed = backend(fake, layout, family), changed | taken.services.keys()
    taken = cluster.take()
    asyncio.run(writer.apply(Wish(taken.services, frozenset(changed | taken.changed), rules)))
    nothing_to_do(fake, cluster.fresh(), layout, rules)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.integers(1, 40), max_size=20), min_size=1, max_size=8))
def test_endpoints_are_numbered_without_gaps_and_seldom_move(sizes: list[set[int]]) -> None:
    before: tuple[bytes, ...] = ()
    for size in sizes:
        wanted = tuple(plan.packed(end(number)) for number in sorted(size))
        after = plan.numbered(wanted, before)
        assert sorted(after) == sorted(wanted)
        moved = [one for place, one in enumerate(after) if one in before and before.index(one) != place]
        assert len(moved) <= max(0, len(before) - len(wanted))
        before = after


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_a_die_has_a_side_for_everyone_and_is_not_much_too_large(sizes: list[int]) -> None:
    sides = 0
    for size in sizes:
        sides = plan.sides(size, sides)
        assert size <= sides < 4 * size or size == sides == 0
        assert sides & (sides - 1) == 0


@pytest.mark.parametrize(
    ("sides", "members", "tolerance"), [(8, 5, 1e-6), (8, 8, 1e-9), (8, 3, 0.005), (4, 1, 0.006), (1, 1, 0)]
)
def test_the_die_is_fair_though_it_has_more_sides_than_there_are_endpoints(
    sides: int, members: int, tolerance: float
) -> None:
    name = plan.name_key(ip_address("10.96.0.1"), Protocol.TCP, 80)
    fake = FakeNftables()
    services = {"ns/a": (port("ns/a:http", *map(end, range(1, sides + 1))),)}
    writer = backend(fake)
    apply(writer, services)
    if members <= sides // 4 < sides:  # that many would get a smaller die: what is tried is the larger one
        batch = Batch(IP, TABLE)
        batch.delete_elements(
            Map.ENDPOINTS.title, [Element(name + plan.side(number)) for number in range(members, sides)]
        )
        fake.others(batch)
    else:
        services["ns/a"] = (port("ns/a:http", *map(end, range(1, members + 1))),)
        apply(writer, services, "ns/a")
    assert held(fake, Map.SERVICES_BY_IP)[name].data == Verdict(GOTO, f"cluster-{sides}")
    packet = Packet(ip_address("10.0.9.9"), ip_address("10.96.0.1"), 80)
    shares: dict[object, float] = {}
    for ending in trace(fake.ruleset(), packet, frozenset()):
        shares[ending.destination] = shares.get(ending.destination, 0) + ending.share
    assert list(shares.values()) == pytest.approx([1 / members] * members, abs=tolerance)


# --- one change --------------------------------------------------------------------------------------------------


def test_a_change_of_endpoints_is_as_many_elements() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    ends = [end(number) for number in range(1, 8)]
    services = {"ns/a": (port("ns/a:http", *ends[:5]),), "ns/b": (port("ns/b:http", *ends, ip="10.96.0.2"),)}
    assert apply(writer, services).full
    for chosen, put, gone in (
        (ends[:6], 1, 0),  # one more
        ([*ends[:5], ends[6]], 1, 1),  # one replaced
        (ends[1:5], 1, 3),  # two gone: one of those behind them moves
    ):
        services["ns/a"] = (port("ns/a:http", *chosen),)
        applied = apply(writer, services, "ns/a")
        assert (applied.full, applied.written, applied.deleted) == (False, put, gone)
        nothing_to_do(fake, services, Flat(), policy())
        assert applied.rules == {which.title: len(held(fake, which)) for which in Map}
    assert apply(writer, services, "ns/a").written == 0


def test_a_restart_writes_nothing_and_a_change_meanwhile_is_all_that_is_written() -> None:
    fake = FakeNftables()
    services = {
        f"ns/{name}": (port(f"ns/{name}:http", *map(end, range(1, 6)), ip=f"10.96.0.{name}"),) for name in range(9)
    }
    writer = backend(fake)
    apply(writer, services)
    services["ns/3"] = (port("ns/3:http", *map(end, (1, 2, 4, 5)), ip="10.96.0.3"),)
    apply(writer, services, "ns/3")
    for key in ("", "ns/4"):
        if key:
            services[key] = (port("ns/4:http", *map(end, range(1, 7)), ip="10.96.0.4"),)
        applied = apply(backend(fake), services)
        assert applied.full
        assert (applied.written, applied.deleted, applied.repaired) == (1 if key else 0, 0, ())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: type(layout).__name__.lower())
def test_names_longer_than_a_comment_are_no_difference(layout: Layout) -> None:
    name = f"{'n' * 63}/{'s' * 63}"
    services = {name: (port(f"{name}:metrics", end(1), end(2), affinity_seconds=60),)}
    fake = FakeNftables()
    apply(backend(fake, layout), services)
    nothing_to_do(fake, services, layout, policy())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: type(layout).__name__.lower())
def test_a_chain_tells_whose_it_is(layout: Layout) -> None:
    services = {"team-a/web": (port("team-a/web:http", end(1), end(2), affinity_seconds=60),)}
    fake = FakeNftables()
    apply(backend(fake, layout), services)
    own = [chain for chain in fake.held[IP, TABLE].chains if "/" in chain]
    assert {names.owner(chain) for chain in own} == {"team-a/web"}


def test_the_first_by_name_has_what_two_services_claim_and_the_other_gets_it_after() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    shared = {"external_ips": (ip_address("203.0.113.9"),), "node_port": 30080}
    services = {"ns/b": (port("ns/b:http", end(2), ip="10.96.0.2", **shared),)}
    apply(writer, services)
    key = plan.name_key(ip_address("203.0.113.9"), Protocol.TCP, 80)
    assert held(fake, Map.SERVICES_BY_IP)[key].comment == "ns/b:http"
    services["ns/a"] = (port("ns/a:http", end(1), ip="10.96.0.1", **shared),)
    apply(writer, services, "ns/a")
    assert held(fake, Map.SERVICES_BY_IP)[key].comment == "ns/a:http"
    assert held(fake, Map.ENDPOINTS)[key + plan.side(0)].data == plan.packed(end(1))
    del services["ns/a"]
    apply(writer, services, "ns/a")
    assert held(fake, Map.SERVICES_BY_IP)[key].comment == "ns/b:http"
    assert held(fake, Map.SERVICES_BY_NODEPORT)[plan.port_key(Protocol.TCP, 30080)].comment == "ns/b:http"
    nothing_to_do(fake, services, Flat(), policy())


def test_nobody_takes_a_cluster_ip_by_naming_it_as_an_external_one() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    thief = port("ns/a:http", ip="10.96.0.9", external_ips=(ip_address("10.96.0.1"),))
    services = {"ns/a": (thief,), "ns/b": (port("ns/b:http", end(1), external_ips=(ip_address("10.96.0.1"),)),)}
    apply(writer, services)
    key = plan.name_key(ip_address("10.96.0.1"), Protocol.TCP, 80)
    assert held(fake, Map.SERVICES_BY_IP)[key].comment == "ns/b:http"
    assert key not in held(fake, Map.UNSERVED_BY_IP)
    del services["ns/b"]
    apply(writer, services, "ns/b")
    assert held(fake, Map.UNSERVED_BY_IP)[key].comment == "ns/a:http"
    nothing_to_do(fake, services, Flat(), policy())


def test_another_policy_writes_chains_and_leaves_elements() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    services = {"ns/a": (port("ns/a:http", end(1), external_ips=(ip_address("203.0.113.9"),), external=Reach.LOCAL),)}
    apply(writer, services)
    before = dict(held(fake, Map.ENDPOINTS))
    changed = replace(policy(), pods=PodBridge("cbr0"))
    applied = apply(writer, services, "ns/none", rules=changed)
    assert applied.full
    assert applied.repaired == ()
    assert applied.written == 2  # services, and the chain that tells pods from others
    assert held(fake, Map.ENDPOINTS) == before
    nothing_to_do(fake, services, Flat(), changed)


def test_a_service_with_affinity_has_chains_that_go_with_it() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    services = {"ns/a": (port("ns/a:http", end(1), end(2), affinity_seconds=60),)}
    apply(writer, services)
    mine = [name for name in fake.held[IP, TABLE].chains if name.endswith("-ns/a/tcp/http")]
    assert sorted(name.split("-")[0] for name in mine) == ["affinity", "cluster"]
    apply(writer, {}, "ns/a")
    assert not [name for name in fake.held[IP, TABLE].chains if "/" in name]


def test_clients_of_an_endpoint_that_goes_are_forgotten_and_no_others() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    services = {"ns/a": (port("ns/a:http", end(1), end(2), affinity_seconds=60),)}
    apply(writer, services)
    key = plan.name_key(ip_address("10.96.0.1"), Protocol.TCP, 80)
    clients = [ip_address(f"192.0.2.{number}").packed for number in (1, 2)]
    batch = Batch(IP, TABLE)
    batch.add_elements(
        AFFINITY, [Element(client + key, plan.packed(end(number))) for number, client in enumerate(clients, 1)]
    )
    fake.others(batch)
    services["ns/a"] = (port("ns/a:http", end(2), end(3), affinity_seconds=60),)
    apply(writer, services, "ns/a")
    assert set(fake.held[IP, TABLE].elements[AFFINITY]) == {clients[1] + key}
    assert set(held(fake, Map.AFFINITY_ENDPOINTS)) == {key + plan.packed(end(number)) for number in (2, 3)}
    services["ns/a"] = (port("ns/a:http", end(2), end(3)),)
    apply(writer, services, "ns/a")
    assert fake.held[IP, TABLE].elements[AFFINITY] == {}
    assert held(fake, Map.AFFINITY_ENDPOINTS) == {}


# --- others' hands -----------------------------------------------------------------------------------------------


def _damage(kind: str) -> Batch:
    batch = Batch(IP, TABLE)
    name = plan.name_key(ip_address("10.96.0.1"), Protocol.TCP, 80)
    match kind:
        case "table":
            batch.delete_table()
        case "element":
            batch.delete_elements(Map.SERVICES_BY_IP.title, [Element(name)])
        case "set":
            batch.flush_set(Map.ENDPOINTS.title)
        case "member":
            batch.delete_elements(Map.CLUSTER_IPS.title, [Element(name[:4])])
        case "value":
            batch.delete_elements(Map.SERVICES_BY_IP.title, [Element(name)])
            batch.add_elements(Map.SERVICES_BY_IP.title, [Element(name, Verdict(GOTO, REJECT), comment="ns/a:http")])
        case "more":
            batch.add_elements(Map.ENDPOINTS.title, [Element(name + plan.side(9), plan.packed(end(9)))])
        case "rules":
            batch.flush_chain(SERVICES)
        case _:
            batch.add_rule(SERVICES, [])
    return batch


@pytest.mark.parametrize("kind", ["table", "element", "set", "member", "value", "more", "rules", "rule"])
def test_what_somebody_else_did_is_repaired_and_told(kind: str) -> None:
    fake = FakeNftables()
    writer = backend(fake)
    services = {"ns/a": (port("ns/a:http", end(1), end(2), node_port=30080),)}
    apply(writer, services)
    fake.others(_damage(kind))
    if kind != "table":  # that one the next transaction stumbles over; of the others the listener tells
        writer.doubt()
    services["ns/b"] = (port("ns/b:http", end(3), ip="10.96.0.2"),)
    applied = apply(writer, services, "ns/b")
    assert applied.full
    assert applied.repaired
    nothing_to_do(fake, services, Flat(), policy())


def test_a_stock_proxys_table_is_replaced_in_one_transaction() -> None:
    fake = FakeNftables()
    batch = Batch(IP, TABLE)
    batch.add_table(comment="rules for kube-proxy")
    batch.add_set(Set("service-ips", 12))
    batch.add_chain("nat-prerouting", Hook("nat", 0, -100))
    fake.others(batch)
    services = {"ns/a": (port("ns/a:http", end(1)),)}
    apply(backend(fake), services)
    assert fake.commits == 1
    nothing_to_do(fake, services, Flat(), policy())


def test_who_commits_between_reading_and_writing_makes_it_read_again() -> None:
    fake = FakeNftables()
    services = {"ns/a": (port("ns/a:http", end(1)),)}
    writer = backend(fake)
    apply(writer, services)
    writer.doubt()
    fake.interfere = lambda: fake.others(_damage("element"))
    apply(writer, services, "ns/none")
    nothing_to_do(fake, services, Flat(), policy())


def test_the_other_familys_commits_do_not_make_it_read_again() -> None:
    fake = FakeNftables()
    four = backend(fake)
    six = NftablesBackend(Family.V6, cast("Connection", fake), Flat())
    services = {"ns/a": (port("ns/a:http", end(1)),)}
    apply(four, services)

    def other_family() -> None:
        """A pass over the fake never waits, so it can be run within another."""
        with pytest.raises(StopIteration):
            six.apply(Wish({}, None, policy(Family.V6))).send(None)

    four.doubt()
    fake.interfere = other_family
    before = fake.readings
    services["ns/b"] = (port("ns/b:http", end(1), ip="10.96.0.2"),)
    apply(four, services, "ns/b")
    assert fake.readings == before + 2  # one of each family
    nothing_to_do(fake, services, Flat(), policy())


def test_a_service_that_the_kernel_refuses_is_left_out_and_everything_else_goes_in() -> None:
    fake = FakeNftables()
    bad = plan.name_key(ip_address("10.96.0.2"), Protocol.TCP, 80)
    fake.refuse = {bad}
    services = {f"ns/{name}": (port(f"ns/{name}:http", end(1), ip=f"10.96.0.{name}"),) for name in (1, 2, 3)}
    writer = backend(fake)
    applied = apply(writer, services)
    assert list(applied.refused) == ["ns/2:http"]
    assert {element.comment for element in held(fake, Map.SERVICES_BY_IP).values()} == {"ns/1:http", "ns/3:http"}
    services["ns/4"] = (port("ns/4:http", end(1), ip="10.96.0.4"),)
    assert list(apply(writer, services, "ns/4").refused) == ["ns/2:http"]
    fake.refuse = set()
    assert apply(writer, services, "ns/2").refused == {}
    nothing_to_do(fake, services, Flat(), policy())


def test_forgetting_leaves_no_table_and_twice_is_no_more() -> None:
    fake = FakeNftables()
    writer = backend(fake)
    apply(writer, {"ns/a": (port("ns/a:http", end(1)),)})
    assert asyncio.run(writer.forget()) > 10
    assert asyncio.run(writer.forget()) == 0
    assert fake.held == {}


def test_a_kernel_without_nf_tables_has_nothing_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNftables()

    def unknown(family: int) -> list[Table]:
        raise Refused((Failure(errno.EINVAL, f"list the tables of {family}"),))

    monkeypatch.setattr(fake, "tables", unknown)
    assert asyncio.run(backend(fake).forget()) == 0


def test_families_have_tables_of_their_own() -> None:
    assert [socket_family(family) for family in Family] == [2, 10]
    assert IPv6Network("fd00::/16") == ip_network("fd00::/16")
