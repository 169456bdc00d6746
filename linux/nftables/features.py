"""What this kernel's nf_tables can do, asked of it by rehearsal.

A transaction whose last message must fail is undone as a whole, and the kernel still answers for every message in it. So a
feature is tried by using it in a table that never comes to be: nobody is notified, no generation passes, nothing is left
behind by a kill. Modules that a feature needs are loaded on the way. What the kernel checks only when it commits (may this
expression be reached from that hook?) a rehearsal does not show.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from linux.nftables import expressions as say
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection, Failure, Refused
from linux.nftables.elements import ACCEPT, GOTO, Element, Verdict, joined
from linux.nftables.expressions import Ct, Header, Meta, Nat, Reject
from linux.nftables.objects import DYNAMIC, INTERVAL, TIMEOUT, VERDICT_TYPE, Hook, Set

_TABLE = "wherry-rehearsal"
_NOBODY = "nobody-called-a-chain-so"


@dataclass(frozen=True, slots=True)
class Feature:
    """`words` complete the sentence `the kernel lacks ...`."""

    words: str
    use: Callable[[Batch], None]


def rehearse(kernel: Connection, batch: Batch) -> tuple[Failure, ...]:
    """What the kernel would refuse of it. Raises Refused where it does not answer at all (EPERM)."""
    batch.delete_chain(_NOBODY)
    try:
        kernel.commit(batch)
    except Refused as refused:
        if all(failure.name != _NOBODY for failure in refused.failures):
            raise
        return tuple(failure for failure in refused.failures if failure.name != _NOBODY)
    raise AssertionError("the kernel deleted a chain that was never there")


def lacking(kernel: Connection, family: int, wanted: Iterable[Feature]) -> tuple[str, ...]:
    """In words, with the kernel's own: those of the features that this kernel will not have. Empty: all are there. Raises
    Refused when nf_tables cannot be asked."""
    found = []
    for feature in wanted:
        batch = Batch(family, _TABLE)
        batch.add_table()
        feature.use(batch)
        failures = rehearse(kernel, batch)
        if failures:
            found.append(f"{feature.words} ({failures[0].what.split(' of table')[0]}: {os.strerror(failures[0].code)})")
    return tuple(found)


def _address(family: int) -> int:
    return 4 if family == socket.AF_INET else 16


def _base_chains(batch: Batch) -> None:
    for number, kind, priority in ((0, "nat", -100), (3, "nat", -100), (4, "nat", 100), (0, "filter", -110)):
        batch.add_chain(f"{kind}-{number}-{priority}", Hook(kind, number, priority))


def _verdict_map(batch: Batch) -> None:
    length = _address(batch.family)
    batch.add_chain("target")
    batch.add_set(Set("map", length + 8, data_type=VERDICT_TYPE, fields=(length, 1, 2)))
    key = joined(b"\1" * length, b"\6", b"\0\x50")
    batch.add_elements("map", [Element(key, Verdict(GOTO, "target"), comment="a comment")])
    batch.add_chain("chain")
    batch.add_rule(
        "chain",
        [
            say.payload(Header.NETWORK, 16 if length == 4 else 24, length, 1),
            say.meta(Meta.L4PROTO, 8 + length // 4),
            say.payload(Header.TRANSPORT, 2, 2, 9 + length // 4),
            say.lookup("map", 1, say.VERDICT_REGISTER),
        ],
    )


def _value_map(batch: Batch) -> None:
    length = _address(batch.family)
    batch.add_set(Set("map", length + 12, data_type=0, data_length=length + 4, fields=(length, 1, 2, 4)))
    key = joined(b"\1" * length, b"\6", b"\0\x50", bytes(4))
    batch.add_elements("map", [Element(key, joined(b"\1" * length, b"\0\x50"))])


def _counters(batch: Batch) -> None:
    batch.add_set(Set("set", 4, counts=True))
    batch.add_elements("set", [Element(b"\1\1\1\1")])


def _fixed_size(batch: Batch) -> None:
    batch.add_set(Set("set", 4, size=1024))


def _die(batch: Batch) -> None:
    batch.add_chain("chain")
    batch.add_rule("chain", [say.numgen(8, 5), say.compare(8, say.Comparison.EQUAL, bytes(4)), say.verdict(ACCEPT)])


def _nat(batch: Batch) -> None:
    batch.add_chain("pre", Hook("nat", 0, -100))
    address = say.immediate(1, b"\1" * _address(batch.family))
    port = say.immediate(2, b"\0\x50")
    batch.add_rule("pre", [address, port, say.nat(Nat.DESTINATION, batch.family, 1, 2)])


def _masquerade(batch: Batch) -> None:
    batch.add_chain("post", Hook("nat", 4, 100))
    batch.add_rule("post", [say.masquerade(say.RANDOM_FULLY)])


def _local(batch: Batch) -> None:
    batch.add_chain("chain")
    batch.add_rule("chain", [say.fib(say.FIB_SOURCE, 8)])
    batch.add_rule("chain", [say.fib(say.FIB_DESTINATION, 8)])


def _learning_set(batch: Batch) -> None:
    length = _address(batch.family)
    batch.add_set(Set("set", length, flags=DYNAMIC | TIMEOUT, timeout=10_800_000, size=65536))
    batch.add_chain("chain")
    batch.add_rule("chain", [say.payload(Header.NETWORK, 12, length, 1), say.update("set", 1, timeout=5000)])


def _learning_map(batch: Batch) -> None:
    length = _address(batch.family)
    batch.add_set(
        Set("map", length, data_type=0, data_length=4, flags=DYNAMIC | TIMEOUT, timeout=10_800_000, size=65536)
    )
    batch.add_chain("chain")
    batch.add_rule(
        "chain",
        [say.payload(Header.NETWORK, 12, length, 1), say.immediate(2, bytes(4)), say.update("map", 1, 2, timeout=5000)],
    )


def _original(batch: Batch) -> None:
    batch.add_chain("chain")
    ip = Ct.DST_IP if batch.family == socket.AF_INET else Ct.DST_IP6
    batch.add_rule("chain", [say.ct(ip, 1, say.ORIGINAL), say.ct(Ct.PROTO_DST, 12, say.ORIGINAL)])


def _refusal(batch: Batch) -> None:
    batch.add_chain("chain", Hook("filter", 1, 0))
    batch.add_rule("chain", [say.reject(Reject.ICMPX, say.PORT_UNREACHABLE)])
    batch.add_rule(
        "chain", [say.meta(Meta.L4PROTO, 1), say.compare(1, say.Comparison.EQUAL, b"\6"), say.reject(Reject.TCP_RESET)]
    )


def _ranges(batch: Batch) -> None:
    length = _address(batch.family)
    batch.add_set(Set("set", length + 4, fields=(length, 2), flags=INTERVAL))
    first, last = joined(bytes(length), b"\0\x50"), joined(b"\xff" * length, b"\0\x50")
    batch.add_elements("set", [Element(first, key_end=last)])


BASE_CHAINS = Feature("nat and filter chains at their hooks", _base_chains)
VERDICT_MAPS = Feature("verdict maps keyed by address, protocol and port", _verdict_map)
VALUE_MAPS = Feature("maps from concatenated keys to addresses and ports", _value_map)
COUNTERS = Feature("counters on the elements of maps", _counters)
FIXED_SIZES = Feature("maps of a fixed size", _fixed_size)
DICE = Feature("random numbers in rules (nft_numgen)", _die)
NAT = Feature("destination NAT to addresses and ports in registers (nft_nat)", _nat)
MASQUERADE = Feature("masquerading to random ports (nft_masq)", _masquerade)
LOCAL = Feature("asking whether an address is local (nft_fib)", _local)
LEARNING_SETS = Feature("sets that rules put addresses into", _learning_set)
LEARNING_MAPS = Feature("maps that rules put addresses into", _learning_map)
ORIGINAL = Feature("a connection's original destination (nft_ct)", _original)
REFUSAL = Feature("refusing packets (nft_reject)", _refusal)
RANGES = Feature("ranges in concatenated keys (Linux 5.6)", _ranges)
ALL = (
    BASE_CHAINS, VERDICT_MAPS, VALUE_MAPS, COUNTERS, FIXED_SIZES, DICE, NAT, MASQUERADE, LOCAL, LEARNING_SETS, LEARNING_MAPS,
    ORIGINAL, REFUSAL, RANGES,
)  # fmt: skip
