"""The proxy's rows: a real daemon in a fresh network namespace, driven by watch events, timed by the kernel's own notices.

    proxy.<mode>.start.<n>    from nothing: from the first list's being asked for to its being ready, with transfer, decoding,
                              planning, and n Services of 5 endpoints in the kernel
    proxy.<mode>.full.<n>     the part of it after the last page of the lists, beside the same rules by the bare tool
    proxy.<mode>.change.<n>   an endpoint more or less of one Service, from the event's first byte to the last commit
    proxy.<mode>.rss.10000    resident memory after that
    proxy.idle.cpu            of one core, when nothing changes, with 10,000 Services; the worst of the modes
    proxy.churn.failures      of new connections while the endpoints of 1,000 Services change 50 times a second
    proxy.reach.<mode>        a Service is created; seconds to the first connection through its cluster IP

Floors are the same rules by the bare tools (`_floors`). QUICK=1 takes fewer runs and shorter windows.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import _churn, _floors, _reach
from tests.bench._services import ENDPOINTS, Centre, daemon, legacy_table, locked_in, namespace, prefer_legacy
from tests.requirements import missing

QUICK = bool(os.environ.get("QUICK"))
RUNS = 1 if QUICK else 3
CHANGES = 6 if QUICK else 20
IDLE = 5.0 if QUICK else 20.0
SETTLED = 2.0  # seconds until a system is quiet that has just been loaded
CHURN = 10.0 if QUICK else 60.0
MODES = ("iptables-nft", "iptables-legacy", "nftables")
COUNTS = (1000, 10_000)


@dataclass(slots=True)
class Found:
    """Of one mode and number of Services."""

    full: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    start_busy: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    full_floor: list[float] = field(default_factory=list)
    change: list[float] = field(default_factory=list)
    change_floor: list[float] = field(default_factory=list)
    change_busy: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows whose names begin with `only`; none where the machine cannot run them."""
    only = only or ""
    if not "proxy.".startswith(only) and not only.startswith("proxy"):
        return
    if lacking := missing("netns", "iptables-nft-restore", "iptables-legacy-restore", "ip", "nft"):
        print(f"proxy: not measured, this machine lacks {', '.join(lacking)}")
        return
    idle: dict[str, float] = {}
    for mode in MODES:
        for count in COUNTS:
            names = {what: f"proxy.{mode}.{what}.{count}" for what in ("start", "full", "change", "rss")}
            wanted = {what for what, name in names.items() if name.startswith(only)} - (
                {"rss"} if count < 10_000 else set()
            )
            resting = count == COUNTS[-1] and "proxy.idle.cpu".startswith(only)
            if wanted or resting:
                found = _measured(mode, count, RUNS if wanted else 1, resting=resting)
                if resting:
                    idle[mode] = statistics.median(found.idle)
                yield from _told(found, {what: names[what] for what in sorted(wanted)}, count)
    if idle:
        note = "% of a core, 10,000 Services; " + ", ".join(f"{mode} {value:.3f}" for mode, value in idle.items())
        yield _row("proxy.idle.cpu", "%", max(idle.values()), None, 1, note)
    yield from _others(only)


def _others(only: str) -> Iterator[dict[str, Any]]:
    if "proxy.churn.failures".startswith(only):
        total = _churn.Outcome()
        for mode in MODES:
            total += _churn.measured(mode, CHURN)
        if total.telling or total.failures:
            yield _row("proxy.churn.failures", "", total.failures, None, len(MODES), total.words())
        else:
            print(f"proxy.churn.failures: no figure, this machine was too busy: {total.words()}")
    for mode in ("iptables", "nftables"):
        if f"proxy.reach.{mode}".startswith(only):
            with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
                found = _reach.measured(mode, Path(home), CHANGES)
            middle = _reach.medians(found)
            hops = ", ".join(f"{name} {value:.1f}" for name, value in middle.items())
            yield _row(f"proxy.reach.{mode}", "ms", middle["reached"], None, len(found), f"Service created, ms: {hops}")


def _measured(mode: str, count: int, runs: int, *, resting: bool) -> Found:
    found = Found()
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="wherry-bench-") as home, locked_in(Path(home)):
            with namespace("proxy"):
                saved = _run(found, mode, count, Path(home), resting=resting)
            if saved is None:
                full, changes = _floors.flat(count, CHANGES)
                found.full_floor.append(full)
                found.change_floor += [seconds * 1000 for seconds in changes]
                continue
            with namespace("floor"):
                found.full_floor.append(saved.full())
                found.change_floor += [saved.change() * 1000 for _ in range(CHANGES)]
    return found


def _run(found: Found, mode: str, count: int, home: Path, *, resting: bool) -> _floors.Saved | None:
    """One daemon's life in this namespace; the rules it left, for iptables."""
    flavor = mode.partition("-")[2]
    if flavor == "legacy":
        prefer_legacy()
    with Centre(count, legacy_table if flavor == "legacy" else None).serving() as centre:
        with daemon(home, centre, f"--proxy-mode={mode.partition('-')[0]}") as proxy:
            found.full.append(proxy.ready - centre.listed)
            found.start.append(proxy.ready - centre.asked)
            found.start_busy.append(proxy.seconds())
            found.busy.append(proxy.busy)
            time.sleep(SETTLED)
            began, done = proxy.seconds(), len(found.change)
            for _ in range(CHANGES // 2):
                index = random.randrange(count)
                found.change += [centre.change(index, each) for each in (ENDPOINTS + 1, ENDPOINTS)]
            found.change_busy.append((proxy.seconds() - began) / (len(found.change) - done) * 1000)
            found.memory.append(proxy.memory())
            if resting:
                time.sleep(SETTLED)
                began = proxy.seconds()
                time.sleep(IDLE)
                found.idle.append((proxy.seconds() - began) / IDLE * 100)
        return _floors.Saved(flavor) if flavor else None


def _told(found: Found, names: dict[str, str], count: int) -> Iterator[dict[str, Any]]:
    size = f"{count:,} Services x {ENDPOINTS}"
    for what, name in names.items():
        match what:
            case "start":
                whole, busy = statistics.median(found.start), statistics.median(found.start_busy)
                note = f"{size}; processor {busy:.3g} s, with starting the program; lists, decoding, planning, kernel"
                yield _row(name, "s", whole, None, len(found.start), note)
            case "full":
                ours, floor = statistics.median(found.full), statistics.median(found.full_floor)
                busy = statistics.median(found.busy)
                note = f"{size}; processor {busy:.3g} s; without the lists; floor: the bare tool, no planning"
                yield _row(name, "s", ours, floor, len(found.full), note)
            case "change":
                ours, floor = statistics.median(found.change), statistics.median(found.change_floor)
                yield _row(
                    name, "ms", ours, floor, len(found.change), f"event to kernel; at most {max(found.change):.1f}"
                )
            case _:
                now, most = (statistics.median(column) for column in zip(*found.memory, strict=True))
                yield _row(name, "MB", now, None, len(found.memory), f"{size}; at most {most:.0f}")


def _row(name: str, unit: str, ours: float, floor: float | None, runs: int, note: str) -> dict[str, Any]:
    """Three digits are what these runs are worth."""
    ratio = float(f"{ours / floor:.3g}") if floor else None
    figures = {"ours": float(f"{ours:.3g}"), "floor": None if floor is None else float(f"{floor:.3g}")}
    return {"name": name, "unit": unit, **figures, "ratio": ratio, "runs": runs, "note": note}
