"""What is written when; that a restart writes nothing; that a kill at any step is repaired by the next start; and that what the
kernel refuses is left out alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kube.errors import Retry
from linux import nfacct
from linux.iptables import backend as commands
from linux.iptables.restore import Refused
from linux.iptables.rules import Family, Section, Table
from proxy.backend import Applied, Wish
from proxy.iptables.backend import IptablesBackend, forget, forget_all
from proxy.model import Policy, Reach, ServicePort
from tests.fakes.iptables import FakeIptables
from tests.unit.proxy.flows import HERE, POLICY, THERE, endpoint, service
from tests.unit.proxy.tracing import wish

ONE = service(HERE, THERE, name="a/one:http")
MORE = service(HERE, THERE, endpoint("10.180.2.2"), name="a/one:http")
TWO = service(THERE, name="a/two:http", cluster_ip="172.30.0.42", node_port=30082)
NONE = service(name="a/none:http", cluster_ip="172.30.0.43", node_port=30083)


def whole(*services: ServicePort, policy: Policy = POLICY) -> Wish:
    return wish(services, policy)


def changed(before: Wish, *services: ServicePort) -> Wish:
    """Only what differs is named, as a pass does."""
    new = wish(services, before.policy)
    keys = {key for key in {*before.services, *new.services} if before.services.get(key) != new.services.get(key)}
    return replace(new, changed=frozenset(keys))


def written(packets: FakeIptables) -> list[str]:
    return [chain.name for section in packets.commits for chain in section.chains]


async def test_a_change_writes_only_the_chains_it_touches() -> None:
    packets = FakeIptables()
    backend = IptablesBackend(packets)
    now = whole(ONE, TWO, NONE)
    first = await backend.apply(now)
    assert (first.full, first.repaired, first.refused) == (True, (), {})
    assert first.rules == {"nat": 24, "filter": 5}
    assert first.rules_written == {"nat": 24, "filter": 5, "mangle": 0}
    packets.commits.clear()

    again = await backend.apply(replace(now, changed=frozenset(["a/one"])))
    assert (again.full, again.written, packets.commits) == (False, 0, [])

    now = changed(now, MORE, TWO, NONE)
    await backend.apply(now)
    assert [name[:9] for name in written(packets)] == ["KUBE-SEP-", "KUBE-SVC-"]

    packets.commits.clear()
    now = changed(now, ONE, TWO, NONE)
    fewer = await backend.apply(now)
    assert [name[:9] for name in written(packets)] == ["KUBE-SVC-"]
    assert (fewer.written, fewer.deleted, len(packets.commits)) == (1, 1, 1)

    packets.commits.clear()
    gone = await backend.apply(changed(now, ONE, NONE))
    assert sorted(written(packets)) == ["KUBE-NODEPORTS", "KUBE-SERVICES"]
    assert gone.deleted == 3


async def test_a_restart_writes_nothing() -> None:
    packets = FakeIptables()
    await IptablesBackend(packets).apply(whole(ONE, TWO, NONE))
    packets.commits.clear()
    applied = await IptablesBackend(packets).apply(whole(ONE, TWO, NONE))
    assert packets.commits == []
    assert (applied.full, applied.repaired, applied.written) == (True, (), 0)


async def test_what_goes_in_steps_leaves_nothing_behind_either() -> None:
    packets = FakeIptables(chains_per_section=2)
    backend = IptablesBackend(packets)
    now = whole(ONE, NONE)
    await backend.apply(now)
    applied = await backend.apply(changed(now, TWO, NONE))
    assert not applied.full
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(TWO, NONE))
    assert packets.tables == reference.tables


@pytest.mark.parametrize("size", [1, 3, 8, 600])
async def test_killed_anywhere_and_started_again_it_converges(size: int) -> None:
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(TWO, NONE))
    for steps in itertools.count():
        packets = FakeIptables(chains_per_section=size)
        await IptablesBackend(packets).apply(whole(ONE, NONE))
        packets.cut = steps
        finished = await survives(IptablesBackend(packets), whole(TWO, NONE))
        packets.cut = None
        await IptablesBackend(packets).apply(whole(TWO, NONE))
        assert packets.tables == reference.tables
        if finished:
            assert steps > 0
            return


@pytest.mark.parametrize("size", [1, 3, 8, 600])
async def test_cut_off_anywhere_the_same_backend_goes_on(size: int) -> None:
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(MORE, TWO))
    for steps in itertools.count():
        packets = FakeIptables(chains_per_section=size)
        backend = IptablesBackend(packets)
        now = whole(ONE, NONE)
        await backend.apply(now)
        packets.cut = steps
        now = changed(now, MORE, TWO)
        finished = await survives(backend, now)
        packets.cut = None
        await backend.apply(now)
        assert packets.tables == reference.tables
        if finished:
            return


async def survives(backend: IptablesBackend, wanted: Wish) -> bool:
    try:
        return not (await backend.apply(wanted)).refused
    except Retry:
        return False


async def test_a_refusal_of_everything_is_a_retry_that_reads_the_kernel_again() -> None:
    packets = FakeIptables()
    backend = IptablesBackend(packets)
    await backend.apply(whole(ONE))
    packets.refuse = "Another app is currently holding the xtables lock"
    with pytest.raises(Retry, match="currently holding the xtables lock"):
        await backend.apply(whole(ONE, TWO))
    packets.refuse = ""
    assert (await backend.apply(whole(ONE, TWO))).full


@pytest.mark.parametrize(
    "damage",
    [
        ["-t nat -F KUBE-SERVICES"],
        ["-t nat -F PREROUTING", "-t nat -F OUTPUT", "-t nat -F POSTROUTING"],
        ["-t filter -F KUBE-FORWARD"],
        ["-t mangle -X KUBE-PROXY-CANARY"],
        ["-t nat -I KUBE-SERVICES 1 -d 172.30.0.41 -j DROP"],
    ],
)
async def test_what_was_changed_behind_our_back_is_repaired_once_doubted(damage: list[str]) -> None:
    packets = FakeIptables()
    backend = IptablesBackend(packets)
    wanted = whole(ONE, TWO, NONE)
    await backend.apply(wanted)
    before = {table: {name: list(lines) for name, lines in chains.items()} for table, chains in packets.tables.items()}
    for line in damage:
        packets.run(line)
    backend.doubt()
    repaired = (await backend.apply(replace(wanted, changed=frozenset()))).repaired
    assert repaired
    chain = damage[0].split()[3]
    assert any(chain in word for word in repaired)
    assert packets.tables == before
    backend.doubt()
    assert not (await backend.apply(wanted)).repaired


async def test_a_new_policy_renders_everything_and_is_no_repair() -> None:
    packets = FakeIptables()
    backend = IptablesBackend(packets)
    await backend.apply(whole(ONE, TWO))
    other = replace(POLICY, masquerade_all=True, localhost_node_ports=True)
    applied = await backend.apply(replace(whole(ONE, TWO, policy=other), changed=frozenset()))
    assert applied.repaired == ()
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(ONE, TWO, policy=other))
    assert {key: set(map(tuple, chains.items())) for key, chains in hashable(packets)} == {
        key: set(map(tuple, chains.items())) for key, chains in hashable(reference)
    }


def hashable(packets: FakeIptables) -> Iterable[tuple[Table, dict[str, tuple[str, ...]]]]:
    """Jumps count, not their order among themselves: a later one goes to the top."""
    for table, chains in packets.tables.items():
        yield table, {name: tuple(sorted(rules)) for name, rules in chains.items()}


async def test_chains_of_a_stock_proxy_are_taken_over() -> None:
    """kube-proxy's chains have our names and no stamps: what is wanted is rewritten in place, the rest goes."""
    packets = FakeIptables()
    packets.run("-t nat -N KUBE-SVC-AAAAAAAAAAAAAAAA")
    packets.run("-t nat -N KUBE-SERVICES")
    packets.run("-t nat -A KUBE-SERVICES -d 172.30.9.9 -j KUBE-SVC-AAAAAAAAAAAAAAAA")
    packets.run('-t nat -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES')
    await IptablesBackend(packets).apply(whole(ONE))
    assert "KUBE-SVC-AAAAAAAAAAAAAAAA" not in packets.tables[Table.NAT]
    assert len(packets.tables[Table.NAT]["OUTPUT"]) == 1


async def test_forget_leaves_what_others_own() -> None:
    packets = FakeIptables()
    before = {table: {name: list(lines) for name, lines in chains.items()} for table, chains in packets.tables.items()}
    backend = IptablesBackend(packets)
    await backend.apply(whole(ONE, TWO, NONE))
    for line in (
        "-t filter -N KUBE-FIREWALL",
        "-t filter -A INPUT -j KUBE-FIREWALL",
        "-t nat -N FLANNEL-POSTRTG",
        "-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
    ):
        packets.run(line)
    assert await backend.forget() > 0
    assert packets.tables[Table.FILTER].pop("KUBE-FIREWALL") == []
    assert packets.tables[Table.NAT].pop("FLANNEL-POSTRTG") == []
    assert packets.tables[Table.FILTER]["INPUT"].pop() == "-j KUBE-FIREWALL"
    assert packets.tables[Table.NAT]["POSTROUTING"].pop() == "-j FLANNEL-POSTRTG"
    assert packets.tables == before
    assert await forget(packets) == 0


class Picky(FakeIptables):
    """A kernel that takes no rule with one of `bad` in it; it says which line only if `telling`. `sections` must be few: it
    is a process each."""

    def __init__(self, *bad: str, telling: bool, chains_per_section: int = 600) -> None:
        super().__init__(chains_per_section=chains_per_section)
        self.bad = bad
        self.telling = telling
        self.tries = 0

    async def write(self, sections: Sequence[Section]) -> None:
        self.tries += 1
        for section in sections:
            lines = [line for line in section.text().splitlines() if any(word in line for word in self.bad)]
            if lines:
                raise Refused("line 7: RULE_APPEND failed (Invalid argument)", lines=lines if self.telling else ())
            await super().write([section])


BAD = service(HERE, name="a/bad:http", cluster_ip="172.30.0.66", node_port=0, affinity=60)


@pytest.mark.parametrize("size", [4, 600])
@pytest.mark.parametrize("telling", [True, False])
@pytest.mark.parametrize("bad", ["-m recent", "-d 172.30.0.66 --dport 80 -j"])
async def test_the_one_that_the_kernel_refuses_is_left_out_alone(bad: str, telling: bool, size: int) -> None:
    """Whether a chain of its own or its line in a shared chain is refused, whether the line is told or not."""
    many = [service(HERE, name=f"a/s{n}:http", cluster_ip=f"172.30.1.{n}", node_port=0) for n in range(20)]
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(*many))
    packets = Picky(bad, telling=telling, chains_per_section=size)
    backend = IptablesBackend(packets)
    applied = await backend.apply(whole(*many, BAD))
    assert list(applied.refused) == ["a/bad:http"]
    assert "RULE_APPEND failed" in applied.refused["a/bad:http"]
    assert packets.tables == reference.tables
    assert packets.tries < 20


@pytest.mark.parametrize("telling", [True, False])
async def test_many_that_are_refused_do_not_stop_one_that_is_not(telling: bool) -> None:
    """Told one by one, or found by halving, until the rest of a batch goes with the last that was found."""
    many = [
        service(HERE, name=f"a/bad{n:03}:http", cluster_ip=f"172.30.2.{n}", node_port=0, affinity=60)
        for n in range(150)
    ]
    packets = Picky("-m recent", telling=telling)
    applied = await IptablesBackend(packets).apply(whole(*many, service(HERE, name="a/a-good:http", node_port=0)))
    assert set(applied.refused) == {port.name for port in many}
    assert any("172.30.0.41" in rule for rule in packets.tables[Table.NAT]["KUBE-SERVICES"])


@pytest.mark.parametrize("telling", [True, False])
async def test_a_refused_change_leaves_what_was_there(telling: bool) -> None:
    packets = Picky("-m recent", telling=telling)
    backend = IptablesBackend(packets)
    good = replace(BAD, affinity_seconds=None)
    now = whole(ONE, good)
    await backend.apply(now)
    applied = await backend.apply(changed(now, MORE, BAD))
    assert list(applied.refused) == ["a/bad:http"]
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(MORE, good))
    assert packets.tables == reference.tables


async def test_what_was_refused_is_tried_again_when_it_changes_or_after_a_while() -> None:
    now = 0.0
    packets = Picky("-m recent", telling=True)
    backend = IptablesBackend(packets, clock=lambda: now, retry_after=30)
    state = whole(ONE, BAD)
    assert (await backend.apply(state)).refused
    quiet = replace(state, changed=frozenset())
    tries = packets.tries
    assert (await backend.apply(quiet)).refused  # still told, not tried
    assert packets.tries == tries
    now = 31.0
    packets.bad = ()
    applied: Applied = await backend.apply(quiet)
    assert not applied.refused
    reference = FakeIptables()
    await IptablesBackend(reference).apply(state)
    assert packets.tables == reference.tables


async def test_a_refusal_that_is_no_services_fault_is_a_retry() -> None:
    packets = Picky("RELATED,ESTABLISHED", telling=True)
    with pytest.raises(Retry, match="RULE_APPEND failed"):
        await IptablesBackend(packets).apply(whole(ONE))


async def test_a_kernel_that_takes_nothing_is_no_services_fault_either() -> None:
    packets = Picky(telling=False)
    backend = IptablesBackend(packets)
    now = whole(ONE, TWO)
    await backend.apply(now)
    packets.bad = (":",)
    with pytest.raises(Retry, match="RULE_APPEND failed"):
        await backend.apply(changed(now, MORE, TWO))
    packets.bad = ()
    await backend.apply(whole(MORE, TWO))
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(MORE, TWO))
    assert packets.tables == reference.tables


async def test_a_stale_chain_that_somebody_else_uses_is_no_failure() -> None:
    packets = FakeIptables()
    backend = IptablesBackend(packets)
    now = whole(ONE, TWO)
    await backend.apply(now)
    stale = next(name for name in packets.tables[Table.NAT] if name.startswith("KUBE-SEP-"))
    packets.run("-t nat -N MINE")
    packets.run(f"-t nat -A MINE -j {stale}")
    now = changed(now, TWO, NONE)
    applied = await backend.apply(now)
    assert (applied.deleted, applied.refused) == (3, {})
    assert packets.tables[Table.NAT][stale] == []
    assert [name for name in packets.tables[Table.NAT] if name.startswith("KUBE-SEP-")].count(stale) == 1
    packets.run("-t nat -F MINE")
    packets.run("-t nat -X MINE")
    backend.doubt()
    await backend.apply(now)
    reference = FakeIptables()
    await IptablesBackend(reference).apply(whole(TWO, NONE))
    assert packets.tables == reference.tables


async def test_a_port_that_moves_between_policies_leaves_nothing_behind() -> None:
    packets = FakeIptables()
    backend = IptablesBackend(packets)
    now = whole(ONE)
    await backend.apply(now)
    for port in (
        service(HERE, THERE, name="a/one:http", external=Reach.LOCAL, internal=Reach.LOCAL),
        service(name="a/one:http"),
        service(HERE, name="a/one:http", node_port=0, affinity=10),
        MORE,
    ):
        now = changed(now, port)
        await backend.apply(now)
        reference = FakeIptables()
        await IptablesBackend(reference).apply(whole(port))
        assert packets.tables == reference.tables


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        ("iptables-nft-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Invalid argument", True),
        ("iptables-save/1.8.9 Failed to initialize nft: Protocol not supported", True),
        ("iptables-nft-save: Could not fetch rule set generation id: No buffer space available", False),
    ],
)
async def test_a_kernel_without_nf_tables_has_nothing_to_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, absent: bool
) -> None:
    for name in ("iptables-nft", "iptables-nft-save", "iptables-nft-restore"):
        (tmp_path / name).write_text(
            f"#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'iptables v1.8.9 (nf_tables)'\necho '{words}' >&2\nexit 4\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(commands, "present", lambda family: [])
    monkeypatch.setattr(nfacct, "forget", lambda names: None)
    if absent:
        assert await forget_all([Family.V4]) == 0
    else:
        with pytest.raises(Retry, match="No buffer space"):
            await forget_all([Family.V4])
