"""Stale UDP flows against the kernel's own table: the right ones go, whatever else there is, in both families."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from linux import conntrack, netns
from linux.iptables.rules import Family
from proxy.conntrack import Flows
from proxy.model import Endpoint, Protocol, ServicePort, Usable
from tests.node.packet_client import Flow
from tests.node.proxy_world import Cluster, Kernel, until
from tests.node.service_world import HERE, POD, Make
from tests.requirements import requires

FLOWS = 10_000
PORT = 8053
ADDRESSES = {
    4: {"vip": "10.96.0.10", "other": "10.96.0.11", "sender": "10.244.0.9", "live": "10.244.1.2", "dead": "10.244.1.3"},
    6: {"vip": "fd00::10", "other": "fd00::11", "sender": "fd01::9", "live": "fd01::1:2", "dead": "fd01::1:3"},
}


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def tuple_(kind: int, source: tuple[str, int], to: tuple[str, int], protocol: int) -> bytes:
    ends = [(ip_address(address).packed, port.to_bytes(2, "big")) for address, port in (source, to)]
    first = 1 if len(ends[0][0]) == 4 else 3
    ip = attribute(first, ends[0][0]) + attribute(first + 1, ends[1][0])
    ports = attribute(1, bytes([protocol])) + attribute(2, ends[0][1]) + attribute(3, ends[1][1])
    return attribute(kind | 0x8000, attribute(0x8001, ip) + attribute(0x8002, ports))


class Table:
    """The flows of this thread's namespace, made and counted without the code that is tried."""

    def __init__(self, version: int) -> None:
        self._family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
        self._at = ADDRESSES[version]
        self._requests: list[bytes] = []

    def add(
        self,
        number: int,
        to: str,
        answers: str,
        *,
        port: int = 53,
        answers_port: int = PORT,
        protocol: int = socket.IPPROTO_UDP,
    ) -> None:
        sender = (self._at["sender"], number)
        wanted = (self._at.get(to, to), port)
        body = tuple_(1, sender, wanted, protocol) + tuple_(
            2, (self._at.get(answers, answers), answers_port), sender, protocol
        )
        body += attribute(3, struct.pack(">I", 8)) + attribute(7, struct.pack(">I", 600))  # confirmed; ten minutes
        if protocol == socket.IPPROTO_TCP:
            body += attribute(4 | 0x8000, attribute(1 | 0x8000, attribute(1, b"\x03")))  # established
        head = struct.pack("=IHHIIBBH", 20 + len(body), 0x100, 0x605, number, 0, self._family, 0, 0)
        self._requests.append(head + body)

    def write(self) -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:
            for start in range(0, len(self._requests), 50):
                some = self._requests[start : start + 50]
                kernel.send(b"".join(some))
                for _ in some:
                    answer = kernel.recv(1 << 16)
                    assert struct.unpack_from("=i", answer, 16) == (0,), "the flow was made"
        self._requests.clear()

    def counted(self) -> Counter[tuple[str, int, str, int]]:
        """How many flows go where, and who answers, by the names of ADDRESSES."""
        names = {address: name for name, address in self._at.items()}
        found: Counter[tuple[str, int, str, int]] = Counter()
        with conntrack.Conntrack({socket.AF_INET: 4, socket.AF_INET6: 6}[self._family]) as kernel:
            for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
                for flow in kernel.flows(protocol, lambda _to, _answers: True):
                    pair = [(str(ip_address(end[:-2])), int.from_bytes(end[-2:], "big")) for end in flow[:2]]
                    ends = [(names.get(address, address), port) for address, port in pair]
                    found[*ends[0], *ends[1]] += 1
        return found


def service(version: int, *answering: str, node_port: int = 0) -> dict[str, tuple[ServicePort, ...]]:
    at = ADDRESSES[version]
    ends = tuple(Endpoint.at(ip_address(at[name]), PORT) for name in answering)
    port = ServicePort(
        "kube-system/dns:dns",
        Protocol.UDP,
        ip_address(at["vip"]),
        53,
        node_port=node_port,
        endpoints=Usable(ends, any=bool(ends)),
    )
    return {"kube-system/dns": (port,)}


@pytest.fixture
def namespace(netns: Make) -> Iterator[None]:
    requires("netns")
    with kernel_netns_entered(netns):
        yield


def kernel_netns_entered(make: Make) -> netns.enter:
    space = make("flows")
    space.run("ip", "link", "set", "lo", "up")
    return netns.enter(space.path)


@pytest.mark.parametrize("version", [4, 6])
def test_ten_thousand_flows_of_a_dead_endpoint_go_and_all_others_stay(namespace: None, version: int) -> None:
    table = Table(version)
    for number in range(1, FLOWS + 1):
        table.add(number, "vip", "dead")
    for number in range(20_001, 20_501):
        table.add(number, "vip", "live")
        table.add(number + 1000, "other", "dead")
        table.add(number + 2000, "vip", "dead", port=54)
        table.add(number, "vip", "dead", protocol=socket.IPPROTO_TCP)
    table.add(30_001, "vip", "live", answers_port=PORT + 1)
    table.write()
    flows = Flows(Family(version))
    flows.note(service(version, "live"), None)
    assert asyncio.run(flows.clean(())) == FLOWS + 1
    assert table.counted() == {
        ("vip", 53, "live", PORT): 500,
        ("other", 53, "dead", PORT): 500,
        ("vip", 54, "dead", PORT): 500,
        ("vip", 53, "dead", PORT): 500,  # TCP
    }
    assert not flows.due


@pytest.mark.parametrize("version", [4, 6])
def test_the_last_endpoint_and_the_service_itself_go(namespace: None, version: int) -> None:
    table = Table(version)
    table.add(1, "vip", "live")
    table.add(2, "vip", "dead")
    table.write()
    flows = Flows(Family(version))
    flows.note(service(version, "live", "dead"), None)
    assert asyncio.run(flows.clean(())) == 0
    flows.note(service(version, "dead"), {"kube-system/dns"})
    assert asyncio.run(flows.clean(())) == 1
    flows.note(service(version), {"kube-system/dns"})
    assert asyncio.run(flows.clean(())) == 1
    table.add(3, "vip", "live")
    table.write()
    flows.note(service(version, "live"), {"kube-system/dns"})
    assert asyncio.run(flows.clean(())) == 0
    table.add(4, "vip", "vip", answers_port=53)  # nobody's: not rewritten at all
    table.write()
    flows.note({}, {"kube-system/dns"})
    assert asyncio.run(flows.clean(())) == 1
    assert table.counted() == {("vip", 53, "vip", 53): 1}


def test_a_kernel_that_cannot_leave_out_what_is_not_wanted(namespace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "_BY_PROTOCOL", 1 << 30)  # a flag that there is not
    table = Table(4)
    table.add(1, "vip", "dead")
    table.add(2, "other", "dead")
    table.write()
    flows = Flows(Family.V4)
    flows.note(service(4, "live"), None)
    assert asyncio.run(flows.clean(())) == 1
    assert table.counted() == {("other", 53, "dead", PORT): 1}


@pytest.mark.parametrize("version", [4, 6])
def test_node_ports_of_this_nodes_own_addresses(namespace: None, version: int) -> None:
    here, elsewhere = ("127.0.0.1", "192.0.2.1") if version == 4 else ("::1", "2001:db8::1")
    table = Table(version)
    for number, to in enumerate((here, elsewhere), 1):
        table.add(number, to, "dead", port=30053)
        table.add(number + 10, to, "live", port=30053)
        table.add(number + 20, to, "dead", port=30054)
    table.write()
    flows = Flows(Family(version))
    flows.note(service(version, "live", node_port=30053), None)
    assert asyncio.run(flows.clean(None)) == 1
    assert (here, 30053, "dead", PORT) not in table.counted()
    assert sum(table.counted().values()) == 5


def test_a_flow_that_began_while_the_rules_were_gone_is_led_by_them_again(cluster: Cluster) -> None:
    """(In nftables mode it cannot begin: what no Service has is refused.)"""
    proxy = cluster.start_proxy(kernel=Kernel.IPTABLES_NFT).ready()
    cluster.make_service("dns", "172.30.0.41", HERE, protocol="UDP")
    early, late = (
        cluster.flow(POD, "172.30.0.41", 80, protocol="udp", source_port=number, timeout=0.2) for number in (5353, 5354)
    )

    def answers(flow: Flow) -> str:
        return next(iter(cluster.ask_all([flow])[0])).split(":")[0]

    until(lambda: answers(early) == HERE, "the Service is reached")
    os.kill(proxy.pid, signal.SIGSTOP)
    try:
        cluster.world.node.run("iptables-nft", "-t", "nat", "-F", "KUBE-SERVICES")
        assert answers(late) == "silence"
    finally:
        os.kill(proxy.pid, signal.SIGCONT)
    until(lambda: answers(late) == HERE, "a sender that keeps its port is led by the rules that are back")
    assert answers(early) == HERE
