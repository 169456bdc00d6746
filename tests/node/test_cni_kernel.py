"""Namespaces and rtnetlink against the kernel and against iproute2, which names things as we do."""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linux import netns as namespaces
from linux.netlink import RefusedError
from linux.rtnetlink import Address, Route, Socket, packed
from tests.conftest import Netns
from tests.requirements import requires

Spaces = Callable[[str], Netns]


@pytest.fixture
def name() -> Iterator[str]:
    requires("netns", "ip")
    chosen = f"wt-name-{os.getpid()}"
    yield chosen
    namespaces.delete(chosen)


def test_a_namespace_has_one_name_for_us_and_for_iproute2(name: str, netns: Spaces) -> None:
    made = namespaces.create(name)
    assert name in namespaces.names()
    assert name in netns("look").run("ip", "netns", "list")
    with pytest.raises(FileExistsError, match="exists already"):
        namespaces.create(name)
    assert namespaces.identity(made.path) != namespaces.identity()
    namespaces.delete(name)
    namespaces.delete(name)
    assert name not in namespaces.names()
    assert not os.path.exists(made.path)


def test_a_creator_killed_half_way_is_finished_by_the_next(name: str) -> None:
    Path(namespaces.path_of(name)).touch()
    assert name not in namespaces.names()
    assert namespaces.is_namespace(namespaces.create(name).path)


def test_a_name_iproute2_made_is_ours_to_delete(name: str, netns: Spaces) -> None:
    netns("any").run("ip", "netns", "add", name)
    assert name in namespaces.names()
    namespaces.delete(name)
    assert not os.path.exists(namespaces.path_of(name))


def test_a_socket_keeps_the_namespace_it_was_opened_in(netns: Spaces) -> None:
    there, home = netns("there"), namespaces.identity()
    with namespaces.enter(there.path):
        assert namespaces.identity() == namespaces.identity(there.path)
        inside = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    assert namespaces.identity() == home
    with inside:
        inside.bind(("127.0.0.1", 0))
        inside.listen()
        assert f":{inside.getsockname()[1]:04X}" in there.run("cat", "/proc/net/tcp")


def test_only_the_calling_thread_moves_and_it_comes_back(netns: Spaces) -> None:
    there, home = netns("there"), namespaces.identity()
    entered, leave = threading.Event(), threading.Event()
    seen: list[tuple[int, int]] = []

    def visitor() -> None:
        with contextlib.suppress(ZeroDivisionError), namespaces.enter(there.path):
            seen.append(namespaces.identity())
            entered.set()
            leave.wait(10)
            raise ZeroDivisionError
        seen.append(namespaces.identity())

    thread = threading.Thread(target=visitor)
    thread.start()
    assert entered.wait(10)
    assert namespaces.identity() == home, "this thread stayed"
    leave.set()
    thread.join()
    assert seen == [namespaces.identity(there.path), home]


def test_a_call_happens_inside_and_its_failure_comes_out(netns: Spaces) -> None:
    there, home = netns("there"), namespaces.identity()
    assert namespaces.call(there.path, namespaces.identity) == namespaces.identity(there.path)
    assert [name for _, name in namespaces.call(there.path, socket.if_nameindex)] == ["lo"]
    with pytest.raises(FileNotFoundError):
        namespaces.call(there.path, open, "/nowhere")
    assert namespaces.identity() == home


def test_links_addresses_and_routes(netns: Spaces) -> None:
    host, pod = netns("host"), netns("pod")
    with namespaces.enter(host.path):
        kernel = Socket()
    with kernel, open(pod.path, "rb") as target:
        kernel.create_bridge("br0", bytes.fromhex("0a580a4d0101"), 1450)
        bridge = kernel.link("br0")
        assert bridge is not None
        assert (bridge.kind, bridge.mac, bridge.mtu, bridge.up) == ("bridge", "0a:58:0a:4d:01:01", 1450, False)
        kernel.create_veth(
            "vethx", "eth0", netns=target.fileno(), mac=bytes.fromhex("0a580a4d0102"), mtu=1450, master=bridge.index
        )
        port = kernel.link("vethx")
        assert port is not None
        assert (port.kind, port.master, port.mtu, port.up) == ("veth", bridge.index, 1450, False)
        assert "0a:58:0a:4d:01:02" in pod.run("ip", "link", "show", "eth0")
        assert (port.hairpin, port.isolated, port.alias) == (False, False, "")
        kernel.change(port.index, hairpin=True, isolated=True, alias="of the test", up=True)
        port = kernel.link("vethx")
        assert port is not None
        assert (port.hairpin, port.isolated, port.alias, port.up) == (True, True, "of the test", True)
        assert "hairpin on" in host.run("bridge", "-d", "link", "show", "dev", "vethx")

        kernel.set_up(bridge.index)
        address = Address(packed("10.77.1.1"), 24, bridge.index)
        kernel.add_address(address, packed("10.77.1.255"))
        with pytest.raises(RefusedError, match=r"cannot add address 10\.77\.1\.1/24") as refused:
            kernel.add_address(address)
        assert refused.value.errno == errno.EEXIST
        assert "10.77.1.1/24" in [each.text for each in kernel.addresses(bridge.index)]
        kernel.add_route(Route(packed("10.9.0.0"), 16, packed("10.77.1.9"), bridge.index))
        kernel.add_route(Route(packed("0.0.0.0"), 0, packed("10.77.1.9"), bridge.index))
        found = {(each.destination, each.length, each.gateway) for each in kernel.routes(bridge.index)}
        assert (packed("10.9.0.0"), 16, packed("10.77.1.9")) in found
        assert (b"", 0, packed("10.77.1.9")) in found
        kernel.delete_address(address)
        with pytest.raises(RefusedError) as refused:
            kernel.delete_address(address)
        assert refused.value.errno == errno.EADDRNOTAVAIL
        kernel.delete_link(port.index)
        assert kernel.link("vethx") is None
        assert "eth0" not in pod.run("ip", "link")


def test_the_kernels_own_sentence_is_passed_on(netns: Spaces) -> None:
    with namespaces.enter(netns("host").path):
        kernel = Socket()
    with kernel, pytest.raises(RefusedError, match=r"cannot add the route to 10\.9\.0\.0/16 .*\(.+\)"):
        kernel.add_route(Route(packed("10.9.0.0"), 16, packed("10.77.1.9"), 1))


def test_a_failed_pair_leaves_neither_end(netns: Spaces) -> None:
    host, pod = netns("host"), netns("pod")
    pod.run("ip", "link", "add", "eth0", "type", "bridge")
    with namespaces.enter(host.path):
        kernel = Socket()
    with kernel, open(pod.path, "rb") as target:
        with pytest.raises(RefusedError) as refused:
            kernel.create_veth("vethx", "eth0", netns=target.fileno(), mac=bytes.fromhex("0a580a4d0102"))
        assert refused.value.errno == errno.EEXIST
        assert kernel.link("vethx") is None


def test_a_dump_of_many_links_is_whole(netns: Spaces) -> None:
    host = netns("host")
    with namespaces.enter(host.path):
        kernel = Socket()
    with kernel:
        for number in range(150):
            kernel.create_bridge(f"br{number}", bytes.fromhex(f"0a58000000{number:02x}"))
        assert len(kernel.links()) == 151
