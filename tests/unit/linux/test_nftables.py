"""nf_tables messages: what is packed is read back, long lists are cut, refusals and notifications are understood. No kernel."""

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux.nftables import expressions as say
from linux.nftables import objects
from linux.nftables.batch import Batch
from linux.nftables.connection import Failure, Refused
from linux.nftables.elements import (
    GOTO,
    Element,
    Verdict,
    chunks,
    joined,
    packed,
    pair_chunks,
    unpacked,
    unpacked_pairs,
)
from linux.nftables.listener import Interest, notices
from linux.nftables.objects import INTERVAL, VERDICT_TYPE, Hook, Set, Type, concatenated
from linux.nftables.policies import Dropping
from linux.nftables.wire import Message, message, number32, ours
from linux.wire import HEADER, LONGEST, attributes, messages, spans, text

V4 = socket.AF_INET

data = st.one_of(
    st.none(),
    st.binary(min_size=1, max_size=20),
    st.builds(Verdict, st.integers(-5, 1), st.sampled_from(["", "lb-5", "service-ABC-ns/svc/tcp/p80"])),
)
keys = st.binary(min_size=1, max_size=40)
comments = st.text("abc/:-.", min_size=1, max_size=100)
plain_elements = st.tuples(keys, data).map(lambda one: Element(*one))
whole_elements = st.tuples(
    keys,
    data,
    st.none() | st.integers(1, 1 << 40),
    st.none() | keys,
    st.none() | comments,
    st.none() | st.integers(0, 1 << 40),
    st.booleans(),
).map(lambda one: Element(*one))


def read(content: bytes) -> list[Element]:
    return [found.element for found in unpacked(content, 0, len(content))]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(plain_elements, whole_elements), max_size=8))
def test_elements_are_read_as_they_were_packed(wanted: list[Element]) -> None:
    assert read(b"".join(map(packed, wanted))) == wanted


@pytest.mark.parametrize(("key", "value"), [(12, 8), (16, 8), (28, 20), (5, 3), (2, 2)])
def test_pairs_are_packed_and_read_as_elements_are(key: int, value: int) -> None:
    pairs = [(at.to_bytes(key, "big"), at.to_bytes(value, "little")) for at in range(300)]
    content = b"".join(pair_chunks(pairs))
    assert content == b"".join(chunks(Element(*pair) for pair in pairs))
    assert list(unpacked_pairs(content, 0, len(content))) == pairs
    odd = content + packed(Element(b"k" * key, b"v" * value, comment="one that looks otherwise"))
    assert list(unpacked_pairs(odd, 0, len(odd))) == [*pairs, (b"k" * key, b"v" * value)]
    assert list(unpacked_pairs(b"", 0, 0)) == []


def test_a_counter_is_read_wherever_it_stands() -> None:
    counter = say.counter(packets=7, octets=700)[4:]
    for element in (Element(b"abcd"), Element(b"abcd", b"wxyz"), Element(b"abcd", b"wxyz", comment="about")):
        whole = packed(element) + struct.pack("=HH", 4 + len(counter), 7) + counter
        whole = struct.pack("=HH", len(whole), 1) + whole[4:]
        (found,) = unpacked(whole, 0, len(whole))
        assert found.element == element
        if element.data is not None:
            assert found.counter == (7, 700)


def test_fields_are_padded_to_registers() -> None:
    assert joined(b"\x0a\0\0\1", b"\x06", b"\0\x50") == b"\x0a\0\0\1\x06\0\0\0\0\x50\0\0"


@pytest.mark.parametrize("count", [0, 1, 1500, 5000])
def test_long_lists_go_out_in_several_messages(count: int) -> None:
    wanted = [
        Element(struct.pack(">IHH", at, 80, 0), struct.pack(">I", at), comment="c" * (at % 90)) for at in range(count)
    ]
    pieces = list(chunks(wanted))
    assert all(len(piece) < LONGEST for piece in pieces)
    assert [element for piece in pieces for element in read(piece)] == wanted
    batch = Batch(V4, "t")
    batch.add_elements("map", wanted)
    assert len(batch) == len(pieces)


def test_an_attribute_that_is_too_long_is_refused_here() -> None:
    with pytest.raises(ValueError, match="attribute 2: 70000 bytes do not fit"):
        text(2, "x" * 69_999)


def test_a_batch_is_numbered_and_only_its_last_message_is_confirmed() -> None:
    batch = Batch(V4, "kube-proxy")
    assert not batch
    batch.add_table(comment="stamp")
    batch.add_chain("forward", Hook("filter", 2, 0, drops=True))
    batch.flush_chain("forward")
    found = list(messages(batch.datagram(77)))
    assert [kind for kind, *_ in found] == [
        16,
        *(ours(k) for k in (Message.NEWTABLE, Message.NEWCHAIN, Message.DELRULE)),
        17,
    ]
    assert [sequence for _, _, sequence, *_ in found] == [0, 1, 2, 3, 4]
    assert [bool(flags & 4) for _, flags, *_ in found] == [False, False, False, True, False]
    begin = batch.datagram(77)[HEADER.size + 4 : 28]
    assert attributes(begin) == {1: struct.pack(">I", 77)}
    assert batch.about(2, None)[0] == "add chain forward of table kube-proxy"
    assert batch.about(1, None)[0] == "add table kube-proxy"
    assert batch.about(0, None)[0] == "the transaction on table kube-proxy"


def test_a_stumble_names_the_element() -> None:
    wanted = [Element(bytes([0, 0, at, 0]), b"v") for at in range(50)]
    batch = Batch(V4, "t")
    batch.add_elements("map", wanted)
    (_, _, packed_message) = next(batch.contents())
    for at, (_, start, _) in enumerate(
        found
        for number, one, two in spans(packed_message, 0, len(packed_message))
        if number == 3
        for found in spans(packed_message, one, two)
    ):
        assert batch.about(1, start - 4 + 20)[2] == wanted[at]
    assert batch.about(1, None)[2] is None
    batch.delete_elements("fib", wanted[:1])
    assert batch.about(len(batch), None)[2] == Element(wanted[0].key), "the only one, whatever old kernels say"


def test_a_refusal_is_told_in_words() -> None:
    failures = tuple(Failure(17, f"add chain {at}", name=str(at)) for at in range(5))
    assert str(Refused(failures)) == (
        "add chain 0: File exists; add chain 1: File exists; add chain 2: File exists; and 2 more"
    )
    assert str(Failure(2, "add a rule", "no such set", element=Element(b"\x0a\1"))) == (
        "add a rule (key 0a 01): No such file or directory (no such set)"
    )
    assert Refused((Failure(85, "x"),)).outdated


@pytest.mark.parametrize(
    "wanted",
    [
        Set("plain", 4),
        Set("members", 12, concatenated(Type.IPV4, Type.PROTOCOL, Type.PORT), fields=(4, 1, 2), counts=True),
        Set("verdicts", 4, data_type=VERDICT_TYPE, comment="where to", data_length=16),
        Set("timed", 16, data_type=0, data_length=20, flags=objects.TIMEOUT | objects.DYNAMIC, timeout=5, size=9),
        Set("ranges", 8, fields=(4, 2), flags=INTERVAL),
    ],
    ids=lambda wanted: wanted.name,
)
def test_sets_are_read_as_they_were_packed(wanted: Set) -> None:
    body = text(1, "t") + text(2, wanted.name) + objects.packed_set(wanted, 1)
    found = objects.set_of(V4, body)
    assert {name: getattr(found, name) for name in ("name", "key_length", "key_type", "data_type", "fields")} == {
        name: getattr(wanted, name) for name in ("name", "key_length", "key_type", "data_type", "fields")
    }
    assert (found.flags, found.size, found.timeout, found.counts, found.comment) == (
        wanted.flags,
        wanted.size,
        wanted.timeout,
        wanted.counts,
        wanted.comment,
    )


def test_chains_and_rules_are_read_as_they_were_packed() -> None:
    batch = Batch(V4, "t")
    hook = Hook("nat", 4, -100)
    batch.add_chain("post", hook, comment="leaving")
    batch.add_rule("post", [say.numgen(8, 5), say.masquerade(say.RANDOM_FULLY)], comment="a rule")
    (_, _, chain), (_, _, rule) = batch.contents()
    assert objects.chain(V4, chain) == objects.Chain(V4, "t", "post", hook, "leaving")
    found = objects.rule(V4, rule)
    assert (found.chain, found.comment) == ("post", "a rule")
    assert [one.name for one in found.expressions] == ["numgen", "masq"]
    assert found.expressions[0].attributes[2] == struct.pack(">I", 5)


# --- notifications ---------------------------------------------------------------------------------------------------


def notice(kind: Message, body: bytes, *, family: int = V4, port: int = 99) -> bytes:
    whole = message(ours(kind), 0, 1, family, body)
    return whole[:12] + struct.pack("=I", port) + whole[16:]


def concerned(interest: Interest, datagram: bytes, own: set[int] | None = None) -> list[bool]:
    return [interest.concerns(one.kind, one.family, one.found) for one in notices(datagram, own or set())]


def test_a_table_of_interest_is_heard_whole() -> None:
    interest = Interest(V4, "kube-proxy")
    mine, other = text(1, "kube-proxy"), text(1, "other")
    datagram = b"".join(
        (
            notice(Message.DELSETELEM, mine + text(2, "endpoints")),
            notice(Message.NEWCHAIN, other + text(3, "chain")),
            notice(Message.DELTABLE, mine, family=socket.AF_INET6),
            notice(Message.DELRULE, mine + text(2, "services"), port=7),
            notice(Message.DELTABLE, mine),
        )
    )
    assert concerned(interest, datagram, {7}) == [True, False, False, True]


def test_in_a_shared_table_only_our_chains_and_jumps_to_them_count() -> None:
    interest = Interest(V4, "nat", ("KUBE-",))
    nat = text(1, "nat")
    jump = struct.pack("=HH", 4 + len(say.verdict(GOTO, "KUBE-SERVICES")), 4) + say.verdict(GOTO, "KUBE-SERVICES")
    docker = struct.pack("=HH", 4 + len(say.verdict(GOTO, "DOCKER")), 4) + say.verdict(GOTO, "DOCKER")
    cases = [
        (notice(Message.NEWCHAIN, nat + text(3, "DOCKER")), False),
        (notice(Message.DELCHAIN, nat + text(3, "KUBE-SVC-X")), True),
        (notice(Message.NEWRULE, nat + text(2, "KUBE-SVC-X") + docker), True),
        (notice(Message.DELRULE, nat + text(2, "PREROUTING") + jump), True),
        (notice(Message.DELRULE, nat + text(2, "PREROUTING") + docker), False),
        (notice(Message.DELRULE, nat + text(2, "PREROUTING")), True),
        (notice(Message.NEWRULE, nat + text(2, "PREROUTING")), False),
        (notice(Message.NEWSET, nat + text(2, "KUBE-SET")), False),
        (notice(Message.DELTABLE, nat), True),
    ]
    for datagram, expected in cases:
        assert concerned(interest, datagram) == [expected]


def test_the_end_of_a_transaction_is_heard_from_anybody() -> None:
    body = number32(1, 12) + number32(2, 4711) + text(3, "nft")
    (found,) = notices(notice(Message.NEWGEN, body, port=7), {7})
    assert (found.kind, found.port) == (Message.NEWGEN, 7)


def test_what_drops_is_named_as_nft_does() -> None:
    found = Dropping("inet", "firewalld", "filter_FORWARD", "forward")
    assert found.listing == "nft list chain inet firewalld filter_FORWARD"
