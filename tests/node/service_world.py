"""A node in a network namespace, its pods and its neighbours in others, and real connections between them.

    pods 10.244.0.2 ... --veth-- node (192.168.0.1) --veth-- outside (192.168.0.7, and the pod 10.244.1.2 of another node)

Pods hang on routed veths: each has the node as its gateway. Every server answers with its own name and the source address
it saw, so that a test can tell who answered and whether the address was replaced. Ports: 8080 TCP and UDP.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from linux import netns as kernel_netns
from tests.conftest import Netns

NODE, OUTSIDER, REMOTE_POD = "192.168.0.1", "192.168.0.7", "10.244.1.2"
POD_GATEWAY = "169.254.1.1"
PORT = 8080
Make = Callable[[str], Netns]


class Echo:
    """TCP and UDP on one address: who I am and whom I saw."""

    def __init__(self, space: Netns, name: str, address: str) -> None:
        self._name = name
        with kernel_netns.enter(space.path):
            self._tcp = socket.create_server((address, PORT), backlog=256)
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._udp.bind((address, PORT))
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"echo {name}", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._tcp, self._udp, self._stopped):
                each.setblocking(False)
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._stopped:
                        return
                    with contextlib.suppress(OSError):
                        self._answer(key.fileobj)

    def _answer(self, ready: object) -> None:
        if ready is self._udp:
            _, peer = self._udp.recvfrom(1500)
            self._udp.sendto(f"{self._name} {peer[0]}".encode(), peer)
            return
        connection, peer = self._tcp.accept()
        with connection:
            connection.sendall(f"{self._name} {peer[0]}".encode())

    def close(self) -> None:
        self._stop.send(b".")
        self._thread.join()
        for each in (self._tcp, self._udp, self._stop, self._stopped):
            each.close()


@dataclass(slots=True)
class World:
    node: Netns
    outside: Netns
    pods: dict[str, Netns] = field(default_factory=dict)
    servers: list[Echo] = field(default_factory=list)

    def addresses(self) -> list[str]:
        return list(self.pods)

    def space(self, address: str) -> Netns:
        """Where an address lives."""
        if address == NODE:
            return self.node
        return self.pods.get(address, self.outside)

    def ask(self, source: str, destination: str, port: int, *, times: int = 1, protocol: str = "tcp") -> Counter[str]:
        """How often each answer came: `name source-address-it-saw`, `refused` or `silence`."""

        def asking() -> Counter[str]:
            bound = "" if source == NODE else source
            return Counter(once(bound, destination, port, protocol) for _ in range(times))

        return kernel_netns.call(self.space(source).path, asking)

    def close(self) -> None:
        for server in self.servers:
            server.close()


def once(source: str, destination: str, port: int, protocol: str = "tcp", *, timeout: float = 1.0) -> str:
    """One question, from a socket of the thread's namespace."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as asked:
        asked.settimeout(timeout)
        asked.bind((source, 0))
        try:
            asked.connect((destination, port))
            if protocol == "udp":
                asked.send(b"?")
            return asked.recv(1500).decode()
        except ConnectionRefusedError:
            return "refused"
        except (TimeoutError, OSError):
            return "silence"


def build(make: Make, *, pods: int = 2) -> World:
    """The picture above, with a server in every pod, local or not."""
    node, outside = make("node"), make("outside")
    world = World(node, outside)
    # REJECT answers with ICMP errors, of which a peer is allowed few (and redirects use up the same allowance).
    settings = ["rp_filter=0", "send_redirects=0"]
    wished = [f"net.ipv4.conf.{scope}.{each}" for scope in ("all", "default") for each in settings]
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0", *wished)
    _veth(node, "eth0", outside, "eth0")
    node.run("ip", "address", "add", f"{NODE}/24", "dev", "eth0")
    outside.run("ip", "address", "add", f"{OUTSIDER}/24", "dev", "eth0")
    outside.run("ip", "address", "add", f"{REMOTE_POD}/32", "dev", "eth0")
    for space in (node, outside):
        space.run("ip", "link", "set", "eth0", "up")
    node.run("ip", "route", "add", "10.244.1.0/24", "via", OUTSIDER)
    outside.run("ip", "route", "add", "10.244.0.0/24", "via", NODE)
    outside.run("ip", "route", "add", "10.96.0.0/16", "via", NODE)
    outside.run("ip", "route", "add", "unreachable", "default")
    # A packet that the node itself sends to a cluster IP is routed before its destination is rewritten.
    node.run("ip", "route", "add", "default", "via", OUTSIDER)
    for index in range(pods):
        _pod(world, make, index)
    world.servers.append(Echo(outside, REMOTE_POD, REMOTE_POD))
    return world


def _pod(world: World, make: Make, index: int) -> None:
    address = f"10.244.0.{index + 2}"
    pod = make(f"pod{index}")
    _veth(world.node, f"pod{index}", pod, "eth0")
    world.node.run("ip", "address", "add", f"{POD_GATEWAY}/32", "dev", f"pod{index}", "scope", "link")
    world.node.run("ip", "link", "set", f"pod{index}", "up")
    world.node.run("ip", "route", "add", f"{address}/32", "dev", f"pod{index}", "src", NODE)
    pod.run("ip", "address", "add", f"{address}/32", "dev", "eth0")
    pod.run("ip", "link", "set", "eth0", "up")
    pod.run("ip", "route", "add", POD_GATEWAY, "dev", "eth0")
    pod.run("ip", "route", "add", "default", "via", POD_GATEWAY)
    world.pods[address] = pod
    world.servers.append(Echo(pod, address, address))


def _veth(left: Netns, left_name: str, right: Netns, right_name: str) -> None:
    left.run("ip", "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.name)


@contextlib.contextmanager
def built(make: Make, *, pods: int = 2) -> Iterator[World]:
    world = build(make, pods=pods)
    try:
        yield world
    finally:
        world.close()
