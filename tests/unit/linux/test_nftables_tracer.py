"""The machine runs rules as the kernel does; tests/node runs the same flows over what the kernel gives back."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from linux.nftables import expressions as ex
from linux.nftables.batch import Batch
from linux.nftables.elements import DROP, GOTO, JUMP, RETURN, Element, Verdict, joined
from linux.nftables.expressions import Comparison, Ct, Header, Meta, Nat, Reject
from linux.nftables.objects import INTERVAL, VERDICT_TYPE, Hook, Set
from linux.nftables.ruleset import Ruleset
from linux.nftables.tracer import trace
from linux.nftables.wire import number32, number64
from linux.packets import Packet, Unknown
from linux.wire import nest, text

NODE = frozenset([ip_address("192.168.0.1")])
A, B, VIP = (ip_address(text).packed for text in ("10.244.0.1", "10.244.0.2", "10.96.0.1"))
MARK = struct.pack("=I", 0x4000)
NOTHING = bytes(4)
TCP = b"\x06"


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def number(value: int) -> bytes:
    return struct.pack("=I", value)


DESTINATION = [  # address . protocol . port, from register 1 on
    ex.payload(Header.NETWORK, 16, 4, 1),
    ex.meta(Meta.L4PROTO, 9),
    ex.payload(Header.TRANSPORT, 2, 2, 10),
]
SOURCE = ex.payload(Header.NETWORK, 12, 4, 1)


def batch() -> Batch:
    """Two endpoints behind a cluster IP, as a flat layout writes them."""
    made = Batch(socket.AF_INET, "t")
    made.add_table()
    made.add_set(Set("services", 12, data_type=VERDICT_TYPE, fields=(4, 1, 2)))
    made.add_set(Set("ends", 16, data_type=0, data_length=8, fields=(4, 1, 2, 4)))
    made.add_set(Set("refused", 4, flags=INTERVAL))
    made.add_set(Set("ranges", 8, flags=INTERVAL, fields=(4, 2)))
    for chain in ("two", "mark"):
        made.add_chain(chain)
    made.add_chain("nat", Hook("nat", 0, -100))
    made.add_chain("post", Hook("nat", 4, 100))
    made.add_chain("forward", Hook("filter", 2, 0, drops=True))
    made.add_rule("nat", [*DESTINATION, ex.lookup("services", 1, 0)])
    outside = [SOURCE, ex.bitwise(1, 1, b"\xff\xff\0\0", NOTHING), ex.compare(1, Comparison.UNEQUAL, b"\x0a\xf4\0\0")]
    made.add_rule("two", [*outside, ex.verdict(JUMP, "mark")])
    dice = ex.numgen(11, 2)
    made.add_rule("two", [*DESTINATION, dice, ex.lookup("ends", 1, 1), ex.nat(Nat.DESTINATION, socket.AF_INET, 8, 9)])
    made.add_rule(
        "mark", [ex.meta(Meta.MARK, 1), ex.bitwise(1, 1, number(0xFFFFBFFF), MARK), ex.set_meta(Meta.MARK, 1)]
    )
    marked = [ex.meta(Meta.MARK, 1), ex.bitwise(1, 1, MARK, NOTHING)]
    made.add_rule("post", [*marked, ex.compare(1, Comparison.EQUAL, NOTHING), ex.verdict(RETURN)])
    made.add_rule("post", [ex.masquerade()])
    made.add_rule(
        "forward", [ex.payload(Header.NETWORK, 16, 4, 1), ex.lookup("refused", 1), ex.reject(Reject.ICMPX, 1)]
    )
    where = [ex.payload(Header.NETWORK, 16, 4, 1), ex.payload(Header.TRANSPORT, 2, 2, 9)]
    made.add_rule("forward", [*where, ex.lookup("ranges", 1), ex.verdict(DROP)], comment="a range")
    translated = [ex.ct(Ct.STATUS, 1), ex.bitwise(1, 1, number(1 << 5), NOTHING)]
    made.add_rule("forward", [*translated, ex.compare(1, Comparison.UNEQUAL, NOTHING), ex.verdict(1)])
    made.add_elements("services", [Element(joined(VIP, TCP, port(80)), Verdict(GOTO, "two"), comment="ns/svc:http")])
    made.add_elements(
        "ends",
        [
            Element(joined(VIP, TCP, port(80), number(index)), joined(end, port(8080)))
            for index, end in enumerate((A, B))
        ],
    )
    for first, after in (("20.0.0.0", "21.0.0.0"), ("30.0.0.5", "30.0.0.8")):
        bounds = Element(ip_address(first).packed), Element(ip_address(after).packed, interval_end=True)
        made.add_elements("refused", bounds)
    low, high = (joined(ip_address(text).packed, port(at)) for text, at in (("10.244.0.0", 8081), ("10.244.0.9", 8090)))
    made.add_elements("ranges", [Element(low, key_end=high)])
    return made


def ends(source: str, to: str, at: int, made: Batch | None = None, **more: object) -> set[tuple[str, str, bool, float]]:
    packet = Packet(ip_address(source), ip_address(to), at, **more)  # type: ignore[arg-type]
    found = trace(Ruleset().take((made or batch()).contents()), packet, NODE)
    return {(each.verdict, f"{each.destination}:{each.port}", each.masqueraded, each.share) for each in found}


def test_dice_give_every_ending_and_its_share() -> None:
    assert ends("10.244.0.5", "10.96.0.1", 80) == {
        ("ACCEPT", "10.244.0.1:8080", False, 0.5),
        ("ACCEPT", "10.244.0.2:8080", False, 0.5),
    }


def test_marks_decide_masquerading() -> None:
    assert {masqueraded for _, _, masqueraded, _ in ends("1.2.3.4", "10.96.0.1", 80)} == {True}


def test_elements_name_what_they_decide() -> None:
    packet = Packet(ip_address("1.2.3.4"), ip_address("10.96.0.1"), 80)
    for ending in trace(Ruleset().take(batch().contents()), packet, NODE):
        assert [(step.chain, step.said) for step in ending.steps][:3] == [
            ("nat", ""),
            ("two", "ns/svc:http"),
            ("mark", ""),
        ]


@pytest.mark.parametrize(
    ("to", "at", "verdict"),
    [
        ("20.1.2.3", 80, "REJECT"),
        ("19.255.255.255", 80, "DROP"),
        ("21.0.0.0", 80, "DROP"),
        ("30.0.0.5", 80, "REJECT"),
        ("30.0.0.7", 80, "REJECT"),
        ("30.0.0.8", 80, "DROP"),
        ("10.96.0.1", 81, "DROP"),
    ],
)
def test_intervals_and_the_policy_of_the_chain(to: str, at: int, verdict: str) -> None:
    assert {found for found, *_ in ends("10.244.0.5", to, at)} == {verdict}


def test_ranges_of_concatenations_are_field_by_field() -> None:
    made = batch()
    made.flush_chain("forward")
    where = [ex.payload(Header.NETWORK, 16, 4, 1), ex.payload(Header.TRANSPORT, 2, 2, 9)]
    made.add_rule("forward", [*where, ex.lookup("ranges", 1, invert=True), ex.verdict(1)])
    for to, at, verdict in (
        ("10.244.0.3", 8085, "DROP"),
        ("10.244.0.3", 80, "ACCEPT"),
        ("10.244.0.10", 8085, "ACCEPT"),
    ):
        assert {found for found, *_ in ends("1.2.3.4", to, at, made)} == {verdict}


def test_deletions_are_carried_out() -> None:
    made = batch()
    made.delete_elements("services", [Element(joined(VIP, TCP, port(80)))])
    assert ends("10.244.0.5", "10.96.0.1", 80, made) == {("DROP", "10.96.0.1:80", False, 1.0)}
    made.delete_table()
    assert ends("10.244.0.5", "10.96.0.1", 80, made) == {("ACCEPT", "10.96.0.1:80", False, 1.0)}


def test_dice_that_decide_nothing_are_forgotten() -> None:
    made = batch()
    made.flush_set("ends")
    assert ends("10.244.0.5", "10.96.0.1", 80, made) == {("DROP", "10.96.0.1:80", False, 1.0)}


def test_it_refuses_to_guess_and_says_so_where_it_may() -> None:
    made = batch()
    made.add_chain("odd", Hook("filter", 0, -300))
    made.add_rule("odd", [ex.expression("osf"), ex.verdict(DROP)])
    with pytest.raises(Unknown, match=r"table ip t, chain odd: expression osf"):
        ends("10.244.0.5", "10.96.0.1", 80, made)
    packet = Packet(ip_address("10.244.0.5"), ip_address("10.96.0.1"), 80)
    found = trace(Ruleset().take(made.contents()), packet, NODE, lenient=True)
    assert {ending.verdict for ending in found} == {"DROP", "ACCEPT"}
    assert all("osf" in ending.doubts[0] for ending in found)


def test_a_drop_is_explained_by_who_drops_not_by_who_spoke_before() -> None:
    made = batch()
    made.add_chain("talkative")
    made.add_chain("firewall", Hook("filter", 0, -300, drops=True))
    made.add_rule("firewall", [ex.verdict(JUMP, "talkative")], comment="flanneld forward")
    packet = Packet(ip_address("10.244.0.5"), ip_address("10.96.0.1"), 80)

    def why() -> set[str]:
        return {ending.why for ending in trace(Ruleset().take(made.contents()), packet, NODE)}

    assert why() == {"table ip t, chain firewall, policy drop"}
    made.add_rule("firewall", [ex.verdict(DROP)])
    assert why() == {"table ip t, chain firewall"}
    made.add_rule("talkative", [ex.verdict(DROP)])
    assert why() == {"flanneld forward"}


CPU = [ex.expression("meta", number32(1, 1), number32(2, 20)), ex.compare(1, Comparison.EQUAL, number(0))]
PORT = ex.payload(Header.TRANSPORT, 2, 2, 1)


@pytest.mark.parametrize(
    ("rest", "verdicts"),
    [
        ([ex.verdict(DROP)], {"ACCEPT", "DROP"}),
        ([PORT, ex.compare(1, Comparison.EQUAL, port(80)), ex.reject(Reject.ICMPX, 1)], {"ACCEPT", "REJECT"}),
        ([PORT, ex.compare(1, Comparison.EQUAL, port(81)), ex.verdict(DROP)], {"ACCEPT"}),
        ([PORT, ex.lookup("doors", 1, 0)], {"ACCEPT", "DROP"}),
        ([ex.lookup("doors", 1, 0)], {"ACCEPT", "DROP", "REJECT"}),
        ([ex.lookup("values", 1, 1), ex.compare(1, Comparison.EQUAL, port(1)), ex.verdict(DROP)], {"ACCEPT", "DROP"}),
        ([ex.numgen(1, 2), ex.compare(1, Comparison.EQUAL, number(1)), ex.verdict(DROP)], {"ACCEPT", "DROP"}),
        ([ex.expression("osf"), ex.verdict(DROP)], {"ACCEPT", "DROP"}),
    ],
)
def test_behind_what_is_not_known_every_verdict_that_is_still_possible_is_told(
    rest: list[bytes], verdicts: set[str]
) -> None:
    made = batch()
    made.add_chain("refusing")
    made.add_rule("refusing", [ex.reject(Reject.ICMPX, 1)])
    made.add_set(Set("doors", 2, data_type=VERDICT_TYPE))
    made.add_set(Set("values", 2, data_type=0, data_length=2))
    made.add_elements("doors", [Element(port(80), Verdict(DROP)), Element(port(81), Verdict(JUMP, "refusing"))])
    made.add_chain("odd", Hook("filter", 0, -300))
    made.add_rule("odd", [*CPU, *rest])
    packet = Packet(ip_address("10.244.0.5"), ip_address("10.96.0.1"), 80)
    found = trace(Ruleset().take(made.contents()), packet, NODE, lenient=True)
    assert {ending.verdict for ending in found} == verdicts
    assert all("meta key 20" in ending.doubts[0] for ending in found)


@pytest.mark.parametrize("known", [True, False])
def test_nat_behind_what_is_not_known_goes_where_it_is_known_to(known: bool) -> None:
    made = batch()
    made.flush_chain("nat")
    where = [ex.immediate(1, A)] if known else []
    made.add_rule("nat", [*CPU, *where, ex.nat(Nat.DESTINATION, socket.AF_INET, 1)])
    packet = Packet(ip_address("10.244.0.5"), ip_address("10.96.0.1"), 80)
    found = trace(Ruleset().take(made.contents()), packet, NODE, lenient=True)
    ways = {(ending.rewritten, len(ending.doubts)) for ending in found}
    assert ways == ({(False, 1), (True, 1)} if known else {(False, 1), (False, 2)})


def test_a_connection_meets_nat_once() -> None:
    assert ends("10.244.0.5", "10.96.0.1", 80, state="ESTABLISHED") == {("DROP", "10.96.0.1:80", False, 1.0)}


RATE = (number64(1, 10), number64(2, 1), number32(3, 5), number32(4, 0))
OVER = number32(5, 1)


@pytest.mark.parametrize(
    ("limiting", "dropped"),
    [
        (ex.expression("limit", *RATE), True),
        (ex.expression("limit", *RATE, OVER), False),
        (ex.expression("connlimit", number32(1, 20), number32(2, 0)), True),
        (ex.expression("connlimit", number32(1, 20), number32(2, 1)), False),
        (ex.expression("quota", number64(1, 1000), number32(2, 0), number64(4, 999)), True),
        (ex.expression("quota", number64(1, 1000), number32(2, 1), number64(4, 999)), False),
        (ex.expression("quota", number64(1, 1000), number32(2, 3), number64(4, 1000)), True),
        (ex.expression("dynset", text(1, "refused"), number32(4, 1)), True),
    ],
)
def test_a_first_packet_is_below_every_limit(limiting: bytes, dropped: bool) -> None:
    inner = nest(7, limiting[4:])
    for expressions in ([limiting], [ex.expression("dynset", text(1, "refused"), number32(4, 1), inner)]):
        made = batch()
        made.add_chain("first", Hook("filter", 0, -300))
        made.add_rule("first", [*expressions, ex.verdict(DROP)])
        assert {found for found, *_ in ends("10.244.0.5", "10.96.0.1", 80, made)} == {"DROP" if dropped else "ACCEPT"}
