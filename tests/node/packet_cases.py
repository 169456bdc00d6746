"""The table of `tests.unit.proxy.cases` as real packets: many Services at once, and all their flows at the same time.

Each case becomes a Service of its own, over TCP and UDP, with addresses and ports that no other has. So the cases that ask for
the same settings of the node share one write, and a silence costs its patience once for all of them. A flow that may end at
several endpoints is asked until each has answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from linux.iptables.rules import Family
from proxy.model import Protocol, ServicePort
from tests.node import service_world
from tests.node.packet_client import Flow as Asked
from tests.node.service_world import POD_RANGE, PORT, Site
from tests.unit.proxy.cases import CASES, Case, Flow, Mode, Settings
from tests.unit.proxy.worlds import World

PROTOCOLS = (Protocol.TCP, Protocol.UDP)
ENDS = {
    "here": service_world.HERE,
    "here2": service_world.HERE_TOO,
    "there": service_world.THERE,
    "there2": service_world.THERE_TOO,
}
SOURCES = {
    "pod": service_world.POD,
    "remote-pod": service_world.OTHER_POD,
    "node": service_world.NODE,
    "node2": service_world.NODE_TOO,
    "other-node": service_world.OTHER_NODE,
    "outsider": service_world.OUTSIDER,
    "stranger": service_world.STRANGER,
    "loopback": service_world.LOOPBACK,
}
SETTLED = 12  # rounds; with four endpoints one stays unseen three times in a hundred, and is asked for again
NO_ANSWER, REFUSAL = 0.4, 0.9  # seconds that are waited for; an answer may take its time, a refusal is at once
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Placed:
    """A case with its place among the others: the addresses and ports of its Service."""

    case: Case
    world: World

    @property
    def ports(self) -> tuple[ServicePort, ...]:
        """Under one name, as kube-proxy knows them: a Service's ports of the same number may share it no further."""
        subject, name = self.case.subject, f"ns1/svc{self.world.node_port}"
        return tuple(self.world.service(replace(subject, protocol=each), f"{name}:{each}") for each in PROTOCOLS)


def groups(site: Site) -> Iterator[tuple[Settings, list[Placed]]]:
    """The cases by their settings."""
    by: dict[Settings, list[Placed]] = {}
    for index, case in enumerate(CASES):
        by.setdefault(case.settings, []).append(Placed(case, _world(site, index)))
    return iter(by.items())


def _world(site: Site, index: int) -> World:
    own = {
        "cluster": f"172.30.{index}.41",
        "external": f"203.0.114.{index}",
        "balancer": f"203.0.115.{index}",
        "balancer2": f"203.0.116.{index}",
    }
    return World(
        Family(site.family),
        {word: ip_address(site.at(text)) for word, text in (SOURCES | own).items()},
        {name: (ip_address(site.at(text)), PORT) for name, text in ENDS.items()},
        ip_network(site.at(POD_RANGE)),
        port=1000 + index,
        node_port=30000 + index,
    )


def unmet(site: Site, placed: Sequence[Placed], mode: Mode) -> list[str]:
    """What packets did that no flow of these cases expects, in words."""
    trials = [
        Trial(site, one, flow, protocol, mode) for one in placed for flow in one.case.flows for protocol in PROTOCOLS
    ]
    for _ in range(ATTEMPTS):
        open_ones = [trial for trial in trials if not trial.met]
        for trial, found in zip(open_ones, site.ask_all([trial.asked() for trial in open_ones]), strict=True):
            if trial.expected == {"REJECT"}:
                trial.seen.clear()  # a busy machine may have been late
            elif trial.lossy:
                trial.seen.discard("DROP")
            trial.seen |= {trial.word(answer) for answer in found}
    return [str(trial) for trial in trials if not trial.met]


class Trial:
    """One flow over one protocol, and what it met."""

    def __init__(self, site: Site, placed: Placed, flow: Flow, protocol: Protocol, mode: Mode) -> None:
        self._site = site
        self._placed = placed
        self._flow = flow
        self._protocol = protocol
        self._names = {text: name for name, text in ENDS.items()}
        self.expected = flow.expected(mode, site.family)
        self.seen: set[str] = set()

    def asked(self) -> Asked:
        world = self._placed.world
        packet = world.packet(self._flow, self._protocol)
        source = str(packet.source)
        space = self._site.world.node if packet.local else self._site.world.spaces[source]
        times = 1 if len(self.expected) == 1 else SETTLED
        asked = Asked(space.path, source, str(packet.destination), packet.port, self._protocol, times)
        if self.expected <= {"DROP", "pass"}:
            return replace(asked, timeout=NO_ANSWER)
        return replace(asked, timeout=REFUSAL) if self.expected == {"REJECT"} else asked

    def word(self, answer: str) -> str:
        """The outcome as the table spells it."""
        name, space, saw = self._site.told(answer).partition(" ")
        if not space:
            # The node's own datagrams fail at once where its OUTPUT drops or rejects them.
            local = self._flow.source in ("node", "vip") and self.expected in ({"REJECT"}, {"DROP"})
            words = {"refused": "REJECT", "silence": "DROP"} | ({"EPERM": min(self.expected)} if local else {})
            return words.get(name, name)
        where = self._names.get(name.removesuffix(f":{PORT}"), name)
        source = service_world.plain(str(self._placed.world.source(self._flow.source)))
        return where if saw == source else f"{where} {saw}"

    @property
    def lossy(self) -> bool:
        """Whether one silence is forgiven: of two datagrams whose masqueraded tuples clash the kernel drops one, and nobody
        sends it again. What is silent in the last round still counts."""
        return self._protocol == "udp" and "DROP" not in self.expected

    @property
    def met(self) -> bool:
        if self.expected == {"pass"}:
            return bool(self.seen) and self.seen <= {"REJECT", "DROP", "EHOSTUNREACH", "ENETUNREACH"}
        if self._placed.case.subject.affinity:
            return len(self.seen) == 1 and self.seen <= self.expected
        return self.seen == self.expected

    def __str__(self) -> str:
        wanted, seen = (", ".join(sorted(words)) for words in (self.expected, self.seen))
        return f"{self._placed.case}: {self._protocol} {self._flow} is {seen or 'nothing'}, not {wanted}"
