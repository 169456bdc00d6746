"""flannel's issue 1279 with packets that are really broken: a network card that leaves checksums inside the tunnel unset.

Pings pass such a card and TCP does not, until the daemon has found out. A whole card and a firewall change nothing.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from linux import ethtool, netns
from tests.node.overlay_etcd_world import CONFIG, DUAL, EtcdWorld
from tests.node.overlay_world import OverlayNode, until
from tests.requirements import requires

SIZE = 300_000
DEVICES = {4: "flannel.1", 6: "flannel-v6.1"}
LABELS = {version: f'wherry_overlay_checksum_offload_disabled{{ip_family="IPv{version}"}}' for version in DEVICES}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., EtcdWorld]]:
    requires("netns", "nsenter", "ip", "etcd", "etcdctl", "iptables-nft-restore")
    with contextlib.ExitStack() as stack:

        def made(conf: object, card: str) -> EtcdWorld:
            world = EtcdWorld(tmp_path, conf, card=card)  # type: ignore[arg-type]
            stack.callback(world.close)
            return world

        yield made


def transferred(one: OverlayNode, other: OverlayNode, version: int = 4, seconds: float = 20.0) -> bool:
    """Whether a pod of `one` gets bytes to a pod of `other` over TCP, and their echo back."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with netns.enter(other.pod.path):
        listener = socket.create_server(("", 0), family=family)
    with netns.enter(one.pod.path):
        client = socket.socket(family, socket.SOCK_STREAM)
    port = listener.getsockname()[1]

    def serve() -> None:
        with contextlib.suppress(OSError):
            listener.settimeout(seconds)
            with listener.accept()[0] as peer:
                while data := peer.recv(1 << 16):
                    peer.sendall(data)

    server = threading.Thread(target=serve)
    server.start()
    try:
        client.settimeout(seconds)
        client.connect((other.pod_of(version), port))

        def send() -> None:
            client.sendall(bytes(SIZE))
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = 0
        while data := client.recv(1 << 16):
            got += len(data)
        sender.join()
    except OSError:
        return False
    else:
        return got == SIZE
    finally:
        client.close()
        listener.close()
        server.join()


def offloads(node: OverlayNode, version: int = 4) -> bool:
    return netns.call(node.space.path, ethtool.tx_checksum, DEVICES[version])


def test_a_card_that_breaks_checksums_is_found_out(make: Callable[..., EtcdWorld]) -> None:
    world = make(DUAL, "broken").start_daemons()  # pings pass: the world is up
    one, two = world.nodes
    for version in (4, 6):
        until(lambda v=version: one.metric(LABELS[v]) == 1, f"IPv{version} switched", 20, one.text)  # type: ignore[misc]
        assert not offloads(one, version)
        assert transferred(one, two, version)
    assert "wrong checksums: flannel.1 computes them itself" in one.text()
    # node2's own card is whole
    assert two.metric(LABELS[4]) == 0
    assert offloads(two)

    # the fault again, as it was before: so it is the switch that mends it
    netns.call(one.space.path, ethtool.set_tx_checksum, "flannel.1", True)
    until(lambda: not offloads(one), "switched off again", 10, one.text)
    one.space.run("ip", "link", "del", "flannel.1")
    world.until_all_reach()
    until(lambda: not offloads(one), "the new device computes them too", 10, one.text)
    assert transferred(one, two)

    one.stop()
    one.start()
    one.ready()
    until(lambda: one.metric(LABELS[4]) == 1, "still so after a restart", 10, one.text)
    assert not offloads(one)
    one.stop()
    netns.call(one.space.path, ethtool.set_tx_checksum, "flannel.1", True)
    assert not transferred(one, two, seconds=2), "without the daemon nothing passes: the fault is real"


def test_a_firewall_says_nothing_and_a_whole_card_is_left_alone(make: Callable[..., EtcdWorld]) -> None:
    world = make(CONFIG, "whole")
    one, two = world.nodes
    firewall = ("INPUT", "-p", "udp", "-s", "10.5.0.0/16", "-j", "DROP")
    two.space.run("iptables-nft", "-A", *firewall)
    world.start_daemons()
    until(lambda: "whether checksums arrive right is not known" in one.text(), "the probe's end", 20, one.text)
    assert offloads(one)
    assert one.metric(LABELS[4]) == 0
    assert one.text().count("checksums arrive right is not known") == 1

    two.space.run("iptables-nft", "-D", *firewall)
    one.stop()
    one.start()
    one.ready()
    until(lambda: "what is sent arrives whole" in one.text(), "the next probe's end", 20, one.text)
    assert offloads(one)
    assert one.metric(LABELS[4]) == 0
    assert transferred(one, two)
