"""The Pod Security Standards: which checks a level of a version consists of.

A restricted check takes the place of the baseline check that it contains. Results come in upstream's order: the baseline
checks by their name, then the restricted ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, cast

from apiserver.admission.podsecurity import baseline, restricted
from apiserver.admission.podsecurity.findings import LATEST, Check, Finding, Pod

Obj = dict[str, Any]
Level = Literal["privileged", "baseline", "restricted"]
LEVELS: Final = ("privileged", "baseline", "restricted")


@dataclass(frozen=True, slots=True)
class Policy:
    """`minor` is N of v1.N, LATEST for `latest`."""

    level: Level
    minor: int = LATEST

    def __str__(self) -> str:
        return f"{self.level}:{'latest' if self.minor == LATEST else f'v1.{self.minor}'}"


def policy(level: str, version: str) -> Policy:
    """What labels say; a level that is none is privileged, a version that is none the latest."""
    minor = version.removeprefix("v1.")
    known = version.startswith("v1.") and minor.isascii() and minor.isdigit()
    return Policy(cast("Level", level) if level in LEVELS else "privileged", int(minor) if known else LATEST)


@lru_cache(maxsize=128)
def checks(level: Level, minor: int) -> tuple[Callable[[Pod], Finding | None], ...]:
    match level:
        case "privileged":
            return ()
        case "baseline":
            return tuple(check.run for check in _of(baseline.CHECKS, minor))
        case "restricted":
            strict = _of(restricted.CHECKS, minor)
            replaced = {check.replaces for check in strict}
            kept = [check for check in _of(baseline.CHECKS, minor) if check.name not in replaced]
            return tuple(check.run for check in (*kept, *strict))


def _of(known: tuple[Check, ...], minor: int) -> list[Check]:
    """The newest form of each check that this version has."""
    newest: dict[str, Check] = {}
    for check in known:
        if check.since <= minor and check.since >= newest.get(check.name, check).since:
            newest[check.name] = check
    return [newest[name] for name in sorted(newest)]


def violations(wanted: Policy, metadata: Obj, spec: Obj) -> list[Finding]:
    if wanted.level == "privileged":
        return []
    pod = Pod.of(metadata, spec)
    return [found for check in checks(wanted.level, wanted.minor) if (found := check(pod)) is not None]
