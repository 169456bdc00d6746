"""hostPort's configuration, and its rules as text: names and spelling are the reference plugin's."""

from __future__ import annotations

from typing import Any

import pytest

from cni.hostports import iptables, nftables, rule
from cni.hostports.mapping import Pod, Port, Wish, parse, pods
from cni.spec import Address, CniError, Interface, Result


def asked(*ports: dict[str, Any], **keys: Any) -> Wish:
    return parse("c1", {"cniVersion": "1.0.0", "name": "pods", "runtimeConfig": {"portMappings": list(ports)}, **keys})


def test_the_defaults_are_the_references() -> None:
    wish = asked({"hostPort": 80, "containerPort": 8080, "protocol": "TCP", "hostIP": ""})
    (port,) = wish.ports
    assert (port.host, port.pod, port.protocol, port.address, port.family) == (80, 8080, "tcp", "", 0)
    assert (wish.snat, wish.everything, wish.mark, wish.marker, wish.backend) == (True, False, 0x2000, "", "")


@pytest.mark.parametrize(
    ("address", "families", "told"),
    [
        ("", {4, 6}, ""),
        ("0.0.0.0", {4}, ""),
        ("::", {6}, ""),
        ("192.0.2.1", {4}, "192.0.2.1"),
        ("2001:db8::1", {6}, "2001:db8::1"),
    ],
)
def test_a_host_address_is_of_one_family(address: str, families: set[int], told: str) -> None:
    wish = Wish("pods", "c1", [Port(80, 8080, "tcp", address)])
    assert {family for family in (4, 6) if wish.of(family)} == families
    assert wish.ports[0].address == told


@pytest.mark.parametrize(
    ("keys", "backend"),
    [
        ({}, ""),
        ({"backend": "nftables"}, "nftables"),
        ({"externalSetMarkChain": "KUBE-MARK-MASQ"}, "iptables"),
        ({"conditionsV4": ["-d", "192.0.2.1"]}, "iptables"),
        ({"conditionsV6": ["ip6", "daddr", "2001:db8::1"]}, "nftables"),
    ],
)
def test_the_backend_follows_from_what_is_said(keys: dict[str, Any], backend: str) -> None:
    assert asked(**keys).backend == backend


@pytest.mark.parametrize(
    "keys",
    [
        {"snat": "yes"},
        {"markMasqBit": True},
        {"markMasqBit": -1},
        {"conditionsV4": "-d 192.0.2.1"},
        {"conditionsV4": ["-d\n-A"]},
        {"externalSetMarkChain": "A -j ACCEPT"},
        {"backend": "nftables", "externalSetMarkChain": "A"},
        {"backend": 4},
    ],
)
def test_what_is_wrong_is_refused_and_named(keys: dict[str, Any]) -> None:
    with pytest.raises(CniError) as refused:
        asked(**keys)
    assert refused.value.code == 7
    assert next(iter(keys)) in refused.value.message or "backend" in refused.value.message


def test_the_containers_own_addresses_are_taken_first_of_each_family() -> None:
    links = [Interface("cni0"), Interface("eth0", sandbox="/run/netns/x"), Interface("net1", sandbox="/run/netns/x")]
    addresses = [
        Address("10.0.0.1/24", interface=0),
        Address("10.9.0.7/24", interface=2),
        Address("10.1.0.7/24", interface=1),
        Address("10.1.0.8/24", interface=1),
        Address("fd00::7/64"),
    ]
    found = pods(Result(links, addresses), "eth0")
    assert {family: pod.range for family, pod in found.items()} == {4: "10.1.0.7/24", 6: "fd00::7/64"}
    assert pods(None, "eth0") == {}


def test_names_are_the_references() -> None:
    assert iptables.chain_of("pods", "c1") == "CNI-DN-48c5963fc74ef84afd142"
    assert len(iptables.chain_of("a" * 100, "b" * 100)) == 28


def test_fifteen_ports_to_a_jump_and_one_protocol() -> None:
    ports = [Port(8000 + at, 80) for at in range(31)] + [Port(53, 53, "udp"), Port(8000, 81, "tcp", "192.0.2.1")]
    found = iptables.entries(Wish("pods", "c1", ports), Pod("10.1.0.7/24"))
    listed = [rule.partition("--destination-ports ")[2].split(" ")[0] for rule in found]
    assert [len(each.split(",")) for each in listed] == [15, 15, 1, 1]
    assert found[-1] == (
        '-m comment --comment "dnat name: \\"pods\\" id: \\"c1\\"" -m multiport -p udp --destination-ports 53 '
        "-j CNI-DN-48c5963fc74ef84afd142"
    )


def test_marks_come_before_the_redirection() -> None:
    wish = Wish("pods", "c1", [Port(80, 8080, "tcp", "192.0.2.1")])
    head = "-p tcp --dport 80 -d 192.0.2.1"
    assert iptables.rules_of(wish, Pod("10.1.0.7/24")) == [
        f"{head} -s 10.1.0.7/24 -j CNI-HOSTPORT-SETMARK",
        f"{head} -s 127.0.0.1 -j CNI-HOSTPORT-SETMARK",
        f"{head} -j DNAT --to-destination 10.1.0.7:8080",
    ]
    six = Wish("pods", "c1", [Port(80, 8080)])
    assert iptables.rules_of(six, Pod("fd00::7/64")) == [
        "-p tcp --dport 80 -s fd00::7/64 -j CNI-HOSTPORT-SETMARK",
        "-p tcp --dport 80 -j DNAT --to-destination [fd00::7]:8080",
    ]


def test_a_comment_fits_however_long_the_names_are() -> None:
    (rule,) = iptables.entries(Wish("n" * 200, "c" * 200, [Port(80, 80)]), Pod("10.1.0.7/24"))
    comment = rule.split('--comment "')[1].split('" -m multiport')[0].replace("\\", "")
    assert len(comment) == 255
    assert len(nftables.note_of("n" * 200, "c" * 200)) <= 127


def test_words_of_the_author_stay_one_word() -> None:
    wish = Wish("pods", "c1", [Port(80, 80)], conditions={4: ["-m", "comment", "--comment", 'a "b" c']})
    (rule,) = iptables.entries(wish, Pod("10.1.0.7/24"))
    assert '-m comment --comment "a \\"b\\" c" -j CNI-DN-' in rule


def test_nftables_says_the_same() -> None:
    wish = Wish("pods", "c1", [Port(80, 8080, "udp"), Port(81, 8081, "tcp", "fd00::1")])
    assert [(each.chain, each.text()) for each in nftables.rules_of(wish, Pod("fd00::7/64"))] == [
        ("hostports", "ip6 saddr fd00::7/64 udp dport 80 meta mark set meta mark | 0x2000"),
        ("hostports", "udp dport 80 dnat to [fd00::7]:8080"),
        ("hostip_hostports", "ip6 saddr fd00::7/64 ip6 daddr fd00::1 tcp dport 81 meta mark set meta mark | 0x2000"),
        ("hostip_hostports", "ip6 daddr fd00::1 tcp dport 81 dnat to [fd00::7]:8081"),
        ("masquerading", "meta mark & 0x2000 == 0x2000 ip6 daddr fd00::7 masquerade"),
    ]
    assert nftables.rules_of(Wish("pods", "c1"), Pod("10.1.0.7/24")) == []


def test_a_rule_of_nftables_is_known_again() -> None:
    """As nft 1.0.6 lists it; and not with another port, source, mark, pod, or with a condition more."""
    wish, pod = Wish("pods", "c1", [Port(8080, 80)]), Pod("10.77.1.2/24")

    def match(protocol: str, field: str, right: Any, op: str = "==") -> dict[str, Any]:
        return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}

    port, dnat = match("tcp", "dport", 8080), {"dnat": {"addr": "10.77.1.2", "port": 80}}
    source = match("ip", "saddr", {"prefix": {"addr": "10.77.1.0", "len": 24}})
    mark = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"meta": {"key": "mark"}}, 8192]}}}
    marked = {"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 8192]}, "right": 8192}}
    pods_own, masquerade = match("ip", "daddr", "10.77.1.2"), {"masquerade": None}

    def meaning(chain: str, *expressions: dict[str, Any]) -> tuple[str | int, ...]:
        return rule.read({"chain": chain, "handle": 5, "comment": "c1", "expr": list(expressions)}).meaning

    wanted = [each.meaning for each in nftables.rules_of(wish, pod)]
    assert wanted == [
        meaning("hostports", source, port, mark),
        meaning("hostports", match("ip", "saddr", "127.0.0.1"), port, mark),
        meaning("hostports", port, dnat),
        meaning("masquerading", marked, pods_own, masquerade),
    ]
    other_mark = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"meta": {"key": "mark"}}, 16384]}}}
    for chain, expressions in (
        ("hostports", [match("tcp", "dport", 1), dnat]),
        ("hostports", [match("udp", "dport", 8080), dnat]),
        ("hostports", [match("tcp", "dport", 8080, "!="), dnat]),
        ("hostports", [port, {"dnat": {"addr": "10.77.1.3", "port": 80}}]),
        ("hostports", [match("ip", "daddr", "192.0.2.1"), port, dnat]),
        ("hostports", [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "x"}}, port, dnat]),
        ("hostports", [source, port, other_mark]),
        ("hostip_hostports", [port, dnat]),
        ("masquerading", [pods_own, masquerade]),
        ("masquerading", [marked, match("ip", "daddr", "10.77.1.3"), masquerade]),
        ("masquerading", [marked, pods_own, {"drop": None}]),
    ):
        assert meaning(chain, *expressions) not in wanted, expressions
