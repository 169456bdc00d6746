"""A firewall that drops by policy is told once, and again when it has come back."""

from __future__ import annotations

import logging

import pytest

from linux.iptables.rules import Family
from linux.nftables.policies import Dropping
from proxy import firewalls

FORWARD = Dropping("inet", "firewalld", "filter_FORWARD", "forward")
INPUT = Dropping("ip", "mine", "in", "input")


async def test_each_is_told_once_with_where_to_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there: list[Dropping] = []
    monkeypatch.setattr(firewalls, "_found", lambda _family: list(there))
    looks = firewalls.Firewalls(Family.V4)

    async def told() -> list[str]:
        caplog.clear()
        await looks.look()
        return caplog.messages

    with caplog.at_level(logging.WARNING):
        assert await told() == []
        there[:] = [FORWARD]
        (line,) = await told()
        assert line.startswith("IPv4: chain filter_FORWARD of table inet firewalld drops what it does not accept")
        assert "what goes to and from pods" in line
        assert "`nft list chain inet firewalld filter_FORWARD`" in line
        assert await told() == []
        there[:] = [FORWARD, INPUT]
        (line,) = await told()
        assert "NodePorts" in line
        there[:] = []
        assert await told() == []
        there[:] = [FORWARD]
        assert len(await told()) == 1


async def test_a_kernel_that_cannot_be_asked_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_family: Family) -> list[Dropping]:
        raise OSError("no nf_tables here")

    monkeypatch.setattr(firewalls, "_found", refused)
    await firewalls.Firewalls(Family.V6).look()
