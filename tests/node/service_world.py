"""A node in a network namespace, its pods and its neighbours in others, and real packets between them.

                            other node 192.168.0.2, its pod 10.180.1.9
                                     |
    pods 10.180.0.{2,3,9} --cni0-- node 192.168.0.1 (and .3) -- endpoints 10.180.1.{2,3} of a third node
                                     |
                            outsiders 203.0.113.{7,8}

Local pods hang on a bridge, whose ports may send back what they got and whose frames pass the packet filter: what a pod
needs to reach itself or its neighbour through a Service. Whoever is not local has a namespace and a link of its own, and
everyone's default route is the node, so every answer comes back the way of the question. On each link the node has another
address: `MASQUERADED` are those that only a masqueraded packet shows.

Every address exists in both families: `spell("10.180.0.2", 6)` is fd00::10:180:0:2. Every server answers with its own
address and port and the source that it saw, over TCP and UDP. Two processes do all the talking: `packet_server` and
`packet_client`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from ipaddress import IPv6Address
from typing import Any

from tests.conftest import Netns
from tests.node.packet_client import Flow

HERE, HERE_TOO, POD, GATEWAY = "10.180.0.2", "10.180.0.3", "10.180.0.9", "10.180.0.1"
NODE, NODE_TOO, LOOPBACK = "192.168.0.1", "192.168.0.3", "127.0.0.1"
THERE, THERE_TOO, OTHER_POD, OTHER_NODE = "10.180.1.2", "10.180.1.3", "10.180.1.9", "192.168.0.2"
OUTSIDER, STRANGER = "203.0.113.7", "203.0.113.8"
TO_THERE, VIA_THERE, TO_OUTSIDE = "192.168.1.1", "192.168.1.2", "203.0.113.1"
POD_RANGE = "10.180.0.0/16"
LOCAL_PODS = (HERE, HERE_TOO, POD)
SERVERS = (HERE, HERE_TOO, THERE, THERE_TOO, NODE, OTHER_NODE)
MASQUERADED = (GATEWAY, TO_THERE, TO_OUTSIDE)
PORT = 8080
PORTS = (PORT,)
FAMILIES = (4, 6)
Make = Callable[[str], Netns]

_NODE_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.bridge.bridge-nf-call-iptables=1",
    "net.bridge.bridge-nf-call-ip6tables=1",
    # REJECT answers with ICMP errors, of which a peer is allowed few (and redirects use up the same allowance).
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
)
_ALL_SYSCTLS = ("net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")


def spell(text: str, family: int) -> str:
    """An address, or a network whose length is a multiple of 8, of this world in a family."""
    if family == 4:
        return text
    address, slash, length = text.partition("/")
    made = "::1" if address == LOOPBACK else str(IPv6Address("fd00::" + ":".join(address.split("."))))
    return f"{made}/{96 - 32 + 2 * int(length) if int(length) < 32 else 128}" if slash else made


@dataclass(frozen=True, slots=True)
class Talk:
    """What a stream or held connections came to: how often each answer, and the first failures with what they asked."""

    answers: Counter[str]
    failures: list[str]

    @property
    def names(self) -> set[str]:
        return {answer.split(" ")[0] for answer in self.answers}


class Helper:
    """One of the two processes: a line of JSON in, a line of JSON out."""

    def __init__(self, module: str) -> None:
        argv = [sys.executable, "-m", f"tests.node.{module}"]
        self._popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __call__(self, **command: object) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(command) + "\n")
        line = self._popen.stdout.readline()
        assert line, f"{command} ended the helper with {self._popen.wait(5)}"
        return None if line == "done\n" else json.loads(line)

    def close(self) -> None:
        with self._popen:
            assert self._popen.stdin is not None
            self._popen.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
            self._popen.kill()


@dataclass(slots=True)
class World:
    node: Netns
    spaces: dict[str, Netns] = field(default_factory=dict)
    """Where each address lives, in both families."""
    servers: Helper = field(default_factory=lambda: Helper("packet_server"))
    client: Helper = field(default_factory=lambda: Helper("packet_client"))
    _streams: int = 0

    def flow(
        self,
        source: str,
        destination: str,
        port: int,
        *,
        protocol: str = "tcp",
        times: int = 1,
        timeout: float = 3.0,
        source_port: int = 0,
    ) -> Flow:
        return Flow(self.spaces[source].path, source, destination, port, protocol, times, timeout, source_port)

    def ask(
        self, source: str, destination: str, port: int, *, times: int = 1, protocol: str = "tcp", source_port: int = 0
    ) -> Counter[str]:
        """How often each answer came: `address:port source-it-saw`, or a word: `refused`, `silence`."""
        flow = self.flow(source, destination, port, protocol=protocol, times=times, source_port=source_port)
        return self.ask_all([flow])[0]

    def ask_all(self, flows: Sequence[Flow]) -> list[Counter[str]]:
        """All at the same time, so that a hundred silences take as long as one."""
        return [Counter(found) for found in self.client(ask=[astuple(flow) for flow in flows])]

    @contextlib.contextmanager
    def streaming(self, *flows: Flow, workers: int = 2) -> Iterator[Callable[[], Talk]]:
        """New connections, one after the other, while inside; the value ends it and says what came."""
        with self._going_on("stream", flows, workers) as stop:
            yield stop

    @contextlib.contextmanager
    def holding(self, *flows: Flow) -> Iterator[Callable[[], Talk]]:
        """Connections that stay open and are asked over and over while inside."""
        with self._going_on("hold", flows) as stop:
            yield stop

    @contextlib.contextmanager
    def _going_on(self, how: str, flows: Sequence[Flow], *more: object) -> Iterator[Callable[[], Talk]]:
        self._streams += 1
        name, ended = f"{how} {self._streams}", False
        self.client(**{how: [name, [astuple(flow) for flow in flows], *more]})

        def stop() -> Talk:
            nonlocal ended
            ended = True
            answers, failures = self.client(stop=name)
            words = [f"{ago:.3f} s before the end: {flow}: {answer}" for ago, flow, answer in failures]
            return Talk(Counter(answers), words)

        def answered(count: int) -> None:
            deadline = time.monotonic() + 20
            while sum(self.client(**{"so far": name}).values()) < count:
                assert time.monotonic() < deadline, f"{name}: fewer than {count} answers in 20 s"

        answered(1)
        try:
            yield stop
        finally:
            if not ended:
                stop()

    def serve(self, *servers: tuple[str, int]) -> None:
        self.servers(open=[[self.spaces[address].path, address, port] for address, port in servers])

    def stop_serving(self, *servers: tuple[str, int]) -> None:
        """No new connection is taken; those that are open live on."""
        self.servers(close=[list(server) for server in servers])

    def close(self) -> None:
        self.servers.close()
        self.client.close()


@dataclass(frozen=True, slots=True)
class Site:
    """A world as one family sees it, spelt in the addresses of IPv4: asked for and answered."""

    world: World
    family: int

    def at(self, text: str) -> str:
        return spell(text, self.family)

    def flow(self, source: str, destination: str, port: int, **more: Any) -> Flow:
        return self.world.flow(self.at(source), self.at(destination), port, **more)

    def ask(self, source: str, destination: str, port: int, **more: Any) -> Counter[str]:
        """How often each answer came: `address:port source-it-saw`, with `masq` for a masqueraded source, or a word."""
        return self.ask_all([self.flow(source, destination, port, **more)])[0]

    def ask_all(self, flows: Sequence[Flow]) -> list[Counter[str]]:
        return [
            Counter({self.told(answer): times for answer, times in each.items()}) for each in self.world.ask_all(flows)
        ]

    def told(self, answer: str) -> str:
        name, space, saw = answer.partition(" ")
        if not space:
            return answer
        host, _, port = name.rpartition(":")
        seen = plain(saw)
        return f"{plain(host.strip('[]'))}:{port} {'masq' if seen in MASQUERADED else seen}"


def plain(address: str) -> str:
    """`spell` undone."""
    if address == "::1":
        return LOOPBACK
    return ".".join(address.split(":")[-4:]) if ":" in address else address


def build(make: Make, *, ports: Sequence[int] = PORTS) -> World:
    """The picture above; on `ports` of each of `SERVERS` somebody answers."""
    node, other, there, outside = (make(label) for label in ("node", "other", "there", "out"))
    pods = {address: make(f"pod{index}") for index, address in enumerate(LOCAL_PODS)}
    for space in (node, other, there, outside, *pods.values()):
        space.run("sysctl", "-qw", *_ALL_SYSCTLS, *(_NODE_SYSCTLS if space is node else ()))
    _links(node, other, there, outside, pods)
    _address(node, [("eth0", f"{NODE}/24"), ("eth0", f"{NODE_TOO}/24"), ("cni0", f"{GATEWAY}/24")])
    _address(node, [("there", f"{TO_THERE}/24"), ("outside", f"{TO_OUTSIDE}/24")])
    _routes(
        node,
        [
            (f"{THERE}/32", VIA_THERE),
            (f"{THERE_TOO}/32", VIA_THERE),
            (f"{OTHER_POD}/32", OTHER_NODE),
            ("default", OTHER_NODE),
        ],
    )
    for space, addresses, gateway in (
        (other, [OTHER_NODE, OTHER_POD], NODE),
        (there, [VIA_THERE, THERE, THERE_TOO], TO_THERE),
        (outside, [OUTSIDER, STRANGER], TO_OUTSIDE),
        *((space, [address], GATEWAY) for address, space in pods.items()),
    ):
        _address(space, [("eth0", f"{address}/{24 if address == addresses[0] else 32}") for address in addresses])
        _routes(space, [("default", gateway)])
    spaces = {
        **dict.fromkeys((NODE, NODE_TOO, GATEWAY, LOOPBACK), node),
        **dict.fromkeys((OTHER_NODE, OTHER_POD), other),
        **dict.fromkeys((THERE, THERE_TOO), there),
        **dict.fromkeys((OUTSIDER, STRANGER), outside),
        **pods,
    }
    world = World(node, {spell(address, family): space for address, space in spaces.items() for family in FAMILIES})
    world.serve(
        *((spell(address, family), port) for address in SERVERS for family in FAMILIES for port in {PORT, *ports})
    )
    _acquaint(world)
    return world


def _acquaint(world: World) -> None:
    """Everybody talks to everybody once: while an address is being resolved the kernel keeps few packets for it."""
    flows = [
        world.flow(spell(source, family), spell(server, family), PORT)
        for source in (NODE, OTHER_NODE, OUTSIDER, THERE, *LOCAL_PODS)
        for server in SERVERS
        for family in FAMILIES
    ]
    for flow, found in zip(flows, world.ask_all(flows), strict=True):
        assert all(" " in answer for answer in found), f"{flow.source} asks {flow.destination}: {found}"


def _links(node: Netns, other: Netns, there: Netns, outside: Netns, pods: dict[str, Netns]) -> None:
    lines = ["link add cni0 type bridge", "link set cni0 up"]
    for name, space in (("eth0", other), ("there", there), ("outside", outside)):
        lines += [f"link add {name} type veth peer name eth0 netns {space.name}", f"link set {name} up"]
    for index, space in enumerate(pods.values()):
        port = f"pod{index}"
        lines += [
            f"link add {port} type veth peer name eth0 netns {space.name}",
            f"link set {port} master cni0 up",
            f"link set {port} type bridge_slave hairpin on",
        ]
    _batch(node, lines)
    for space in (other, there, outside, *pods.values()):
        _batch(space, ["link set eth0 up"])


def _address(space: Netns, wanted: Sequence[tuple[str, str]]) -> None:
    _batch(space, [f"address add {spell(each, family)} dev {device}" for device, each in wanted for family in FAMILIES])


def _routes(space: Netns, wanted: Sequence[tuple[str, str]]) -> None:
    for family in FAMILIES:
        targets = [(to if to == "default" else spell(to, family), spell(via, family)) for to, via in wanted]
        _batch(space, [f"route add {to} via {via}" for to, via in targets], family)


def _batch(space: Netns, lines: Sequence[str], family: int = 0) -> None:
    flags = [f"-{family}"] if family else []
    space.run("ip", *flags, "-batch", "-", stdin="\n".join(lines) + "\n")


@contextlib.contextmanager
def built(make: Make, *, ports: Sequence[int] = PORTS) -> Iterator[World]:
    world = build(make, ports=ports)
    try:
        yield world
    finally:
        world.close()
