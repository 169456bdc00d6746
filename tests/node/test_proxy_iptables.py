"""The iptables backend on the kernel's two packet filters, in a namespace each: what was written bit by bit is what the
plan says, refusals are told apart, foreign hands are noticed and our own are not, and the flavor is found."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linux import netns as kernel_netns
from linux import nfacct
from linux.iptables import backend as commands
from linux.iptables.backend import Flavor
from linux.iptables.rules import EMPTY, Family, Mark, Table
from proxy.backend import Wish
from proxy.iptables import backend as iptables
from proxy.iptables import chains
from proxy.iptables.backend import TABLES, IptablesBackend
from proxy.iptables.fragments import LOCALHOST_ACCEPTED
from proxy.model import Endpoint, Policy, ServicePort, Usable
from tests.conftest import Netns
from tests.fakes.iptables import FakeIptables
from tests.requirements import requires
from tests.unit.proxy.flows import HERE, POLICY, THERE, service
from tests.unit.proxy.strategies import Action, Cluster, histories
from tests.unit.proxy.tracing import wish

ONE, TWO = service(HERE, THERE, name="a/one:http"), service(THERE, name="a/two:http", node_port=30082)
SOON = 3.0  # seconds: the promise is one; this machine may be busy

Inside = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=list(Flavor))
def flavor(request: pytest.FixtureRequest) -> Flavor:
    requires("netns", f"iptables-{request.param}-restore", f"ip6tables-{request.param}-restore")
    return Flavor(request.param)


@pytest.fixture
def inside(netns: Callable[[str], Netns], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Inside:
    """`inside(main)`: runs it in a namespace of the test's own, with a lock of its own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    space = netns("ipt")

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with kernel_netns.enter(space.path):
            asyncio.run(main())

    return run


async def opened(flavor: Flavor, family: Family = Family.V4) -> IptablesBackend:
    return iptables.of(await commands.named(family, flavor))


async def ours(backend: IptablesBackend) -> Mapping[tuple[Table, str], Mark]:
    marks = (await backend._packets.survey(TABLES, ())).marks
    return {key: mark for key, mark in marks.items() if chains.is_ours(key)}


async def wanted(services: Mapping[str, tuple[ServicePort, ...]], policy: Policy) -> Mapping[tuple[Table, str], Mark]:
    backend = IptablesBackend(FakeIptables())
    await backend.apply(Wish(services, None, policy))
    return await ours(backend)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories(longest=6), family=st.sampled_from(Family))
def test_bit_by_bit_the_kernel_gets_what_is_wanted(
    inside: Inside, flavor: Flavor, history: list[Action], family: Family
) -> None:
    """All examples in one namespace: each finds what the last one left."""
    policy = replace(POLICY, family=family, pods=None)

    async def main() -> None:
        backend, cluster = await opened(flavor, family), Cluster(family)
        for action in history:
            cluster.do(action)
            taken = cluster.take()
            applied = await backend.apply(Wish(taken.services, taken.changed, policy))
            assert not applied.refused
        assert await ours(backend) == await wanted(taken.services, policy)
        again = await (await opened(flavor, family)).apply(Wish(taken.services, None, policy))
        assert (again.written, again.deleted) == (0, 0)

    inside(main)


def test_a_refused_service_is_named_with_its_line_and_the_others_go_in(inside: Inside, flavor: Flavor) -> None:
    odd = Endpoint.at(IPv6Address("fd00::1"), 80)
    bad = replace(ONE, name="a/bad:http", endpoints=Usable((odd,), (), any=True))
    worse = replace(TWO, name="a/worse:http", external_ips=(IPv6Address("fd00::2"),))

    async def main() -> None:
        backend = await opened(flavor)
        applied = await backend.apply(wish([ONE, TWO, bad, worse], POLICY))
        assert sorted(applied.refused) == ["a/bad:http", "a/worse:http"]
        assert "fd00::1" in applied.refused["a/bad:http"]
        assert "-A KUBE-SERVICES" in applied.refused["a/worse:http"]
        assert await ours(backend) == await wanted(wish([ONE, TWO], POLICY).services, POLICY)

    inside(main)


def test_what_the_kernel_itself_refuses_is_told_apart_too(inside: Inside, flavor: Flavor) -> None:
    """A counter that is not there: iptables takes the rule, the kernel does not, and legacy iptables names no line."""
    policy = replace(POLICY, localhost_node_ports=True)
    plain = [service(HERE, THERE, name=f"a/s{n}:http", node_port=0, cluster_ip=f"172.30.1.{n}") for n in range(9)]

    async def main() -> None:
        backend = iptables.of(await commands.named(Family.V4, flavor), accounted=frozenset([LOCALHOST_ACCEPTED]))
        applied = await backend.apply(wish([*plain, ONE], policy))
        assert list(applied.refused) == ["a/one:http"]
        assert await ours(backend) == await wanted(wish(plain, policy).services, policy)
        nfacct.ensure([LOCALHOST_ACCEPTED])
        state = wish([*plain, ONE], policy)
        again = await backend.apply(replace(state, changed=frozenset(["a/one"])))
        assert (again.full, again.refused) == (False, {})
        assert not (await iptables.of(await commands.named(Family.V4, flavor)).apply(state)).refused

    inside(main)


def test_a_rule_of_somebody_else_that_leads_to_a_stale_chain_stops_nothing(inside: Inside, flavor: Flavor) -> None:
    async def main() -> None:
        backend = await opened(flavor)
        now = wish([ONE, TWO], POLICY)
        await backend.apply(now)
        chain = chains.cluster_chain(ONE)
        await run(f"iptables-{flavor}", "-w", "-t", "nat", "-A", "PREROUTING", "-s", "9.9.9.9", "-j", chain)
        three = service(HERE, name="a/three:http", node_port=0, cluster_ip="172.30.0.43")
        after = replace(wish([TWO, three], POLICY), changed=frozenset(["a/one", "a/three"]))
        assert not (await backend.apply(after)).refused
        left = dict(await ours(backend))
        assert left.pop((Table.NAT, chain)) == EMPTY
        assert left == await wanted(after.services, POLICY)

    inside(main)


def test_foreign_hands_are_noticed_and_ours_are_not(inside: Inside, flavor: Flavor) -> None:
    many = [service(HERE, THERE, name=f"a/s{n}:http", node_port=0, cluster_ip=f"172.30.1.{n}") for n in range(150)]

    async def main() -> None:
        backend = await opened(flavor)
        told = asyncio.Event()
        async with backend.watching(told.set):
            await backend.apply(wish(many, POLICY))
            state = wish([*many[:-1], ONE], POLICY)
            await backend.apply(replace(state, changed=frozenset(["a/s149", "a/one"])))
            await asyncio.sleep(1.2)  # two looks at legacy tables
            assert not told.is_set()
            for damage in ("-t nat -F", "-t nat -D OUTPUT 1", "-t filter -F KUBE-FORWARD", "-t mangle -X"):
                begun = time.monotonic()
                await run(f"iptables-{flavor}", "-w", *damage.split())
                async with asyncio.timeout(SOON):
                    await told.wait()
                applied = await backend.apply(replace(state, changed=frozenset()))
                assert applied.repaired, damage
                assert time.monotonic() - begun < SOON
                assert not (await (await opened(flavor)).apply(state)).written
                told.clear()
        restarted = await opened(flavor)
        async with restarted.watching(told.set):
            assert not (await restarted.apply(state)).written
            await run(f"iptables-{flavor}", "-w", "-t", "nat", "-F", "KUBE-SERVICES")
            async with asyncio.timeout(SOON):
                await told.wait()
            assert (await restarted.apply(replace(state, changed=frozenset()))).repaired == ("nat KUBE-SERVICES",)

    inside(main)


async def run(*argv: str) -> None:
    done = await asyncio.create_subprocess_exec(*argv)
    assert await done.wait() == 0


def test_python_iptables_audits_legacy_tables(inside: Inside) -> None:
    requires("netns", "iptables-legacy-restore")

    async def main() -> None:
        backend = await opened(Flavor.LEGACY)
        state = wish([ONE, TWO], POLICY)
        await backend.apply(state)
        backend._audit_after = 0.0
        quiet = replace(state, changed=frozenset())
        clean = await backend.apply(quiet)
        assert (clean.full, clean.repaired, clean.written) == (True, (), 0)
        await run("iptables-legacy", "-t", "nat", "-D", "KUBE-SERVICES", "1")
        assert (await backend.apply(quiet)).repaired == ("nat KUBE-SERVICES",)

    inside(main)


@pytest.mark.parametrize("family", list(Family))
def test_the_flavor_is_that_of_the_kubelets_hint_in_either_family(
    inside: Inside, flavor: Flavor, family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = next(each for each in Flavor if each is not flavor)

    async def main() -> None:
        for each in Family:
            assert (
                await commands.detect(each)
            ).flavor is Flavor.NFT  # Debian's default, and nothing was created by asking
        if flavor is Flavor.LEGACY:
            assert not commands.present(family)
        await run(f"{family.command}-{flavor}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
        for each in Family:
            assert (await commands.detect(each)).flavor is flavor
        assert not caplog.records
        await (await opened(other)).apply(wish([ONE], POLICY))
        assert (await commands.detect(Family.V4)).flavor is flavor
        assert "both nf_tables and legacy iptables hold KUBE-* chains" in caplog.text
        assert await iptables.forget_all(Family) > 0
        assert await iptables.forget_all(Family) == 0
        assert not await ours(await opened(other))

    inside(main)


def test_plain_commands_are_enough(inside: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Slim distributions and images have no iptables-nft and no iptables-legacy."""
    requires("netns", "iptables-nft-restore")
    commands_only = tmp_path / "bin"
    commands_only.mkdir()
    for name in ("iptables", "iptables-save", "iptables-restore"):
        found = shutil.which(name.replace("iptables", "iptables-nft", 1))
        assert found is not None
        (commands_only / name).symlink_to(Path(found).resolve())
    monkeypatch.setenv("PATH", str(commands_only))

    async def main() -> None:
        backend = await iptables.opened(Family.V4)
        state = wish([ONE], POLICY)
        await backend.apply(state)
        assert not (await (await iptables.opened(Family.V4)).apply(state)).written
        assert await iptables.forget_all(Family) > 0
        assert not await ours(backend)
        assert "ct_state_invalid_dropped_pkts" not in nfacct.packets()

    inside(main)
