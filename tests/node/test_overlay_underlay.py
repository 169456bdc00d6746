"""Which interface carries the overlay, asked of a kernel: a machine with a NAT that all its siblings have, and a real network.

eth0   10.0.2.15/24, fd00:2::15/64     the default route, as on every machine of a Vagrantfile
eth1   192.168.56.11/24, fd00:56::11/64 the network in which the machines meet
"""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from linux import links, routes, sockets
from linux import netns as namespaces
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay import underlay
from overlay.model import Address, NotYet, Underlay
from overlay.underlay import Choice
from tests.conftest import Netns

V4, V6 = Family.V4, Family.V6


class Machine:
    """In a namespace of its own; its interfaces' other ends are in it too."""

    def __init__(self, space: Netns) -> None:
        self.path = space.path
        for number, (name, four, six) in enumerate(
            (("eth0", "10.0.2.15/24", "fd00:2::15/64"), ("eth1", "192.168.56.11/24", "fd00:56::11/64"))
        ):
            self.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"far{number}")
            for address in (four, six):
                self.run("ip", "addr", "add", address, "dev", name, *(("nodad",) if ":" in address else ()))
            for end in (name, f"far{number}"):
                self.run("ip", "link", "set", end, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "route", "add", "default", "via", "10.0.2.2")
        self.run("ip", "-6", "route", "add", "default", "via", "fd00:2::2")

    def run(self, *argv: str) -> None:
        done = subprocess.run(
            namespaces.argv_in(self.path, argv), capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"

    def find(self, choice: Choice, family: Family = V4) -> Underlay:
        def ask() -> Underlay:
            with Conversation() as ip:
                return underlay.find(ip, family, choice)

        return namespaces.call(self.path, ask)

    def found(self, choice: Choice, family: Family = V4) -> tuple[str, str]:
        seen = self.find(choice, family)
        return seen.name, str(seen.address)


@pytest.fixture
def machine(netns: Callable[[str], Netns]) -> Machine:
    return Machine(netns("machine"))


def at(*texts: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))


def test_each_way_to_choose(machine: Machine) -> None:
    for choice, four, six in (
        (Choice(registry=at("192.168.56.1")), "eth1", "eth1"),
        (Choice(registry=at("fd00:56::1")), "eth1", "eth1"),
        (Choice(registry=at("8.8.8.8")), "eth0", "eth0"),
        (Choice(registry=at("192.168.56.11")), "eth1", "eth1"),  # the registry is on this machine
        (Choice(registry=at("127.0.0.1")), "eth0", "eth0"),  # only the default route is left to ask
        (Choice(registry=at("127.0.0.1"), hints=at("192.168.56.11")), "eth1", "eth1"),
        (Choice(names=("eth1",)), "eth1", "eth1"),
        (Choice(names=("eth9", "eth1")), "eth1", "eth1"),
        (Choice(names=("192.168.56.11",)), "eth1", "eth1"),
        (Choice(names=("eth9",), patterns=("eth[1-3]",)), "eth1", "eth1"),
        (Choice(patterns=(r"^192\.168",)), "eth1", "eth1"),
        (Choice(patterns=("fd00:56",)), "eth1", "eth1"),
        (Choice(reach=ip_address("192.168.56.7")), "eth1", "eth1"),
        (Choice(public=at("192.168.56.11"), registry=at("8.8.8.8")), "eth1", "eth1"),
        (Choice(public=at("203.0.113.7"), registry=at("192.168.56.1")), "eth1", "eth1"),  # behind a NAT of the cloud's
    ):
        addresses = {"eth0": ("10.0.2.15", "fd00:2::15"), "eth1": ("192.168.56.11", "fd00:56::11")}
        assert machine.found(choice) == (four, addresses[four][0]), choice
        assert machine.found(choice, V6) == (six, addresses[six][1]), choice


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice(names=("eth9",)), "--iface eth9: there is no such interface"),
        (Choice(names=("10.9.9.9",)), "--iface 10.9.9.9: no interface but loopback has this address"),
        (Choice(patterns=("wlan",)), "--iface-regex wlan: no address and no name"),
        (Choice(names=("far0",)), "interface far0 has no IPv4 address that other nodes could reach"),
    ],
)
def test_what_is_missing_is_said(machine: Machine, choice: Choice, words: str) -> None:
    with pytest.raises(NotYet, match=words):
        machine.find(choice)


def test_without_a_route_it_is_waited_for(machine: Machine) -> None:
    machine.run("ip", "route", "del", "default")
    with pytest.raises(
        NotYet, match=r"there is no route to the registry 203\.0\.113\.1; add one or name the interface"
    ):
        machine.find(Choice(registry=at("203.0.113.1")))


def test_the_overlays_own_device_carries_nothing(machine: Machine) -> None:
    machine.run("ip", "link", "set", "eth1", "alias", "wherry overlay")
    with pytest.raises(NotYet, match="eth1 is the overlay itself"):
        machine.find(Choice(registry=at("192.168.56.1")))


def test_a_family_that_the_kernel_does_not_have_has_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for IPv6 with ipv6.disable=1 it shows the rows of all families; here it is asked for one that it never has."""
    monkeypatch.setitem(links.AF, V6, 28)

    def ask() -> tuple[list[links.Address], list[routes.Route], list[links.Address]]:
        with Conversation() as ip:
            eth0 = links.link(ip, "eth0")
            assert eth0 is not None
            return links.all_addresses(ip, V6), asyncio.run(routes.routes(ip, V6)), links.addresses(ip, eth0.index, V6)

    assert namespaces.call(machine.path, ask) == ([], [], [])


def test_an_address_that_comes_beside_the_first_changes_nothing(machine: Machine) -> None:
    """The kernel lists IPv6's newest address first; and pods' addresses are nobody's underlay."""
    choice = Choice(names=("eth1",), pods=(ip_network("fd10::/48"), ip_network("10.244.0.0/16")))
    before = machine.find(choice, V6)
    machine.run("ip", "addr", "add", "fd00:56::99/64", "dev", "eth1", "nodad")
    machine.run("ip", "addr", "add", "fd10::1/64", "dev", "eth1", "nodad")
    assert machine.find(replace(choice, last={V6: before.address}), V6) == before
    machine.run("ip", "addr", "del", "fd00:56::11/64", "dev", "eth1")
    assert str(machine.find(replace(choice, last={V6: before.address}), V6).address) == "fd00:56::99"


def test_a_network_as_wide_as_the_nodes_own_may_have_them_in_it(machine: Machine) -> None:
    """flannel's README: Network 10.0.0.0/8, of which subnets are handed out from 10.10.0.0 on."""
    assert machine.found(Choice(names=("eth0",), pods=(ip_network("10.0.0.0/8"),))) == ("eth0", "10.0.2.15")
    machine.run("ip", "addr", "add", "172.16.0.9/24", "dev", "eth0")
    assert machine.found(Choice(names=("eth0",), pods=(ip_network("10.0.0.0/8"),))) == ("eth0", "172.16.0.9")


async def test_each_server_of_the_registry_counts(machine: Machine) -> None:
    """On a machine with an etcd of its own the first endpoint is loopback's, and the others lead to the real network."""
    assert await underlay.addresses_of(["http://127.0.0.1:2379", "https://[fd00:56::1]:2379", "192.168.56.12"]) == at(
        "127.0.0.1", "fd00:56::1", "192.168.56.12"
    )
    assert await underlay.addresses_of(["https://nobody.invalid:2379", "https://192.168.56.12"]) == at("192.168.56.12")
    with pytest.raises(NotYet, match=r"cannot find the address of https://nobody\.invalid"):
        await underlay.addresses_of(["https://nobody.invalid:2379"])
    assert machine.found(Choice(registry=at("127.0.0.1", "192.168.56.12"))) == ("eth1", "192.168.56.11")


def test_an_api_servers_address_that_moves_between_machines_is_no_nodes(machine: Machine) -> None:
    """keepalived's or kube-vip's: it comes here, and goes again."""
    choice = Choice(registry=at("192.168.56.100"))
    before = machine.find(choice)
    machine.run("ip", "addr", "add", "192.168.56.100/32", "dev", "eth1")
    assert machine.find(replace(choice, last={V4: before.address})) == before
    assert machine.find(replace(choice, hints=at("192.168.56.11"))) == before, "at a first start"
    assert machine.find(choice) == before, "at a first start with etcd, which knows no addresses of ours"
    machine.run("ip", "addr", "del", "192.168.56.100/32", "dev", "eth1")
    assert machine.find(replace(choice, last={V4: before.address})) == before


def test_a_services_address_says_nothing_of_the_way(machine: Machine) -> None:
    """In a Pod with a service account: the default route leads to 10.96.0.1 as to everything; the Node has an InternalIP. With
    kube-proxy in its ipvs mode each node has 10.96.0.1 itself."""
    choice = Choice(registry=at("10.96.0.1"), service=True, hints=at("192.168.56.11"))
    assert machine.found(choice) == ("eth1", "192.168.56.11")
    assert machine.found(choice, V6) == ("eth1", "fd00:56::11")
    assert machine.found(replace(choice, hints=())) == ("eth0", "10.0.2.15"), "there is nothing else to go by"
    machine.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    machine.run("ip", "addr", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
    assert machine.found(choice) == ("eth1", "192.168.56.11")


def test_an_ipv6_address_that_will_not_stay_is_not_announced(machine: Machine) -> None:
    """The kernel lists the newest first: one that is being given up, one that is for a while, one that somebody else has."""
    choice = Choice(names=("eth1",))
    machine.run(
        "ip", "addr", "add", "fd00:56::dead/64", "dev", "eth1", "nodad", "preferred_lft", "0", "valid_lft", "999"
    )
    assert machine.found(choice, V6) == ("eth1", "fd00:56::11")
    machine.run("ip", "link", "set", "far1", "down")  # nobody is asked: the address stays untried
    machine.run("ip", "addr", "add", "fd00:56::bad/64", "dev", "eth1")
    assert machine.found(choice, V6) == ("eth1", "fd00:56::11")
    machine.run("ip", "addr", "del", "fd00:56::11/64", "dev", "eth1")
    assert machine.found(choice, V6) == ("eth1", "fd00:56::dead"), "there is no other"
    assert machine.found(replace(choice, last={V6: ip_address("fd00:56::bad")}), V6) == ("eth1", "fd00:56::bad")


@contextlib.contextmanager
def _connection(source: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.socket() as server:
        server.bind((source, 0))
        server.listen()
        client = socket.create_connection(server.getsockname(), 5, (source, 0))
        accepted, _ = server.accept()
        with client, accepted:
            yield client, accepted


def test_a_connection_whose_address_has_gone_is_broken_and_no_other(machine: Machine) -> None:
    def inside() -> None:
        with _connection("192.168.56.11") as (lost, _), _connection("127.0.0.1") as (loopback, other_end):
            present = at("10.0.2.15", "127.0.0.1")
            broken = sockets.abandon([*present, ip_address("192.168.56.11")])
            assert broken == [], "every address is there"
            broken = sockets.abandon(present)
            assert any(words.startswith("from 192.168.56.11 to 192.168.56.11 port ") for words in broken)
            lost.settimeout(5)
            assert lost.recv(1) == b"", "its owner reads the end at once"
            other_end.send(b"x")
            assert loopback.recv(1) == b"x"

    namespaces.call(machine.path, inside)


def test_connections_of_other_namespaces_are_left_alone(machine: Machine) -> None:
    opened: list[socket.socket] = []
    with _connection_in(machine.path, opened):
        ours = [*socket_addresses(), ip_address("127.0.0.1")]
        assert sockets.abandon(ours) == []
        opened[0].send(b"x")
        assert opened[1].recv(1) == b"x"


def socket_addresses() -> list[Address]:
    """All of the namespace that the tests run in."""
    with Conversation() as ip:
        return [one.interface.ip for family in Family for one in links.all_addresses(ip, family)]


@contextlib.contextmanager
def _connection_in(path: str, opened: list[socket.socket]) -> Iterator[None]:
    def connect() -> None:
        server = socket.socket()
        server.bind(("192.168.56.11", 0))
        server.listen()
        client = socket.create_connection(server.getsockname(), 5)
        opened.extend((client, server.accept()[0], server))

    namespaces.call(path, connect)
    try:
        yield
    finally:
        for one in opened:
            one.close()
