"""etcd's messages by hand: bytes worked out from etcd 3.4's rpc.proto. (The contract over the stores asks a real etcd.)"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import etcd_wire as wire


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (wire.range_request(b"/a", b"/b", limit=500, revision=7), "0a022f6112022f6218f4032007"),
        (wire.range_request(b"\0", count_only=True), "0a01004801"),
        (wire.range_request(b"k", keys_only=True), "0a016b4001"),
        (wire.put_request(b"k", b"", 300), "0a016b120018ac02"),
        (wire.mod_revision_is(b"k", 0), "10021a016b3000"),
        (wire.mod_revision_is(b"k", 300), "10021a016b30ac02"),
        (wire.version_is(b"k", 0), "1a016b2000"),
        (wire.txn_request([b"c"], [wire.put_op(b"p")], [wire.range_op(b"r")]), "0a016312031201701a030a0172"),
        (wire.watch_create(9), "0a0a0a01001201001809" + "4001"),
        (wire.compaction_request(1 << 40), "08808080808020"),
        (wire.lease_grant_request(3600), "08901c"),
        (wire.lease_request(300), "08ac02"),
        (wire.authenticate_request("root", "pw"), "0a04726f6f7412027077"),
        (wire.watch_create(9, b"/a/", b"/a0"), "0a0e0a032f612f12032f613018094001"),
        (wire.delete_request(b"a", b"b"), "0a0161120162"),
    ],
)
def test_requests(ours: bytes, theirs: str) -> None:
    assert ours.hex() == theirs


def test_answers() -> None:
    header = wire.number(1, 11) + wire.number(2, 12) + wire.number(3, 99)
    kv = wire.blob(1, b"/k") + wire.number(2, 5) + wire.number(3, 98) + wire.number(4, 2) + wire.blob(5, b"v")
    found = wire.range_answer(wire.blob(1, header) + wire.blob(2, kv) + wire.number(3, 1) + wire.number(4, 7))
    assert found == wire.RangeAnswer(wire.Header(11, 12, 99), (wire.KeyValue(b"/k", b"v", 98, 2, 0, 5),), True, 7)
    answer = wire.txn_answer(wire.blob(1, header) + wire.blob(3, wire.blob(1, wire.blob(1, header) + wire.blob(2, kv))))
    assert (answer.succeeded, answer.ranges[0].kvs[0].mod_revision) == (False, 98)
    event = wire.blob(11, wire.number(1, 1) + wire.blob(2, kv))
    watched = wire.watch_answer(wire.blob(1, header) + wire.number(7, 1) + event + wire.blob(11, wire.blob(2, kv)))
    assert [one.deleted for one in watched.events] == [True, False]
    assert watched.fragment
    assert wire.watch_answer(wire.number(4, 1) + wire.number(5, 44) + wire.blob(6, b"why")).compact_revision == 44
    assert wire.lease_answer(wire.blob(1, header) + wire.number(2, -5) + wire.number(3, 60)) == (-5, 60)
    assert wire.token_answer(wire.blob(1, header) + wire.blob(2, b"abc.7")) == "abc.7"
    assert wire.alarms_answer(wire.blob(2, wire.number(1, 9) + wire.number(2, 1))) == ["NOSPACE"]


def test_fields_that_are_not_known_are_skipped() -> None:
    fixed = b"\x79" + bytes(8) + b"\x7d" + bytes(4)  # fields 15: 64 bits, 32 bits
    assert wire.header(fixed + wire.number(3, 5) + wire.number(200, 1)) == wire.Header(0, 0, 5)


@given(st.binary(max_size=60))
def test_what_is_no_message_is_a_value_error_or_a_value(data: bytes) -> None:
    for read in (wire.range_answer, wire.txn_answer, wire.watch_answer, wire.status_answer, wire.lease_answer):
        with contextlib.suppress(ValueError):
            read(data)


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.one_of(st.integers(1, (1 << 64) - 1), st.binary()))))
def test_what_is_written_is_read(values: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(wire.number(f, v) if isinstance(v, int) else wire.blob(f, v) for f, v in values)
    assert list(wire.fields(data)) == values


@pytest.mark.parametrize(("prefix", "end"), [(b"/a/", b"/a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")])
def test_prefixes_have_ends(prefix: bytes, end: bytes) -> None:
    assert wire.prefix_end(prefix) == end
