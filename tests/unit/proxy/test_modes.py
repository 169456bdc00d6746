"""Which families a mode gets on a machine, and what is said of those it does not get."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kube.errors import Retry, UsageError
from linux.iptables.backend import Unusable
from linux.iptables.rules import Family
from proxy import cleanup, host, modes
from proxy.backend import Applied, Backend, Wish
from proxy.metrics import Metrics


@dataclass
class Rules:
    """Satisfies proxy.backend.Backend."""

    family: Family
    words: str = "rules in memory"
    sees_changes: bool = True

    @asynccontextmanager
    async def watching(self, touched: Callable[[], None]) -> AsyncIterator[None]:
        yield

    def doubt(self) -> None: ...

    async def apply(self, wish: Wish) -> Applied:
        return Applied(full=False)

    async def forget(self) -> int:
        return 0

    async def forget_others(self) -> int:
        return 0

    def close(self) -> None: ...


@dataclass
class Machine:
    """Satisfies proxy.modes.Mode, for both modes: what each family says when it is opened, and iptables when it is forgotten."""

    lacking: dict[Family, str] = field(default_factory=dict)
    unusable: dict[Family, str] = field(default_factory=dict)
    refusal: str = ""
    forgotten: list[tuple[str, list[Family]]] = field(default_factory=list)
    asked: str = ""

    def mode(self, name: str) -> Machine:
        self.asked = name
        return self

    async def opened(self, family: Family) -> Backend:
        if family in self.unusable:
            raise Unusable(self.unusable[family])
        return Rules(family)

    async def forget_all(self, families: Iterable[Family]) -> int:
        if self.refusal and self.asked == "iptables":
            raise Retry(self.refusal)
        self.forgotten.append((self.asked, list(families)))
        return 3


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(modes, "_mode", made.mode)
    monkeypatch.setattr(host, "lacking", lambda family: made.lacking.get(family, ""))
    return made


async def test_a_family_that_the_machine_lacks_is_left_out_and_told(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.lacking = {Family.V6: "the kernel has no IPv6"}
    assert set(await modes.usable("iptables")) == {Family.V4}
    assert [line for line in caplog.messages if "no IPv6" in line] == [
        "IPv6: the kernel has no IPv6; Services of that family have no rules on this node"
    ]


async def test_a_family_without_its_command_is_left_out_too(machine: Machine) -> None:
    machine.unusable = {Family.V6: "ip6tables is not on PATH"}
    assert set(await modes.usable("iptables")) == {Family.V4}


async def test_without_any_family_the_mode_is_refused_with_every_reason(machine: Machine) -> None:
    machine.unusable = {Family.V4: "iptables is not on PATH: install the package iptables"}
    machine.lacking = {Family.V6: "the kernel has no IPv6"}
    with pytest.raises(UsageError, match=r"mode \(--proxy-mode\) iptables.*install the package iptables.*no IPv6"):
        await modes.usable("iptables")


async def test_clean_up_is_of_all_modes_and_of_the_families_there_are(machine: Machine) -> None:
    machine.lacking = {Family.V6: "the kernel has no IPv6"}
    await cleanup.everything()
    assert machine.forgotten == [("iptables", [Family.V4]), ("nftables", [Family.V4])]
    machine.refusal = "the lock is held"
    with pytest.raises(UsageError, match="--cleanup: the lock is held; run it again"):
        await cleanup.everything()


async def test_what_one_mode_refuses_does_not_keep_the_other_from_being_cleaned_up(machine: Machine) -> None:
    machine.refusal = "the lock is held"
    with pytest.raises(UsageError, match="--cleanup: the lock is held; run it again"):
        await cleanup.everything()
    assert machine.forgotten == [("nftables", list(Family))]


async def test_what_the_other_mode_left_is_tried_again_until_it_is_gone(machine: Machine) -> None:
    metrics = Metrics("nftables", ("IPv4",))
    failures = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total"
    machine.refusal = "the lock is held"
    now = 100.0
    left = cleanup.Leftovers("nftables", Family.V4, Rules(Family.V4), metrics, 30.0, lambda: now)
    for moment in (100.0, 100.1, 129.9):  # passes in between do not try
        now = moment
        await left.clear()
        assert metrics.registry.get_sample_value(failures, {"ip_family": "IPv4"}) == 1
    machine.refusal = ""
    for moment in (130.0, 160.0, 190.0):
        now = moment
        await left.clear()
        assert machine.forgotten == [("iptables", [Family.V4])]
