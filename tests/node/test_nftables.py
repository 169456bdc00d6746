"""nf_tables over our own netlink: what was packed is what the kernel holds, what it refuses is named, what others do is heard."""

import asyncio
import contextlib
import errno
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from linux import netns as kernel_netns
from linux import process
from linux.nftables import expressions as say
from linux.nftables import features, policies
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection, Refused
from linux.nftables.elements import ACCEPT, DROP, GOTO, Element, Verdict, joined
from linux.nftables.listener import Interest, Listener, Touch
from linux.nftables.objects import DYNAMIC, INTERVAL, TIMEOUT, VERDICT_TYPE, Hook, Set, Type
from tests.conftest import Netns
from tests.requirements import requires

requires("root", "netns", "nsenter", "nft")

V4 = socket.AF_INET
TABLE = "kube-proxy"


@pytest.fixture
def space(netns: Callable[[str], Netns]) -> Netns:
    return netns("nft")


@pytest.fixture
def kernel(space: Netns) -> Iterator[Connection]:
    with kernel_netns.enter(space.path):
        connection = Connection()
    with connection:
        batch = Batch(V4, TABLE)
        batch.add_table(comment="stamp 1")
        connection.commit(batch)
        yield connection


def commit(kernel: Connection, *steps: Callable[[Batch], None]) -> None:
    batch = Batch(V4, TABLE)
    for step in steps:
        step(batch)
    kernel.commit(batch)


def elements(kernel: Connection, name: str) -> set[Element]:
    return {found.element for found in kernel.elements(V4, TABLE, name)}


def number(value: int) -> bytes:
    return struct.pack(">I", value)


SHAPES = [
    Set("plain", 4),
    Set("port", 2),
    Set("counted", 8, fields=(4, 2), counts=True, comment="it counts"),
    Set("wide", 28, fields=(16, 1, 2, 4), size=4096),
    Set("verdicts", 12, data_type=VERDICT_TYPE, fields=(4, 1, 2), counts=True),
    Set("values", 12, data_type=0, data_length=8, fields=(4, 1, 2)),
    Set("odd", 3, data_type=0, data_length=5),
    Set("timed", 4, data_type=0, data_length=8, flags=TIMEOUT | DYNAMIC, timeout=3_600_000),
    Set("ranges", 12, fields=(4, 4, 2), flags=INTERVAL),
]


def members(shape: Set, count: int, chance: random.Random) -> list[Element]:
    """`count` elements that differ, with whatever this kind of set may have."""
    lengths = shape.fields or (shape.key_length,)
    found: dict[bytes, Element] = {}
    while len(found) < count:
        key = joined(*(chance.randbytes(length) for length in lengths))[: max(shape.key_length, sum(lengths))]
        data: bytes | Verdict | None = None
        if shape.data_type == VERDICT_TYPE:
            data = chance.choice([Verdict(DROP), Verdict(ACCEPT), Verdict(GOTO, "lb-1"), Verdict(GOTO, "lb-2")])
        elif shape.data_type is not None:
            data = chance.randbytes(shape.data_length)
        comment = f"{shape.name}/{chance.random()}" if chance.random() < 0.2 else None
        found[key] = Element(key, data, key_end=key if shape.flags & INTERVAL else None, comment=comment)
    return list(found.values())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_packed_is_what_the_kernel_holds(kernel: Connection, shape: Set, seed: int) -> None:
    chance = random.Random(seed)
    wanted = members(shape, 60 if shape.flags & INTERVAL else 2000, chance)  # ranges are slow to load
    commit(
        kernel,
        lambda batch: batch.add_chain("lb-1"),
        lambda batch: batch.add_chain("lb-2"),
        lambda batch: batch.add_set(shape),
        lambda batch: batch.add_elements(shape.name, wanted),
    )
    (made,) = kernel.sets(V4, TABLE)
    for field in ("name", "key_length", "fields", "size", "timeout", "counts", "comment", "flags"):
        assert getattr(made, field) == getattr(shape, field), field
    assert {one._replace(expires=None, timeout=None) for one in elements(kernel, shape.name)} == set(wanted)
    gone = wanted[::3]
    commit(kernel, lambda batch: batch.delete_elements(shape.name, gone))
    left = {one._replace(expires=None, timeout=None) for one in elements(kernel, shape.name)}
    assert left == set(wanted) - set(gone)
    commit(kernel, lambda batch: batch.flush_set(shape.name))
    assert not elements(kernel, shape.name)


def test_a_value_is_replaced_in_one_transaction(kernel: Connection) -> None:
    key = number(1)
    commit(
        kernel,
        lambda batch: batch.add_set(Set("values", 4, data_type=0, data_length=4)),
        lambda batch: batch.add_elements("values", [Element(key, b"aaaa")]),
    )
    commit(
        kernel,
        lambda batch: batch.delete_elements("values", [Element(key)]),
        lambda batch: batch.add_elements("values", [Element(key, b"bbbb")]),
    )
    assert elements(kernel, "values") == {Element(key, b"bbbb")}


def test_a_refusal_names_the_element_and_undoes_everything(kernel: Connection) -> None:
    commit(
        kernel,
        lambda batch: batch.add_set(Set("members", 4, key_type=Type.IPV4)),
        lambda batch: batch.add_elements("members", [Element(number(7))]),
    )
    batch = Batch(V4, TABLE)
    batch.add_elements("members", [Element(number(at)) for at in range(100)])
    batch.delete_elements("members", [Element(number(at)) for at in (7, 5000, 8)])
    batch.add_elements("members", [Element(number(8)), Element(number(7))], new=True)
    batch.delete_chain("nowhere")
    with pytest.raises(Refused) as refused:
        kernel.commit(batch)
    assert [(one.code, one.name, one.element and one.element.key) for one in refused.value.failures] == [
        (errno.ENOENT, "members", number(5000)),
        (errno.EEXIST, "members", number(8)),
        (errno.ENOENT, "nowhere", None),
    ]
    assert "delete elements of members of table kube-proxy (key 00 00 13 88): No such file" in str(refused.value)
    assert elements(kernel, "members") == {Element(number(7))}


def test_a_refusal_of_a_thousand_messages_is_still_an_answer(kernel: Connection) -> None:
    batch = Batch(V4, TABLE)
    for at in range(5000):
        batch.delete_chain(f"nowhere-{at}")
    with pytest.raises(Refused) as refused:
        kernel.commit(batch)
    assert refused.value.errno == errno.ENOENT
    assert "and 4" in str(refused.value)
    commit(kernel, lambda batch: batch.add_chain("somewhere"))
    assert [chain.name for chain in kernel.chains(V4, TABLE)] == ["somewhere"]


def test_a_generation_is_a_condition(kernel: Connection, space: Netns) -> None:
    seen = kernel.generation()
    batch = Batch(V4, TABLE)
    batch.add_chain("first")
    kernel.commit(batch, generation=seen)
    assert kernel.generation() == seen + 1
    space.run("nft", "add", "table", "ip", "somebody")
    batch = Batch(V4, TABLE)
    batch.add_chain("second")
    with pytest.raises(Refused) as refused:
        kernel.commit(batch, generation=seen + 1)
    assert refused.value.outdated
    assert [chain.name for chain in kernel.chains(V4, TABLE)] == ["first"]


async def test_fifty_thousand_elements_go_out_in_one_transaction(kernel: Connection) -> None:
    before = kernel.generation()
    wanted = [Element(joined(number(at), b"\x06", b"\0\x50"), number(at)) for at in range(50_000)]
    batch = Batch(V4, TABLE)
    batch.add_set(Set("many", 12, data_type=0, data_length=4, fields=(4, 1, 2)))
    batch.add_elements("many", wanted)
    await kernel.write(batch)
    assert kernel.generation() == before + 1
    found = await kernel.aside(kernel.elements, V4, TABLE, "many")
    assert {one.element for one in found} == set(wanted)
    assert await kernel.aside(kernel.pairs, V4, TABLE, "many") == {one.key: one.data for one in wanted}
    with pytest.raises(Refused, match="no-such-map of table kube-proxy: No such file"):
        kernel.pairs(V4, TABLE, "no-such-map")


def test_nft_reads_every_expression_as_it_was_meant(kernel: Connection, space: Netns) -> None:
    mark = struct.pack("=I", 0x4000)
    rules = [
        [say.counter(), say.masquerade(say.RANDOM_FULLY)],
        [
            say.meta(say.Meta.MARK, 1),
            say.bitwise(1, 1, struct.pack("=I", 0xFFFFFFFF ^ 0x4000), mark),
            say.set_meta(say.Meta.MARK, 1),
        ],
        [
            say.meta(say.Meta.L4PROTO, 1),
            say.compare(1, say.Comparison.EQUAL, b"\x06"),
            say.numgen(9, 5),
            say.lookup("numbers", 9, 9),
            say.immediate(1, bytes([10, 0, 0, 1])),
            say.nat(say.Nat.DESTINATION, V4, 1, 9),
        ],
        [say.fib(say.FIB_DESTINATION, 1), say.compare(1, say.Comparison.EQUAL, struct.pack("=I", say.RTN_LOCAL))],
        [say.payload(say.Header.NETWORK, 12, 4, 1), say.within(1, bytes([10, 0, 0, 0]), bytes([10, 0, 0, 9]))],
        [
            say.payload(say.Header.NETWORK, 12, 4, 1),
            say.ct(say.Ct.PROTO_DST, 9, say.ORIGINAL),
            say.update("seen", 1, 9, timeout=1000),
        ],
        [say.payload(say.Header.NETWORK, 16, 4, 1), say.lookup("verdicts", 1, say.VERDICT_REGISTER)],
        [say.verdict(GOTO, "other")],
    ]
    refusal = [say.reject(say.Reject.ICMPX, say.PORT_UNREACHABLE)]

    def build(batch: Batch) -> None:
        batch.add_set(Set("numbers", 4, key_type=Type.INTEGER, data_type=Type.PORT, data_length=2))
        batch.add_set(
            Set(
                "seen", 4, key_type=Type.IPV4, data_type=Type.PORT, data_length=2, flags=TIMEOUT | DYNAMIC, timeout=5000
            )
        )
        batch.add_set(Set("verdicts", 4, key_type=Type.IPV4, data_type=VERDICT_TYPE))
        batch.add_chain("post", Hook("nat", 4, 100))
        batch.add_chain("pre", Hook("nat", 0, -100))
        batch.add_chain("forward", Hook("filter", 2, 0, drops=True))
        batch.add_chain("other", comment="not hooked")
        for at, rule in enumerate(rules):
            batch.add_rule("post" if at == 0 else "pre", rule, comment=f"rule {at}")
        batch.add_rule("forward", refusal)

    commit(kernel, build)
    listing = space.run("nft", "list", "table", "ip", TABLE)
    for text in (
        "masquerade fully-random comment",
        "meta mark set meta mark | 0x00004000",
        "meta l4proto tcp dnat to 10.0.0.1:numgen random mod 5 map @numbers",
        "fib daddr type local",
        "ip saddr 10.0.0.0-10.0.0.9",
        "update @seen { ip saddr timeout 1s : ct original proto-dst }",
        "ip daddr vmap @verdicts",
        "goto other",
        "type filter hook forward priority filter; policy drop;",
        "reject",
    ):
        assert text in listing, f"{text!r} in\n{listing}"
    assert [rule.comment for rule in kernel.rules(V4, TABLE, "pre")] == [f"rule {at}" for at in range(1, 8)]
    base = {chain.name: chain.hook for chain in kernel.chains(V4, TABLE)}
    assert base["forward"] == Hook("filter", 2, 0, drops=True)
    assert base["other"] is None
    masquerade = kernel.rules(V4, TABLE, "post")[0].expressions[1]
    assert (masquerade.name, masquerade.attributes) == ("masq", {1: number(say.RANDOM_FULLY)})


# --- listening -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def listening(space: Netns, *interests: Interest) -> AsyncIterator[tuple[Listener, "asyncio.Queue[Touch]"]]:
    heard: asyncio.Queue[Touch] = asyncio.Queue()
    with kernel_netns.enter(space.path):
        listener = Listener(interests, heard.put_nowait)
    async with listener:
        yield listener, heard


OURS = Interest(V4, TABLE)
NAT = Interest(V4, "nat", ("KUBE-",))


async def nft(space: Netns, text: str, started: Callable[[int], None] | None = None) -> None:
    argv = kernel_netns.argv_in(space.path, ["nft", "-f", "-"])
    await process.run(argv, input=text.encode(), started=started)


async def next_touch(heard: "asyncio.Queue[Touch]") -> Touch:
    async with asyncio.timeout(5):
        return await heard.get()


async def test_only_others_hands_in_what_is_ours_are_heard(kernel: Connection, space: Netns) -> None:
    commit(
        kernel,
        lambda batch: batch.add_set(Set("members", 4, key_type=Type.IPV4)),
        lambda batch: batch.add_elements("members", [Element(number(at)) for at in range(3)]),
        lambda batch: batch.add_chain("services"),
    )
    async with listening(space, OURS) as (listener, heard):
        listener.own(kernel.port)
        commit(kernel, lambda batch: batch.delete_elements("members", [Element(number(0))]))
        await nft(space, f"add table ip other\nadd table ip6 {TABLE}\nadd chain ip other somewhere")
        pids: list[int] = []

        def started(pid: int) -> None:
            pids.append(pid)
            listener.own(pid)

        await nft(space, f"add rule ip {TABLE} services accept", started)
        listener.disown(pids[0])
        assert heard.empty()
        await nft(space, f"delete element ip {TABLE} members {{ 0.0.0.1 }}")
        touch = await next_touch(heard)
        assert touch.what == "elements deleted from members of table kube-proxy"
        assert touch.who.startswith("nft (process ")
        await nft(space, f"flush chain ip {TABLE} services")
        assert (await next_touch(heard)).what == "a rule deleted from chain services of table kube-proxy"
        await nft(space, "flush ruleset")
        assert "kube-proxy" in (await next_touch(heard)).what
        assert heard.empty()


async def test_in_shared_chains_only_our_own_jumps_count(space: Netns) -> None:
    nat = (
        "table ip nat {\n chain KUBE-SERVICES {\n }\n chain PREROUTING {\n type nat hook prerouting priority -100;"
        " counter jump KUBE-SERVICES;\n }\n }"
    )
    await nft(space, nat)
    rules = json.loads(space.run("nft", "-j", "-a", "list", "chain", "ip", "nat", "PREROUTING"))["nftables"]
    handle = next(one["rule"]["handle"] for one in rules if "rule" in one)
    async with listening(space, NAT) as (_, heard):
        await nft(
            space, "add chain ip nat DOCKER\nadd rule ip nat PREROUTING jump DOCKER\nadd set ip nat s { type mark; }"
        )
        await nft(space, f"delete rule ip nat PREROUTING handle {handle}")
        assert (await next_touch(heard)).what == "a rule deleted from chain PREROUTING of table nat"
        await nft(space, "add rule ip nat KUBE-SERVICES accept")
        assert (await next_touch(heard)).what == "a rule added to chain KUBE-SERVICES of table nat"
        await nft(space, "delete table ip nat")
        assert (await next_touch(heard)).what.startswith("table nat deleted") or heard.empty()


async def test_a_large_transaction_of_our_own_is_not_heard_and_hides_nobody(kernel: Connection, space: Netns) -> None:
    commit(kernel, lambda batch: batch.add_set(Set("members", 4, key_type=Type.IPV4)))
    many = [Element(number(at)) for at in range(60_000)]
    async with listening(space, OURS) as (listener, heard):
        listener.own(kernel.port)
        with listener.deaf(lambda: kernel.commits):
            commit(kernel, lambda batch: batch.add_elements("members", many))
        assert heard.empty()
        with listener.deaf(lambda: kernel.commits):
            commit(kernel, lambda batch: batch.flush_set("members"))
            await nft(space, f"delete set ip {TABLE} members")
        assert "1 transactions while ours went on" in str(await next_touch(heard))
        commit(kernel, lambda batch: batch.add_set(Set("members", 4, key_type=Type.IPV4)))
        await nft(space, f"add element ip {TABLE} members {{ 0.0.0.1 }}")
        assert (await next_touch(heard)).what == "elements added to members of table kube-proxy"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_more_than_can_be_heard_is_told_and_the_ear_stays_open(
    kernel: Connection, space: Netns, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """On uvloop too, which never again looks at a descriptor that has polled as faulty."""
    commit(kernel, lambda batch: batch.add_set(Set("members", 4, key_type=Type.IPV4)))
    many = [Element(number(at)) for at in range(100_000)]

    async def listen() -> None:
        async with listening(space, OURS) as (listener, heard):
            listener.own(kernel.port)
            for _ in range(3):
                commit(kernel, lambda batch: batch.add_elements("members", many))
                commit(kernel, lambda batch: batch.flush_set("members"))
            assert "more happened than could be heard" in str(await next_touch(heard))
            await nft(space, f"add element ip {TABLE} members {{ 0.0.0.1 }}")
            while (await next_touch(heard)).what != "elements added to members of table kube-proxy":
                pass

    run(listen())


# --- what the kernel can do, and what others forbid ------------------------------------------------------------------


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ip", "ip6"])
def test_features_are_tried_without_a_trace(kernel: Connection, space: Netns, family: int) -> None:
    before = kernel.generation()
    assert features.lacking(kernel, family, features.ALL) == ()
    assert kernel.generation() == before
    assert space.run("nft", "list", "tables").split() == ["table", "ip", TABLE]


def test_a_feature_that_is_not_there_is_told_in_words(kernel: Connection) -> None:
    def use(batch: Batch) -> None:
        batch.add_chain("chain")
        batch.add_rule("chain", [say.expression("divination")])

    wanted = [features.DICE, features.Feature("foresight", use)]
    assert features.lacking(kernel, V4, wanted) == ("foresight (add a rule to chain chain: No such file or directory)",)


def test_policies_of_others_that_drop_are_found(kernel: Connection, space: Netns) -> None:
    def build(batch: Batch) -> None:
        batch.add_chain("ours", Hook("filter", 2, 0, drops=True))

    commit(kernel, build)
    space.run("nft", "add table inet firewalld")
    space.run("nft", "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy drop; }")
    space.run("nft", "add chain inet firewalld filter_OUTPUT { type filter hook output priority 10; policy accept; }")
    space.run("nft", "add chain inet firewalld raw { type filter hook prerouting priority -300; policy drop; }")
    space.run("nft", "add table ip6 own")
    space.run("nft", "add chain ip6 own entry { type filter hook input priority 10; policy drop; }")
    (found,) = policies.dropping(kernel, V4)
    assert str(found) == "chain filter_FORWARD of table inet firewalld drops what it does not accept (hook forward)"
    assert "policy drop" in space.run(*found.listing.split())
    assert [one.table for one in policies.dropping(kernel, socket.AF_INET6)] == ["firewalld", "own"]
