"""What `wherry proxy trace` says, word by word, over rules that the iptables mode wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from linux.iptables.rules import Family, Table
from linux.packets import Address, Node, Packet
from linux.route_lookup import Way
from proxy.kernel_rules import IPTABLES_NFT, At, KernelRules, Source, service_named
from proxy.model import Protocol, Reach, ServicePort
from proxy.trace import document, lines, told
from tests.unit.proxy.cases import DEFAULT, Subject
from tests.unit.proxy.tracing import snapshot
from tests.unit.proxy.worlds import WORLDS, World

GOLDEN = Path(__file__).parent / "golden"
V4, V6 = WORLDS


def cluster(world: World) -> list[ServicePort]:
    """A Service of each kind, on cluster IPs of their own."""
    first = world.addresses["cluster"]
    inner = Subject(reachable=False)
    made = [
        world.service(Subject(ends=(("here", "ready"), ("there", "ready"), ("there2", "ready"))), "default/web:http"),
        world.service(replace(inner, ends=()), "default/empty:http"),
        world.service(replace(inner, ends=(("there", "ready"),), internal=Reach.LOCAL), "default/near"),
        world.service(replace(inner, protocol=Protocol.UDP), "kube-system/kube-dns:dns"),
    ]
    return [replace(port, cluster_ip=first + index) for index, port in enumerate(made)]


def rules_of(world: World, *services: ServicePort) -> KernelRules:
    return KernelRules(world.family, (Source(IPTABLES_NFT, snapshot(services, world.policy(DEFAULT))),))


def way(address: Address) -> Way | None:
    """A node with pods behind cni0, a network behind eth0, and no way to 198.51.100.0/24."""
    if address.is_loopback:
        return Way("lo", local=True)
    text = str(address)
    if text.startswith("198.51.100."):
        return None
    return Way("cni0" if text.startswith(("10.180.0.", "fd00:10:180::")) else "eth0")


def device(address: Address) -> str:
    found = way(address)
    return found.device if found else ""


DIALOGUES = {
    "pod-to-cluster-ip": (V4, "10.180.0.9", "172.30.0.41", 80, "tcp"),
    "outsider-to-node-port": (V4, "203.0.113.7", "192.168.0.1", 30080, "tcp"),
    "node-to-empty": (V4, "192.168.0.1", "172.30.0.42", 80, "tcp"),
    "pod-to-none-local": (V4, "10.180.0.9", "172.30.0.43", 80, "tcp"),
    "udp-ipv6": (V6, "fd00:10:180::9", "fd00:172:30::44", 80, "udp"),
    "no-service": (V4, "10.180.0.9", "203.0.113.77", 443, "tcp"),
    "to-the-node": (V4, "203.0.113.7", "192.168.0.1", 22, "tcp"),
    "node-without-route": (V4, "192.168.0.1", "198.51.100.9", 80, "tcp"),
    "pod-without-route": (V4, "10.180.0.9", "198.51.100.9", 80, "tcp"),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_transcripts(name: str, golden: Callable[[Path, str], None]) -> None:
    world, source, to, port, protocol = DIALOGUES[name]
    node = Node(world.node_addresses, device)
    local = node.holds(ip_address(source))
    arrives = "" if local else device(ip_address(source))
    packet = Packet(ip_address(source), ip_address(to), port, protocol, local=local, in_interface=arrives)
    story = told(rules_of(world, *cluster(world)), packet, node, way, {})
    golden(GOLDEN / f"trace-{name}.txt", "\n".join(lines(story)) + f"\nexit {int(not story.arrives)}\n")


def story_of(rules: KernelRules, to: str, port: int, known: dict[At, str] | None = None) -> dict[str, object]:
    packet = Packet(ip_address("10.180.0.9"), ip_address(to), port)
    return document(told(rules, packet, Node(V4.node_addresses, device), way, known or {}))


def test_json_has_every_outcome_and_its_share(golden: Callable[[Path, str], None]) -> None:
    found = story_of(rules_of(V4, *cluster(V4)), "172.30.0.41", 80)
    golden(GOLDEN / "trace-pod-to-cluster-ip.json", json.dumps(found, indent=2) + "\n")


def test_a_drop_of_somebody_else_is_told() -> None:
    rules = rules_of(V4, *cluster(V4))
    held = rules.sources[0].snapshot
    assert held is not None
    rules.sources[0].snapshot = replace(held, policies={(Table.FILTER, "FORWARD"): "DROP"})
    found = story_of(rules, "203.0.113.77", 443)
    assert (found["arrives"], found["service"]) == (False, None)
    outcome: dict[str, str] = found["outcomes"][0]  # type: ignore[index]
    assert (outcome["fate"], outcome["said"]) == ("dropped", "table filter, chain FORWARD, policy DROP")
    chains = {
        **held.tables[Table.FILTER],
        "FORWARD": ('-m comment --comment "flanneld forward" -j FLANNEL-FWD', "-j DROP"),
    }
    tables = {**held.tables, Table.FILTER: {**chains, "FLANNEL-FWD": ("-s 10.99.0.0/16 -j ACCEPT",)}}
    rules.sources[0].snapshot = replace(held, tables=tables)
    outcome = story_of(rules, "203.0.113.77", 443)["outcomes"][0]  # type: ignore[index]
    assert (outcome["fate"], outcome["said"]) == ("dropped", "table filter, chain FORWARD")


def test_what_the_api_knows_and_the_rules_do_not_is_said() -> None:
    known = {At(ip_address("172.30.0.99"), "tcp", 80): "default/new:http"}
    found = story_of(rules_of(V4, *cluster(V4)), "172.30.0.99", 80, known)
    assert found["service"] is None
    assert any("default/new:http, but no rule here knows them" in note for note in found["notes"])  # type: ignore[attr-defined]


def test_rules_that_are_not_understood_become_notes_not_answers() -> None:
    rules = rules_of(V4, *cluster(V4))
    held = rules.sources[0].snapshot
    assert held is not None
    chains = dict(held.tables[Table.FILTER])
    chains["FORWARD"] = ("-m set --match-set enemies src -j DROP", *chains["FORWARD"])
    rules.sources[0].snapshot = replace(held, tables={**held.tables, Table.FILTER: chains})
    found = story_of(rules, "172.30.0.43", 81)
    assert {each["fate"] for each in found["outcomes"]} == {"dropped", "delivered"}  # type: ignore[attr-defined]
    assert any("match-set enemies" in note for note in found["notes"])  # type: ignore[attr-defined]


def test_without_any_proxy_it_says_so() -> None:
    found = story_of(KernelRules(Family.V4, ()), "172.30.0.41", 80)
    assert any("no proxy has written rules here" in note for note in found["notes"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("comment", "name"),
    [
        ("default/web:http cluster IP", "default/web:http"),
        ("kube-system/kube-dns has no endpoints", "kube-system/kube-dns"),
        ("masquerade traffic for a/b:c external destinations", "a/b:c"),
        ("default/web:http -> 10.180.0.2:8080", "default/web:http"),
        ("flannel 10.244.0.0/16 masquerade", ""),
        ("kubernetes service portals", ""),
    ],
)
def test_services_are_named_by_comments(comment: str, name: str) -> None:
    assert service_named(comment) == name
