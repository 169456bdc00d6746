"""Whether a family's nat table is there: what iptables' words mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from linux.iptables.backend import Backend, Flavor, nat_works
from linux.iptables.rules import Family
from linux.process import CommandFailed


def saying(directory: Path, monkeypatch: pytest.MonkeyPatch, words: str, status: int) -> Backend:
    """The legacy commands of IPv6, as a program that only says this."""
    program = directory / "ip6tables-legacy"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return Backend(Family.V6, Flavor.LEGACY, (1, 8, 9), "save", "restore")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("", 0),
        ("Another app is currently holding the xtables lock. Stopped waiting after 1s.", 4),
        ("Can't lock /run/xtables.lock: Resource temporarily unavailable", 4),
    ],
)
async def test_a_held_lock_does_not_take_a_family_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, status: int
) -> None:
    await nat_works(saying(tmp_path, monkeypatch, words, status))


async def test_a_kernel_without_the_table_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = "ip6tables v1.8.9 (legacy): can't initialize ip6tables table `nat': Table does not exist"
    with pytest.raises(CommandFailed, match="Table does not exist"):
        await nat_works(saying(tmp_path, monkeypatch, lacking, 3))
