"""What `wherry proxy show` says, word by word: in sync, behind the API, after the API, and without it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from linux.iptables.rules import Family, Table
from linux.nftables.batch import Batch
from linux.nftables.elements import GOTO, Element, Verdict, joined
from linux.nftables.objects import VERDICT_TYPE, Set
from linux.nftables.ruleset import Ruleset
from linux.packets import Node
from proxy.kernel_rules import IPTABLES_NFT, NFTABLES, At, KernelRules, Source, counted
from proxy.model import Endpoint, Policy, Reach, ServicePort
from proxy.screen import print_report
from proxy.show import Report, Shown, View, compared, document, seen
from proxy.wanted import Wanted
from tests.unit.proxy.cases import CASES, DEFAULT, Subject
from tests.unit.proxy.test_trace import cluster, device
from tests.unit.proxy.tracing import snapshot
from tests.unit.proxy.worlds import WORLDS, World

GOLDEN = Path(__file__).parent / "golden"
V4, V6 = WORLDS


def wanted(world: World, services: Sequence[ServicePort]) -> Wanted:
    keyed: dict[str, tuple[ServicePort, ...]] = {}
    for service in services:
        key = service.name.partition(":")[0]
        keyed[key] = (*keyed.get(key, ()), service)
    return Wanted("node1", {world.family: keyed})


def view(world: World, services: Sequence[ServicePort], policy: Policy | None = None) -> View:
    held = snapshot(services, policy or world.policy(DEFAULT))
    counters = {
        (table, name): ((7, 420),) * len(held.lines(table, name))
        for table in (Table.NAT, Table.FILTER)
        for name in held.tables[table]
    }
    rules = KernelRules(world.family, (Source(IPTABLES_NFT, held, counters=counters),))
    return View(rules, Node(world.node_addresses, device), (world.addresses["node"],))


def text(report: Report, *, detail: bool) -> str:
    out = io.StringIO()
    print_report(report, detail=detail, to=out)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + f"\nexit {int(not report.in_sync)}\n"


def changed(services: Sequence[ServicePort]) -> list[ServicePort]:
    """As the API wants it a moment later: web has lost `there` and got another, empty is gone, near may go anywhere."""
    web, _, near, dns = services
    fresh = Endpoint.at(V4.ends["there2"][0], 9090)
    ends = replace(web.endpoints, cluster=(web.endpoints.cluster[0], fresh))
    far = replace(near, internal=Reach.CLUSTER, endpoints=replace(near.endpoints, cluster=web.endpoints.cluster))
    return [replace(web, endpoints=ends), far, dns]


def test_in_sync(golden: Callable[[Path, str], None]) -> None:
    services = cluster(V4)
    report = Report("node1", (IPTABLES_NFT,), tuple(compared(wanted(V4, services), [view(V4, services)])), True)
    golden(GOLDEN / "show-in-sync.txt", text(report, detail=False))


@pytest.mark.parametrize("detail", [False, True])
def test_out_of_sync(golden: Callable[[Path, str], None], detail: bool) -> None:
    services = cluster(V4)
    only = "default/web" if detail else ""
    found = compared(wanted(V4, changed(services)), [view(V4, services)], only)
    report = Report("node1", (IPTABLES_NFT,), tuple(found), True)
    golden(GOLDEN / f"show-out-of-sync{'-detail' if detail else ''}.txt", text(report, detail=detail))


def test_without_the_api(golden: Callable[[Path, str], None]) -> None:
    report = Report("node1", (IPTABLES_NFT,), tuple(seen([view(V4, cluster(V4))])), False, ("the API was not asked",))
    golden(GOLDEN / "show-without-api.txt", text(report, detail=False))


def test_one_service_without_the_api() -> None:
    found = seen([view(V4, cluster(V4))], "default/web")
    assert [(each.name, len(each.places)) for each in found] == [("default/web:http", 5)]


def test_json(golden: Callable[[Path, str], None]) -> None:
    services = cluster(V6)
    report = Report("node1", (IPTABLES_NFT,), tuple(compared(wanted(V6, services), [view(V6, services)])), True)
    golden(GOLDEN / "show.json", json.dumps(document(report), indent=2) + "\n")


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"v{world.family.value}")
def test_every_kind_of_service_is_in_sync_after_a_pass(world: World) -> None:
    kinds = {case.subject: case for case in CASES if case.settings.node_ports is None}
    for case in kinds.values():
        services = [world.service(case.subject)]
        for shown in compared(wanted(world, services), [view(world, services, world.policy(case.settings))]):
            assert shown.in_sync, f"{case}: {shown.words}"


@pytest.mark.parametrize("claimed", ["an external IP", "a cluster IP"])
def test_of_two_claimants_the_one_without_is_in_sync_and_says_whose_it_is(claimed: str) -> None:
    """The first by name has it, unless it is the other's cluster IP."""
    first, second = (replace(port, external_ips=(), load_balancer_ips=(), node_port=0) for port in cluster(V4)[:2])
    if claimed == "a cluster IP":
        second = replace(second, endpoints=replace(first.endpoints, cluster=first.endpoints.cluster[:1]))
        services = [replace(first, name="a/evil:http", external_ips=(second.cluster_ip,)), second]
        loser, whose = "a/evil:http", second.name
    else:
        external = (ip_address("203.0.113.77"),)
        services = [replace(first, name="b/one:http", external_ips=external), replace(second, external_ips=external)]
        services.sort(key=lambda port: port.name)
        loser, whose = services[1].name, services[0].name
    found = {each.name: each for each in compared(wanted(V4, services), [view(V4, services)])}
    assert [each.words for each in found.values() if not each.in_sync] == []
    assert [place.whose for place in found[loser].places] == ["", whose]
    report = Report("node1", (IPTABLES_NFT,), (found[loser],), True)
    assert f"another Service's: {whose}" in text(report, detail=True)
    assert found[whose].words == "in sync"


def test_a_drop_of_somebody_else_counts_against_it() -> None:
    services = cluster(V4)
    mine = view(V4, services)
    held = mine.rules.sources[0].snapshot
    assert held is not None
    chains = {**held.tables[Table.FILTER], "FORWARD": ("-d 10.180.1.2/32 -j DROP",)}
    source = Source(IPTABLES_NFT, replace(held, tables={**held.tables, Table.FILTER: chains}))
    broken = View(KernelRules(Family.V4, (source,)), mine.node, mine.node_ports_on)
    web = next(each for each in compared(wanted(V4, services), [broken]) if each.name == "default/web:http")
    assert not web.in_sync
    assert web.places[0].missing == {"10.180.1.2:8080"}


def test_a_firewall_that_admits_what_comes_through_the_nodes_interface_drops_nothing() -> None:
    services = cluster(V4)
    mine = view(V4, services)
    held = mine.rules.sources[0].snapshot
    assert held is not None
    chains = {**held.tables[Table.FILTER], "FORWARD": ("-i eth0 -j ACCEPT",)}
    firewall = replace(held, tables={**held.tables, Table.FILTER: chains}, policies={(Table.FILTER, "FORWARD"): "DROP"})
    admits = View(KernelRules(Family.V4, (Source(IPTABLES_NFT, firewall),)), mine.node, mine.node_ports_on)
    web = next(each for each in compared(wanted(V4, services), [admits]) if each.name == "default/web:http")
    assert web.words == "in sync"


@pytest.mark.parametrize(
    "ranges", [["10.180.0.0/16"], ["10.180.0.0/16", "203.0.113.0/24"], ["192.168.0.1/32"], ["0.0.0.0/0"]]
)
def test_source_ranges_of_pods_and_of_the_node_are_asked_from_as_they_are_served(ranges: list[str]) -> None:
    """To pods and the node externalTrafficPolicy Local is not for."""
    subject = Subject(ends=(("here", "ready"), ("there", "ready")), external=Reach.LOCAL)
    service = replace(V4.service(subject), source_ranges=tuple(ip_network(each) for each in ranges))
    mine = view(V4, [service])
    looking = View(mine.rules, mine.node, mine.node_ports_on, V4.pods)
    (shown,) = compared(wanted(V4, [service]), [looking])
    assert shown.words == "in sync"
    (balanced, *_) = (place for place in shown.places if place.what == "load balancer IP")
    assert len(balanced.seen) == (2 if len(ranges) == 1 and ranges != ["0.0.0.0/0"] else 1)


def test_counters_are_read_beside_the_rules() -> None:
    saved = """
*nat
:KUBE-SERVICES - [0:0]
[7:420] -A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m comment --comment "a/b:c cluster IP" -m tcp --dport 80 -j KUBE-SVC-X
[0:0] -A OTHER -j RETURN
COMMIT
"""
    plain, counters = counted(saved.splitlines())
    assert counters[Table.NAT, "KUBE-SERVICES"] == ((7, 420),)
    assert plain[3].startswith("-A KUBE-SERVICES -d")


def test_one_place_in_two_tables_counts_once_with_its_sum() -> None:
    """A Service's rule in nat, its refusal in filter; and the legacy rules, which nobody counts here."""
    services = cluster(V4)
    mine = view(V4, services)
    (source,) = mine.rules.sources
    held = source.snapshot
    assert held is not None
    at = At(services[0].cluster_ip, "tcp", services[0].port)
    refusal = f"-d {at.address}/32 -p tcp -m comment --comment default/web:http -m tcp --dport {at.port} -j REJECT"
    chains = {**held.tables[Table.FILTER], "KUBE-SERVICES": (*held.lines(Table.FILTER, "KUBE-SERVICES"), refusal)}
    counters = dict(source.counters)
    counters[Table.FILTER, "KUBE-SERVICES"] = (*counters.get((Table.FILTER, "KUBE-SERVICES"), ()), (2, 120))
    both = Source(IPTABLES_NFT, replace(held, tables={**held.tables, Table.FILTER: chains}), counters=counters)
    twice = View(KernelRules(Family.V4, (both, Source("legacy", held))), mine.node, mine.node_ports_on)

    assert counts(compared(wanted(V4, services), [twice]), at) == [(7 + 2, 420 + 120)]
    assert counts(seen([twice]), at) == [(7 + 2, 420 + 120)]


def counts(shown: Sequence[Shown], at: At) -> list[tuple[int | None, int | None]]:
    return [(place.packets, place.octets) for each in shown for place in each.places if place.at == at]


def test_stock_kube_proxys_nftables_tables_name_their_services_in_chains() -> None:
    batch = Batch(2, "kube-proxy")
    batch.add_table()
    batch.add_set(Set("service-ips", 12, data_type=VERDICT_TYPE, fields=(4, 1, 2)))
    batch.add_set(Set("service-nodeports", 8, data_type=VERDICT_TYPE, fields=(1, 2)))
    for name, key, chain in (
        (
            "service-ips",
            joined(bytes([10, 0, 0, 1]), b"\x11", b"\0\x35"),
            "service-ABCD2345-kube-system/kube-dns/udp/dns",
        ),
        ("service-nodeports", joined(b"\x06", b"\x75\x30"), "external-ABCD2345-ns1/svc-1/tcp/"),
    ):
        batch.add_elements(name, [Element(key, Verdict(GOTO, chain))])
    source = Source(NFTABLES, tables=tuple(Ruleset().take(batch.contents()).tables.values()))
    assert {(each.at, each.name) for each in source.entrances()} == {
        (At(ip_address("10.0.0.1"), "udp", 53), "kube-system/kube-dns:dns"),
        (At(None, "tcp", 30000), "ns1/svc-1"),
    }
    assert source.proxy
