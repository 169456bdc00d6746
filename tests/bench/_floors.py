"""What the kernel needs for the proxy's rules when nobody thinks: the same rules by the bare tool, or flat maps by a bare batch.

iptables: what the proxy wrote is read back as text and restored into a fresh namespace by `iptables-*-restore --noflush`; on
nf_tables in the same transactions of 600 chains, because a single one costs the square of its size (13 minutes for 10,000
Services). A change is the restore of one Service's chain and of one endpoint's. nftables: a map of n x 5 endpoints and one of n
verdicts in one batch, and an element that is replaced.
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

from linux.nftables.batch import Batch
from linux.nftables.connection import Connection
from linux.nftables.elements import ACCEPT, Element, Verdict, joined
from linux.nftables.objects import VERDICT_TYPE, Set
from tests.bench._services import ENDPOINTS, namespace

CHAINS_AT_ONCE = 600
_ORDER = ("KUBE-MARK-MASQ", "KUBE-SEP-", "KUBE-SV", "KUBE-EXT-")
"""Chains come before those that jump to them; others last."""


class Saved:
    """The nat rules of ours in this namespace, by chain."""

    def __init__(self, flavor: str) -> None:
        self._restore = [f"iptables-{flavor}-restore", "--noflush"]
        self._at_once = CHAINS_AT_ONCE if flavor == "nft" else 1 << 30
        text = subprocess.run([f"iptables-{flavor}-save", "-t", "nat"], capture_output=True, text=True, check=True)
        lines = text.stdout.splitlines()
        chains: dict[str, list[str]] = {line.split()[0][1:]: [] for line in lines if line.startswith(":KUBE-")}
        for line in lines:
            if line.startswith("-A KUBE-"):
                chains[line.split(maxsplit=2)[1]].append(line)
        # The kernel looks only at rules that something leads to: without the jumps nf_tables would be four times as fast.
        self._jumps = [line for line in lines if line.startswith("-A ") and not line.startswith("-A KUBE-")]
        self._chains = dict(sorted(chains.items(), key=lambda item: _place(item[0])))

    def full(self) -> float:
        """Seconds, in a fresh namespace; the changes below may follow in it."""
        began = time.perf_counter()
        parts = iter(self._chains.items())
        while some := dict(itertools.islice(parts, self._at_once)):
            self._restored(some)
        self._restored({}, self._jumps)
        return time.perf_counter() - began

    def change(self) -> float:
        service = next(name for name in self._chains if name.startswith("KUBE-SVC-"))
        rules = self._chains[service]
        ends = [found[1] for rule in rules if (found := re.search(r"-j (KUBE-SEP-\S+)", rule))]
        some = {name: self._chains[name] for name in (ends[0], service)}
        began = time.perf_counter()
        self._restored(some)
        return time.perf_counter() - began

    def _restored(self, chains: dict[str, list[str]], jumps: Sequence[str] = ()) -> None:
        heads = [f":{name} - [0:0]" for name in chains]
        lines = ["*nat", *heads, *itertools.chain.from_iterable(chains.values()), *jumps, "COMMIT", ""]
        subprocess.run(self._restore, input="\n".join(lines).encode(), check=True)


def _place(chain: str) -> int:
    return next((number for number, begin in enumerate(_ORDER) if chain.startswith(begin)), len(_ORDER))


def flat(count: int, changes: int) -> tuple[float, list[float]]:
    """Seconds for all of it, packing included, and for each change, likewise."""
    with namespace("floor"), Connection() as kernel:
        ends = [_end(index, each) for index in range(count) for each in range(ENDPOINTS)]
        services = [Element(_key(index), Verdict(ACCEPT)) for index in range(count)]
        began = time.perf_counter()
        batch = Batch(socket.AF_INET, "floor")
        batch.add_table()
        batch.add_set(Set("ends", 16, data_type=0, data_length=8, size=count * ENDPOINTS))
        batch.add_set(Set("services", 12, data_type=VERDICT_TYPE, size=count))
        batch.add_elements("ends", ends)
        batch.add_elements("services", services)
        kernel.commit(batch)
        full = time.perf_counter() - began
        return full, [_replaced(kernel, index % count, 7 + index % 2) for index in range(changes)]


def _replaced(kernel: Connection, index: int, end: int) -> float:
    began = time.perf_counter()
    batch = Batch(socket.AF_INET, "floor")
    batch.delete_elements("ends", [Element(_end(index, 0).key)])
    batch.add_elements("ends", [_end(index, 0, end)])
    kernel.commit(batch)
    return time.perf_counter() - began


def _key(index: int) -> bytes:
    return joined((IPv4Address("10.96.0.10") + index).packed, b"\x06", b"\x00\x50")


def _end(index: int, each: int, shift: int = 0) -> Element:
    address = IPv4Address("10.244.0.2") + index * (ENDPOINTS + 1) + each + shift
    return Element(_key(index) + struct.pack("=I", each), joined(address.packed, struct.pack(">H", 8080)))
