"""Health: named checks behind /healthz, /livez and /readyz, in upstream's format (apiserver/pkg/server/healthz).

The answer is `ok`, or with `?verbose`, and always on failure, a line for each check. Why a check fails is for the log, when it
changes: who asks may be anonymous. `?exclude=NAME`, repeated, leaves checks out; /readyz/NAME asks for one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

Check = Callable[[], Awaitable[str | None]]  # None when all is well, else what is not


@dataclass(frozen=True, slots=True)
class Report:
    """`failed`: each check that is not well, with the reason that the text keeps back."""

    healthy: bool
    text: str
    failed: tuple[str, ...] = ()


async def report(name: str, checks: Mapping[str, Check], raw_query: str) -> Report:
    """`name` is `readyz` or its like."""
    query = parse_qs(raw_query, keep_blank_values=True)
    excluded = {one for value in query.get("exclude", ()) for one in value.split(",") if one}
    lines, failed = [], []
    for one, check in checks.items():
        if one in excluded:
            excluded.discard(one)
            lines.append(f"[+]{one} excluded: ok")
        elif why := await check():
            failed.append(f"{one}: {why}")
            lines.append(f"[-]{one} failed: reason withheld")
        else:
            lines.append(f"[+]{one} ok")
    if excluded:
        quoted = ", ".join(f'"{one}"' for one in sorted(excluded))
        lines.append(f"warn: some health checks cannot be excluded: no matches for {quoted}")
    if failed:
        return Report(False, _text(lines, f"{name} check failed"), tuple(failed))
    return Report(True, _text(lines, f"{name} check passed") if "verbose" in query else "ok")


async def single(check: Check) -> Report:
    why = await check()
    return Report(False, f"internal server error: {why}\n") if why else Report(True, "ok")


def _text(lines: Iterable[str], last: str) -> str:
    return "\n".join([*lines, last]) + "\n"


def always() -> Check:
    """`ping`: whoever answers is there."""
    return plain(lambda: None)


def plain(check: Callable[[], str | None]) -> Check:
    """A check that need not wait."""

    async def checked() -> str | None:
        return check()

    return checked
