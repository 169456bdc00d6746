"""Where packets must go: kube-proxy's own tables as data, for tracers and for real packets, in every mode and family.

Nothing here is an address. A flow is (source, destination, outcome) in words, and a world gives the words addresses:

    sources       pod (on this node, no endpoint), node, localhost, outsider, stranger (another outsider), other-node,
                  remote-pod, here (an endpoint that calls its own Service), vip (the node, with the balancer's address)
    destinations  cluster, nodeport (on the node's address), nodeport2 (on its second), localport (on loopback),
                  external, balancer, balancer2; with `:81` for another port than the Service's
    outcomes      endpoints by name, each with `masq` where the source address becomes the node's; REJECT; DROP;
                  pass: no Service touches it

An outcome holds for all modes and families, but where a flow says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

from proxy.model import Protocol, Reach


class Mode(enum.StrEnum):
    IPTABLES = "iptables"
    NFTABLES = "nftables"


@dataclass(frozen=True, slots=True)
class Flow:
    source: str
    destination: str
    outcome: str
    nftables: str = ""
    """Where nftables mode differs (reference: no NodePorts on loopback, undefined ports of cluster IPs refused, ...)."""
    ipv6: str = ""

    def expected(self, mode: Mode, version: int) -> frozenset[str]:
        said = self.nftables if self.nftables and mode is Mode.NFTABLES else self.outcome
        if self.ipv6 and version == 6:
            said = self.ipv6
        return frozenset(said.split(", "))

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A Service port in words. `ends` are (name, state): `here*` run on this node, `there*` elsewhere; states are ready,
    unready, draining (serving while it terminates) and dead. `ranges` are sources, or `elsewhere`: a range with nobody."""

    ends: tuple[tuple[str, str], ...] = (("here", "ready"), ("there", "ready"))
    internal: Reach = Reach.CLUSTER
    external: Reach = Reach.CLUSTER
    ranges: tuple[str, ...] = ()
    affinity: int | None = None
    protocol: Protocol = Protocol.TCP
    reachable: bool = True
    """From outside: has a NodePort, an external IP and two balancers' addresses."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`node_ports`: the addresses that serve NodePorts (node, node2, localhost); None: all of the node's but loopback."""

    detector: bool = True
    masquerade_all: bool = False
    localhost_node_ports: bool = False
    node_ports: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    subject: Subject
    settings: Settings
    flows: tuple[Flow, ...]

    def __str__(self) -> str:
        return self.name


ALL, ALL_MASQ = "here, there", "here masq, there masq"
PLAIN = Subject()
EXTERNAL_LOCAL = Subject(external=Reach.LOCAL)
INTERNAL_LOCAL = Subject(internal=Reach.LOCAL)
BASE = Settings(localhost_node_ports=True)
NO_DETECTOR = replace(BASE, detector=False)
MASQUERADE_ALL = replace(BASE, masquerade_all=True)
MASQUERADE_ALL_BLIND = replace(BASE, masquerade_all=True, detector=False)

# source, destination: base, without a detector, masqueradeAll, masqueradeAll without a detector
_MATRIX: tuple[tuple[str, Subject, tuple[tuple[str, str, str, str, str, str], ...]], ...] = (
    (
        "plain",
        PLAIN,
        (
            ("pod", "cluster", ALL, ALL, ALL_MASQ, ALL_MASQ),
            ("pod", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("pod", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("node", "cluster", ALL_MASQ, ALL, ALL_MASQ, ALL_MASQ),
            ("node", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("localhost", "localport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("node", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("outsider", "cluster", ALL_MASQ, ALL, ALL_MASQ, ALL_MASQ),
            ("outsider", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("outsider", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
        ),
    ),
    (
        "externalTrafficPolicy Local",
        EXTERNAL_LOCAL,
        (
            ("pod", "cluster", ALL, ALL, ALL_MASQ, ALL_MASQ),
            ("pod", "nodeport", ALL, "here", ALL, "here"),
            ("pod", "balancer", ALL, "here", ALL, "here"),
            ("node", "cluster", ALL_MASQ, ALL, ALL_MASQ, ALL_MASQ),
            ("node", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("localhost", "localport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("node", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("outsider", "cluster", ALL_MASQ, ALL, ALL_MASQ, ALL_MASQ),
            ("outsider", "nodeport", "here", "here", "here", "here"),
            ("outsider", "balancer", "here", "here", "here", "here"),
        ),
    ),
    (
        "internalTrafficPolicy Local",
        INTERNAL_LOCAL,
        (
            ("pod", "cluster", "here", "here", "here masq", "here masq"),
            ("pod", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("pod", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("node", "cluster", "here masq", "here", "here masq", "here masq"),
            ("node", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("localhost", "localport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("node", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("outsider", "cluster", "here masq", "here", "here masq", "here masq"),
            ("outsider", "nodeport", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
            ("outsider", "balancer", ALL_MASQ, ALL_MASQ, ALL_MASQ, ALL_MASQ),
        ),
    ),
)


def _matrix() -> Iterator[Case]:
    columns = (
        ("base", BASE),
        ("no detector", NO_DETECTOR),
        ("masqueradeAll", MASQUERADE_ALL),
        ("masqueradeAll, no detector", MASQUERADE_ALL_BLIND),
    )
    for name, subject, rows in _MATRIX:
        for column, (words, settings) in enumerate(columns):
            yield Case(f"{name}, {words}", subject, settings, tuple(_row(row, row[2 + column]) for row in rows))


def _row(row: tuple[str, ...], outcome: str) -> Flow:
    local = row[1] == "localport"
    return Flow(row[0], row[1], outcome, nftables="pass" if local else "", ipv6="pass" if local else "")


def _reaching(sources: str, destinations: str, outcome: str) -> tuple[Flow, ...]:
    return tuple(Flow(source, to, outcome) for source in sources.split() for to in destinations.split())


_OUTSIDE = "nodeport external balancer"
DEFAULT = Settings()

_ENDPOINTS = (
    Case(
        "no endpoint at all is refused",
        Subject(ends=()),
        DEFAULT,
        (
            *_reaching("pod outsider", f"cluster {_OUTSIDE} balancer2", "REJECT"),
            *_reaching("node", "cluster nodeport", "REJECT"),
            # Upstream's KUBE-EXTERNAL-SERVICES hangs at INPUT and FORWARD only.
            Flow("node", "external", "pass", nftables="REJECT"),
            Flow("node", "balancer", "pass", nftables="REJECT"),
        ),
    ),
    Case(
        "no endpoint at all is refused under Local policies too",
        Subject(ends=(("there", "unready"),), internal=Reach.LOCAL, external=Reach.LOCAL),
        DEFAULT,
        _reaching("pod outsider", f"cluster {_OUTSIDE}", "REJECT"),
    ),
    Case(
        "externalTrafficPolicy Local with endpoints elsewhere drops outsiders only",
        Subject(ends=(("there", "ready"),), external=Reach.LOCAL),
        DEFAULT,
        (
            *_reaching("outsider other-node", _OUTSIDE, "DROP"),
            *_reaching("pod", f"cluster {_OUTSIDE}", "there"),
            *_reaching("node", f"cluster {_OUTSIDE}", "there masq"),
            Flow("outsider", "cluster", "there masq"),
        ),
    ),
    Case(
        "internalTrafficPolicy Local with endpoints elsewhere drops the cluster IP only",
        Subject(ends=(("there", "ready"),), internal=Reach.LOCAL),
        DEFAULT,
        (*_reaching("pod outsider node", "cluster", "DROP"), *_reaching("outsider pod node", _OUTSIDE, "there masq")),
    ),
    Case(
        "both policies Local",
        Subject(internal=Reach.LOCAL, external=Reach.LOCAL),
        DEFAULT,
        (
            Flow("pod", "cluster", "here"),
            Flow("outsider", "cluster", "here masq"),
            *_reaching("pod", _OUTSIDE, ALL),
            *_reaching("outsider", _OUTSIDE, "here"),
            *_reaching("node", _OUTSIDE, ALL_MASQ),
        ),
    ),
    Case(
        "an endpoint that calls its own Service is masqueraded on the way to itself",
        PLAIN,
        DEFAULT,
        (Flow("here", "cluster", "here masq, there"), *_reaching("here", _OUTSIDE, ALL_MASQ)),
    ),
    Case(
        "an endpoint that calls its own Service under Local",
        Subject(internal=Reach.LOCAL, external=Reach.LOCAL),
        DEFAULT,
        (Flow("here", "cluster", "here masq"), *_reaching("here", _OUTSIDE, "here masq, there")),
    ),
    Case(
        "only the Service's own port",
        PLAIN,
        DEFAULT,
        (
            *_reaching("pod outsider", "nodeport:81 external:81 balancer:81", "pass"),
            Flow("pod", "cluster:81", "pass", nftables="REJECT"),
        ),
    ),
    Case(
        "a cluster IP alone is not reached by others' addresses",
        Subject(reachable=False),
        DEFAULT,
        (
            Flow("pod", "cluster", ALL),
            Flow("remote-pod", "cluster", ALL),
            Flow("other-node", "cluster", ALL_MASQ),
            *_reaching("pod outsider", _OUTSIDE, "pass"),
        ),
    ),
    Case(
        "one endpoint",
        Subject(ends=(("there", "ready"),)),
        DEFAULT,
        (Flow("pod", "cluster", "there"), Flow("outsider", "external", "there masq")),
    ),
    Case(
        "many endpoints, one of them not ready",
        Subject(ends=(("here", "ready"), ("here2", "ready"), ("there", "unready"), ("there2", "ready"))),
        DEFAULT,
        (Flow("pod", "cluster", "here, here2, there2"), Flow("here2", "cluster", "here, here2 masq, there2")),
    ),
    Case(
        "affinity spreads who is new",
        Subject(affinity=900),
        DEFAULT,
        (
            Flow("pod", "cluster", ALL),
            Flow("here", "cluster", "here masq, there"),
            *_reaching("outsider", _OUTSIDE, ALL_MASQ),
        ),
    ),
    Case(
        "affinity under Local",
        Subject(affinity=900, internal=Reach.LOCAL, external=Reach.LOCAL),
        DEFAULT,
        (Flow("pod", "cluster", "here"), *_reaching("pod", _OUTSIDE, ALL), *_reaching("outsider", _OUTSIDE, "here")),
    ),
)

# here, there: what a pod meets at the cluster IP under Cluster, and under Local; an outsider at the NodePort under Local
_TERMINATING = (
    ("ready", "ready", "here, there", "here"),
    ("draining", "ready", "there", "here"),
    ("ready", "draining", "here", "here"),
    ("draining", "draining", "here, there", "here"),
    ("unready", "ready", "there", "DROP"),
    ("dead", "ready", "there", "DROP"),
    ("dead", "draining", "there", "DROP"),
    ("unready", "draining", "there", "DROP"),
    ("unready", "dead", "REJECT", "REJECT"),
    ("dead", "dead", "REJECT", "REJECT"),
)


def _terminating() -> Iterator[Case]:
    for here, there, cluster, local in _TERMINATING:
        ends = (("here", here), ("there", there))
        words = f"{here} here, {there} there"
        yield Case(words, Subject(ends), DEFAULT, (Flow("pod", "cluster", cluster),))
        yield Case(f"{words}, internal Local", Subject(ends, Reach.LOCAL), DEFAULT, (Flow("pod", "cluster", local),))
        yield Case(
            f"{words}, external Local",
            Subject(ends, external=Reach.LOCAL),
            DEFAULT,
            _reaching("outsider", "nodeport balancer external", local),
        )


_RANGES = (
    Case(
        "source ranges",
        Subject(ranges=("outsider", "elsewhere")),
        DEFAULT,
        (
            *_reaching("outsider", "balancer balancer2", ALL_MASQ),
            *_reaching("stranger pod node other-node", "balancer balancer2", "DROP"),
            *_reaching("stranger", "nodeport external cluster", ALL_MASQ),
            Flow("vip", "balancer", "DROP"),
        ),
    ),
    Case(
        "source ranges with the node's address",
        Subject(ranges=("node",)),
        DEFAULT,
        (
            *_reaching("outsider pod", "balancer balancer2", "DROP"),
            Flow("node", "balancer", ALL_MASQ),
            Flow("vip", "balancer", ALL_MASQ),
        ),
    ),
    Case(
        "source ranges under Local",
        Subject(ranges=("outsider", "pod"), external=Reach.LOCAL),
        DEFAULT,
        (
            Flow("outsider", "balancer", "here"),
            Flow("pod", "balancer", ALL),
            Flow("stranger", "balancer", "DROP"),
            Flow("stranger", "nodeport", "here"),
        ),
    ),
    Case(
        "source ranges with endpoints elsewhere under Local",
        Subject(ends=(("there", "ready"),), ranges=("outsider",), external=Reach.LOCAL),
        DEFAULT,
        (*_reaching("outsider stranger", "balancer", "DROP"), Flow("stranger", "nodeport", "DROP")),
    ),
    Case(
        "source ranges without endpoints",
        Subject(ends=(), ranges=("outsider",)),
        DEFAULT,
        (Flow("outsider", "balancer", "REJECT"), Flow("stranger", "balancer", "REJECT", nftables="DROP")),
    ),
)


def _node_ports() -> Iterator[Case]:
    served = ALL_MASQ
    # localhostNodePorts, nodePortAddresses: on the node's address, on its second, on loopback
    for localhost, addresses, first, second, loopback in (
        (False, None, served, served, "pass"),
        (True, None, served, served, served),
        (True, ("node",), served, "pass", "pass"),
        (False, ("node2",), "pass", served, "pass"),
        (True, ("node", "localhost"), served, "pass", served),
        (False, ("node", "localhost"), served, "pass", "pass"),
        (True, ("localhost",), "pass", "pass", served),
        (False, (), "pass", "pass", "pass"),
    ):
        words = "all" if addresses is None else " and ".join(addresses) or "none"
        yield Case(
            f"NodePorts on {words}, localhost {'on' if localhost else 'off'}",
            PLAIN,
            Settings(localhost_node_ports=localhost, node_ports=addresses),
            (
                Flow("outsider", "nodeport", first),
                Flow("node", "nodeport", first),
                Flow("outsider", "nodeport2", second),
                Flow("localhost", "localport", loopback, nftables="pass", ipv6="pass"),
                Flow("pod", "external", ALL_MASQ),
            ),
        )


CASES: tuple[Case, ...] = (*_matrix(), *_ENDPOINTS, *_terminating(), *_RANGES, *_node_ports())
