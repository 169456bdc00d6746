"""nftables mode in a real kernel: the fake tells the truth, histories end where they should, others' hands are undone within a
second, and people can list what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kube.errors import Retry
from linux import netns as kernel_netns
from linux.iptables.rules import Family
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection
from linux.nftables.elements import Element
from proxy.backend import Wish
from proxy.model import Endpoint, Protocol, Reach, ServicePort, Usable
from proxy.nftables import kernel, plan
from proxy.nftables.backend import NftablesBackend, forget_all
from proxy.nftables.fallback import Fallback
from proxy.nftables.layout import AFFINITY, TABLE, Map, socket_family
from proxy.nftables.plan import Flat, Layout
from proxy.nftables.shadow import Seen
from tests.conftest import Netns
from tests.fakes.nftables import FakeNftables
from tests.requirements import requires
from tests.unit.proxy.nftables.test_backend import nothing_to_do, policy
from tests.unit.proxy.strategies import Action, Cluster, histories

requires("root", "netns", "nsenter", "nft")

IP = socket_family(Family.V4)
LAYOUTS: tuple[Layout, ...] = (Flat(), Fallback())


@pytest.fixture
def space(netns: Callable[[str], Netns]) -> Netns:
    return netns("proxy")


@pytest.fixture
def connection(space: Netns) -> Iterator[Connection]:
    with kernel_netns.enter(space.path):
        opened = Connection()
    with opened:
        yield opened


def ends(*numbers: int) -> Usable:
    found = tuple(
        Endpoint.at(ip_address(f"10.244.{number % 2}.{number}"), 8080, local=number % 2 == 0) for number in numbers
    )
    return Usable(found, tuple(end for end in found if end.local), True)


def every_kind() -> dict[str, tuple[ServicePort, ...]]:
    """A Service for every sort of rule."""
    plain = ServicePort("ns/plain:http", Protocol.TCP, ip_address("10.96.0.1"), 80, endpoints=ends(1, 2, 3))
    open_ = replace(
        plain,
        name="ns/open:http",
        cluster_ip=ip_address("10.96.0.2"),
        node_port=30080,
        external_ips=(ip_address("203.0.113.1"),),
        load_balancer_ips=(ip_address("203.0.113.2"),),
        source_ranges=(ip_network("198.51.100.0/24"), ip_network("192.0.2.0/25"), ip_network("192.0.2.128/25")),
    )
    local = replace(
        open_,
        name="ns/local:http",
        cluster_ip=ip_address("10.96.0.3"),
        node_port=30081,
        external_ips=(ip_address("203.0.113.3"),),
        load_balancer_ips=(ip_address("203.0.113.4"),),
        external=Reach.LOCAL,
        internal=Reach.LOCAL,
        affinity_seconds=90,
        protocol=Protocol.SCTP,
    )
    empty = replace(
        plain, name="ns/empty:http", cluster_ip=ip_address("10.96.0.4"), node_port=30082, endpoints=Usable()
    )
    return {port.name.partition(":")[0]: (port,) for port in (plain, open_, local, empty)}


# --- what is held ------------------------------------------------------------------------------------------------

_steps = st.lists(st.booleans(), min_size=12, max_size=12)


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=histories(longest=8), passes=_steps, family=st.sampled_from(Family), layout=st.sampled_from(LAYOUTS))
def test_the_kernel_ends_where_the_fake_ends_and_nothing_is_left_to_do(
    connection: Connection, history: list[Action], passes: list[bool], family: Family, layout: Layout
) -> None:
    asyncio.run(forget_in(connection, family))
    fake = FakeNftables()
    writers = [NftablesBackend(family, each, layout) for each in (cast("Connection", fake), connection)]
    cluster, rules = Cluster(family), policy(family)
    changed: set[str] = set()
    for position, action in enumerate(history):
        cluster.do(action)
        if not passes[position % len(passes)] and position < len(history) - 1:
            continue
        taken = cluster.take()
        changed |= taken.changed
        for writer in writers:
            asyncio.run(writer.apply(Wish(taken.services, frozenset(changed), rules)))
        changed = set()
        assert seen(connection, family, layout) == seen(cast("Connection", fake), family, layout)
    nothing_to_do(cast("FakeNftables", connection), cluster.fresh(), layout, rules)


def seen(connection: Connection, family: Family, layout: Layout) -> Seen:
    return kernel.read(connection, family, layout)


async def forget_in(connection: Connection, family: Family) -> int:
    return await NftablesBackend(family, connection, Flat()).forget()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: type(layout).__name__.lower())
def test_people_can_list_it_as_text_and_json_and_find_the_services(
    space: Netns, connection: Connection, layout: Layout
) -> None:
    asyncio.run(NftablesBackend(Family.V4, connection, layout).apply(Wish(every_kind(), None, policy())))
    text = space.run("nft", "list", "ruleset")
    for name in every_kind():
        assert f'comment "{name}:http"' in text
    assert "[invalid type]" not in text.replace("map @affinity", "").split("chain cluster-4 {")[-1].split("}")[0]
    json.loads(space.run("nft", "-j", "list", "ruleset"))


def test_a_stock_table_is_taken_over_and_forgetting_leaves_others_alone(space: Netns, connection: Connection) -> None:
    space.run("nft", 'add table ip kube-proxy { comment "rules for kube-proxy"; }; add chain ip kube-proxy services')
    space.run("nft", "add table ip other; add chain ip other kube-proxy { type filter hook input priority 0; }")
    others = space.run("nft", "list", "table", "ip", "other")
    writer = NftablesBackend(Family.V4, connection, Flat())
    asyncio.run(writer.apply(Wish(every_kind(), None, policy())))
    nothing_to_do(cast("FakeNftables", connection), every_kind(), Flat(), policy())

    def all_forgotten() -> int:
        return asyncio.run(forget_all(Family))

    assert kernel_netns.call(space.path, all_forgotten) > 20
    assert kernel_netns.call(space.path, all_forgotten) == 0
    assert space.run("nft", "list", "ruleset") == others


STOCK = """add table ip kube-proxy {{ comment "rules for kube-proxy"; }}
{bases}
add set ip kube-proxy cluster-ips {{ type ipv4_addr; comment "Active ClusterIPs"; }}
add set ip kube-proxy nodeport-ips {{ type ipv4_addr; comment "IPs that accept NodePort traffic"; }}
add map ip kube-proxy no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
add map ip kube-proxy no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
add map ip kube-proxy firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
add map ip kube-proxy service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
add map ip kube-proxy service-nodeports {{ type inet_proto . inet_service : verdict; }}
add set ip kube-proxy hairpin-connections {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
{chains}
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
"""
STOCK_BASES = {
    "filter-prerouting-pre-dnat": "filter hook prerouting priority -110",
    "filter-output-pre-dnat": "filter hook output priority -110",
    "filter-input": "filter hook input priority 0",
    "filter-forward": "filter hook forward priority 0",
    "filter-output": "filter hook output priority 0",
    "nat-prerouting": "nat hook prerouting priority -100",
    "nat-output": "nat hook output priority -100",
    "nat-postrouting": "nat hook postrouting priority 100",
}
STOCK_CHAINS = (
    "services",
    "masquerading",
    "reject-chain",
    "firewall-check",
    "service-endpoints-check",
    "nodeport-endpoints-check",
    "cluster-ips-check",
)


def stock() -> str:
    """How a stock proxy sets its table up, over whatever is there."""
    bases = [
        f"add chain ip kube-proxy {name} {{ type {hook}; }}\nflush chain ip kube-proxy {name}"
        for name, hook in STOCK_BASES.items()
    ]
    chains = [f"add chain ip kube-proxy {name}\nflush chain ip kube-proxy {name}" for name in STOCK_CHAINS]
    return STOCK.format(bases="\n".join(bases), chains="\n".join(chains))


def test_a_stock_proxy_can_set_itself_up_over_ours_and_we_over_it(space: Netns, connection: Connection) -> None:
    writer = NftablesBackend(Family.V4, connection, Flat())
    asyncio.run(writer.apply(Wish(every_kind(), None, policy())))
    space.run("nft", "-f", "-", stdin=stock())
    again = NftablesBackend(Family.V4, connection, Flat())
    asyncio.run(again.apply(Wish(every_kind(), None, policy())))
    nothing_to_do(cast("FakeNftables", connection), every_kind(), Flat(), policy())
    assert "service-ips" not in space.run("nft", "list", "table", "ip", TABLE)


def test_clients_stay_where_they_are_through_a_restart_and_a_change_of_the_service(connection: Connection) -> None:
    services = every_kind()
    port = services["ns/local"][0]
    asyncio.run(NftablesBackend(Family.V4, connection, Flat()).apply(Wish(services, None, policy())))
    key = plan.name_key(port.cluster_ip, port.protocol, port.port)
    batch = Batch(IP, TABLE)
    stays, goes = (
        Element(ip_address(f"192.0.2.{number}").packed + key, plan.packed(end))
        for number, end in ((1, port.endpoints.cluster[0]), (2, port.endpoints.cluster[1]))
    )
    batch.add_elements(AFFINITY, [stays._replace(timeout=90_000), goes._replace(timeout=90_000)])
    connection.commit(batch)
    again = NftablesBackend(Family.V4, connection, Flat())
    assert asyncio.run(again.apply(Wish(services, None, policy()))).written == 0
    assert clients(connection) == {stays.key, goes.key}
    services["ns/local"] = (replace(port, endpoints=ends(1, 3, 4), affinity_seconds=120),)
    asyncio.run(again.apply(Wish(services, frozenset(["ns/local"]), policy())))
    assert clients(connection) == {stays.key}


async def test_clients_that_fade_while_they_are_forgotten_hold_up_nothing(connection: Connection, space: Netns) -> None:
    """Thousands a second fade: a deletion of all at once would be refused again and again."""
    port = replace(every_kind()["ns/plain"][0], affinity_seconds=90)
    services = {"ns/plain": (port,)}
    with kernel_netns.enter(space.path):
        writer = NftablesBackend(Family.V4, connection, Flat(), Connection())
    await writer.apply(Wish(services, None, policy()))
    key = plan.name_key(port.cluster_ip, port.protocol, port.port)
    here, gone = (plan.packed(end) for end in port.endpoints.cluster[:2])
    fill = Batch(IP, TABLE)
    fill.add_elements(
        AFFINITY,
        (
            Element(
                number.to_bytes(4, "big") + key,
                here if number % 2 else gone,
                timeout=90_000 if number < 2000 else number % 2000 + 1,
            )
            for number in range(10_000)
        ),
    )
    connection.commit(fill)
    services["ns/plain"] = (replace(port, endpoints=ends(1, 3)),)
    with kernel_netns.enter(space.path):
        watching = writer.watching(lambda: None)
    async with watching:
        await writer.apply(Wish(services, frozenset(services), policy()))
        deadline = time.monotonic() + 20
        while any(found.element.data == gone for found in connection.elements(IP, TABLE, AFFINITY)):
            assert time.monotonic() < deadline, "clients are kept on an endpoint that is gone"
            await asyncio.sleep(0.01)
    assert sum(int.from_bytes(client[:4], "big") < 2000 for client in clients(connection)) == 1000
    writer.close()


def test_a_udp_flow_that_outlives_its_endpoint_does_not_bring_it_back(space: Netns, connection: Connection) -> None:
    """A sender that hears nothing and keeps its port stays in conntrack's hands until its flow is deleted; each of its packets
    is new, but where they go must not be remembered any more."""
    for address in ("192.168.0.1", "10.244.1.1", "10.244.1.3"):
        space.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    space.run("ip", "route", "add", "10.96.0.0/16", "dev", "lo", "src", "192.168.0.1")
    port = replace(every_kind()["ns/plain"][0], protocol=Protocol.UDP, affinity_seconds=90)
    writer = NftablesBackend(Family.V4, connection, Flat())

    def served_by(number: int) -> None:
        wish = Wish({"ns/a": (replace(port, endpoints=ends(number)),)}, frozenset(["ns/a"]), policy())
        asyncio.run(writer.apply(wish))

    def remembered() -> list[object]:
        return [found.element.data for found in connection.elements(IP, TABLE, AFFINITY)]

    with kernel_netns.enter(space.path):
        listening = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
        senders = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for each in (*listening, *senders):
            stack.enter_context(each)
        for each, address in zip(listening, ("10.244.1.1", "10.244.1.3"), strict=True):
            each.bind((address, 8080))
            each.settimeout(5)
        for number, server, sender in ((1, listening[0], senders[0]), (3, listening[1], senders[1])):
            served_by(number)
            senders[0].sendto(b"?", ("10.96.0.1", 80))
            assert listening[0].recv(10) == b"?"
            assert remembered() == ([plan.packed(ends(1).cluster[0])] if number == 1 else [])
            sender.sendto(b"!", ("10.96.0.1", 80))
            assert server.recv(10) == b"!"
        assert remembered() == [plan.packed(ends(3).cluster[0])]


def clients(connection: Connection) -> set[bytes]:
    return {found.element.key for found in connection.elements(IP, TABLE, AFFINITY)}


# --- others' hands -----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def kept(writer: NftablesBackend, wish: Wish) -> AsyncIterator[list[float]]:
    """A pass at the start and after each foreign change, as the daemon does it; when each of them ended."""
    woken = asyncio.Event()
    ended: list[float] = []

    async def keep() -> None:
        while True:
            await woken.wait()
            woken.clear()
            with contextlib.suppress(Retry):
                await writer.apply(wish)
                ended.append(time.monotonic())

    async with writer.watching(woken.set), asyncio.TaskGroup() as group:
        woken.set()
        keeping = group.create_task(keep())
        while not ended:
            await asyncio.sleep(0.01)
        try:
            yield ended
        finally:
            keeping.cancel()
            writer.close()


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table ip kube-proxy",
        "flush chain ip kube-proxy services",
        "add rule ip kube-proxy nat-prerouting accept",
        "delete element ip kube-proxy services-by-ip { 10.96.0.1 . tcp . 80 }",
        "flush map ip kube-proxy endpoints",
        "add element ip kube-proxy cluster-ips { 1.2.3.4 }",
    ],
)
def test_what_somebody_else_does_is_undone_within_a_second(space: Netns, command: str) -> None:
    wish = Wish(every_kind(), frozenset(), policy())

    async def scenario() -> float:
        writer = NftablesBackend(Family.V4, Connection(), Flat())
        async with kept(writer, wish) as ended:
            begun = len(ended)
            at = time.monotonic()
            await asyncio.to_thread(space.run, "nft", command)
            while len(ended) == begun:
                assert time.monotonic() - at < 5, "not noticed"
                await asyncio.sleep(0.005)
            return ended[begun] - at

    def inside() -> float:
        return asyncio.run(scenario())

    assert kernel_netns.call(space.path, inside) < 1
    with kernel_netns.enter(space.path), Connection() as connection:
        nothing_to_do(cast("FakeNftables", connection), every_kind(), Flat(), policy())


@pytest.mark.parametrize(
    "commands",
    [
        "delete chain ip kube-proxy nat-prerouting",
        "delete chain ip kube-proxy filter-input; add chain ip kube-proxy filter-input {type filter hook input priority 5;}",
        "delete chain ip kube-proxy nat-output; add chain ip kube-proxy nat-output",
        "add table ip kube-proxy { flags dormant; }",
        "replace rule ip kube-proxy services handle {last} counter drop",
    ],
)
def test_what_is_hard_to_see_or_to_undo_is_repaired_and_told(
    space: Netns, connection: Connection, commands: str
) -> None:
    writer = NftablesBackend(Family.V4, connection, Flat())
    asyncio.run(writer.apply(Wish(every_kind(), None, policy())))
    handles = [rule.handle for rule in connection.rules(IP, TABLE, "services")]
    space.run("nft", commands.replace("{last}", str(handles[-1])))
    writer.doubt()
    assert asyncio.run(writer.apply(Wish(every_kind(), frozenset(), policy()))).repaired
    nothing_to_do(cast("FakeNftables", connection), every_kind(), Flat(), policy())
    assert "dormant" not in space.run("nft", "list", "table", "ip", TABLE)


def test_our_own_transactions_large_and_small_do_not_wake_us(space: Netns) -> None:
    """Two families write at once and each hears the other's commits."""
    many = {
        f"ns/{number}": (
            ServicePort(
                f"ns/{number}",
                Protocol.TCP,
                ip_address(f"10.96.{number >> 8}.{number & 255}"),
                80,
                endpoints=ends(1, 2),
            ),
        )
        for number in range(1500)
    }

    async def scenario() -> list[int]:
        counts: list[int] = []
        writers = [NftablesBackend(family, Connection(), Flat()) for family in Family]
        wishes = [Wish(many, frozenset(), policy()), Wish({}, frozenset(), policy(Family.V6))]
        async with kept(writers[0], wishes[0]) as first, kept(writers[1], wishes[1]) as second:
            for _ in range(20):
                await asyncio.sleep(0.01)  # the silence that is being tried
            counts.extend((len(first), len(second)))
        return counts

    def inside() -> list[int]:
        return asyncio.run(scenario())

    assert kernel_netns.call(space.path, inside) == [1, 1]


def test_the_maps_are_known_to_nft_by_their_types(space: Netns, connection: Connection) -> None:
    asyncio.run(NftablesBackend(Family.V4, connection, Flat()).apply(Wish(every_kind(), None, policy())))
    listed = space.run("nft", "list", "map", "ip", TABLE, Map.SERVICES_BY_IP.title)
    assert "type ipv4_addr . inet_proto . inet_service : verdict" in listed
    assert "10.96.0.1 . tcp . 80 counter packets 0 bytes 0" in listed
    space.run("nft", "get", "element", "ip", TABLE, Map.ENDPOINTS.title, "{ 10.96.0.1 . tcp . 80 . 0 }")
