"""When the checksum probe switches a device's offload off, over a path that lies as network cards and firewalls do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

import pytest

from linux.iptables.rules import Family
from overlay.checksum import Checksums
from overlay.model import Address

A, B, C, D = (ip_address(f"10.244.{n}.0") for n in (2, 3, 4, 5))
DEADLINE = 20.0


@dataclass
class FakePath:
    """`faulty`: the card breaks what it should compute. `firewalled` hosts answer pings alone, `down` ones nothing."""

    faulty: bool = False
    firewalled: frozenset[Address] = frozenset()
    down: frozenset[Address] = frozenset()
    on: dict[str, bool] = field(default_factory=dict)
    asked: list[tuple[str, Address]] = field(default_factory=list)
    broken: bool = False

    async def echoed(self, peer: Address, device: str) -> bool:
        await asyncio.sleep(0)
        self.asked.append(("echo", peer))
        if self.broken:
            raise OSError(1, "Operation not permitted")
        return peer not in self.down

    async def refused(self, peer: Address, device: str) -> bool:
        await asyncio.sleep(0)
        self.asked.append(("datagram", peer))
        return peer not in self.firewalled and not (self.faulty and self.offloads(device))

    def offloads(self, device: str) -> bool:
        return self.on.get(device, True)

    def offload(self, device: str, on: bool) -> None:
        self.on[device] = on


@dataclass
class Trial:
    path: FakePath
    checksums: Checksums
    reported: list[bool]

    async def quiet(self, ended: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not ended():
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def trial(path: FakePath) -> AsyncIterator[Trial]:
    reported: list[bool] = []
    checksums = Checksums(lambda _family, disabled: reported.append(disabled), path, random=Random(1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(checksums.run())
        yield Trial(path, checksums, reported)
        task.cancel()


async def test_a_healthy_card_is_asked_once_and_left_alone() -> None:
    async with trial(FakePath()) as made:
        made.checksums.note(Family.V4, "flannel.1", 7, [])
        made.checksums.note(Family.V4, "flannel.1", 7, [A])
        await made.quiet(lambda: ("datagram", A) in made.path.asked)
        made.checksums.note(Family.V4, "flannel.1", 7, [A, B])
        await made.quiet(lambda: True)
        assert made.path.asked == [("echo", A), ("datagram", A)]
        assert made.path.on == {}
        assert made.reported == [False]


async def test_a_faulty_card_is_found_out_and_kept_out(caplog: pytest.LogCaptureFixture) -> None:
    async with trial(FakePath(faulty=True)) as made:
        assert made.checksums.note(Family.V4, "flannel.1", 7, [A]) == []
        await made.quiet(lambda: made.reported[-1:] == [True])
        assert made.path.on == {"flannel.1": False}
        assert "wrong checksums" in caplog.text
        count = len(made.path.asked)
        made.path.on["flannel.1"] = True
        assert made.checksums.note(Family.V4, "flannel.1", 7, [A]) == [
            "switch transmit checksum offload of flannel.1 off"
        ]
        made.path.on.clear()
        made.checksums.note(Family.V4, "flannel.1", 8, [A])
        assert made.path.on == {"flannel.1": False}, "a device made anew computes them from its first packet on"
        await made.quiet(lambda: True)
        assert len(made.path.asked) == count
        assert made.reported == [False, True, True]


async def test_a_firewall_changes_nothing_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with trial(FakePath(faulty=True, firewalled=frozenset([A]))) as made:
        made.checksums.note(Family.V4, "flannel.1", 7, [A])
        await made.quiet(lambda: "is not known" in caplog.text)
        assert made.path.on == {"flannel.1": True}
        assert made.reported == [False]
        made.checksums.note(Family.V4, "flannel.1", 7, [A])
        await made.quiet(lambda: True)
        assert caplog.text.count("is not known") == 1
        assert made.path.asked.count(("echo", A)) == 1
        made.checksums.note(Family.V4, "flannel.1", 7, [A, B])
        await made.quiet(lambda: made.reported[-1])
        assert made.path.on == {"flannel.1": False}, "another peer told"


async def test_at_most_three_firewalled_peers_are_asked() -> None:
    path = FakePath(firewalled=frozenset([A, B, C, D]))
    async with trial(path) as made:
        made.checksums.note(Family.V4, "flannel.1", 7, [A, B, C, D])
        await made.quiet(lambda: len([one for one in path.asked if one[0] == "echo"]) >= 3)
        made.checksums.note(Family.V4, "flannel.1", 7, [A, B, C, D, ip_address("10.244.9.0")])
        await made.quiet(lambda: True)
        assert len([one for one in path.asked if one[0] == "echo"]) == 3


async def test_a_peer_that_is_down_does_not_decide() -> None:
    path = FakePath(faulty=True, down=frozenset([A]))
    async with trial(path) as made:
        made.checksums.note(Family.V4, "flannel.1", 7, [A])
        await made.quiet(lambda: ("echo", A) in path.asked)
        assert made.reported == [False]
        made.checksums.note(Family.V4, "flannel.1", 7, [A, B])
        await made.quiet(lambda: made.reported[-1])


async def test_a_probe_that_cannot_be_sent_ends_nothing() -> None:
    path = FakePath(broken=True)
    async with trial(path) as made:
        made.checksums.note(Family.V4, "flannel.1", 7, [A])
        await made.quiet(lambda: bool(path.asked))
        path.broken = False
        made.checksums.note(Family.V4, "flannel.1", 7, [A, B])
        await made.quiet(lambda: ("datagram", A) in path.asked or ("datagram", B) in path.asked)


async def test_what_an_earlier_start_or_somebody_switched_off_stays_so() -> None:
    path = FakePath(on={"flannel.1": False})
    async with trial(path) as made:
        made.checksums.note(Family.V4, "flannel.1", 7, [A])
        await made.quiet(lambda: True)
        assert (path.asked, made.reported) == ([], [True])
        made.checksums.forget(Family.V4)
        assert made.reported == [True, False]
