"""How long a crashed container, or an image that would not come, waits.

The first restart is immediate; it opens an entry of `initial` seconds. Every further exit is restarted no sooner than
the entry's delay after the container *finished*, and doubles the delay up to `cap`. An exit that comes more than twice
the cap after the entry was last used starts over. (Upstream: client-go/util/flowcontrol/backoff.go as used by
kuberuntime's doBackOff.)

Entries are values; whoever keeps the table passes one in and gets the next one out.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

INITIAL = 10.0
CAP = 300.0


@dataclass(frozen=True, slots=True)
class Entry:
    """`delay` seconds, last used (a restart was allowed) at `used`."""

    delay: float
    used: datetime


def _expired(entry: Entry, event: datetime, cap: float) -> bool:
    return event - entry.used > timedelta(seconds=2 * cap)


def remaining(entry: Entry | None, event: datetime, now: datetime, *, cap: float = CAP) -> float:
    """Seconds still to wait before acting on what happened at `event`; 0 when it may be done at once."""
    if entry is None or _expired(entry, event, cap):
        return 0.0
    return max(0.0, entry.delay - (now - event).total_seconds())


def following(
    entry: Entry | None, event: datetime, now: datetime, *, initial: float = INITIAL, cap: float = CAP
) -> Entry:
    """The entry after acting on `event` at `now`."""
    if entry is None or _expired(entry, event, cap):
        return Entry(min(initial, cap), now)
    return Entry(min(entry.delay * 2, cap), now)


def spelt(seconds: float) -> str:
    """A duration as Go prints it: 10s, 2m40s, 5m0s, 1h0m0s."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"


_TOLD = re.compile(r"back-off (?:(\d{1,4})h)?(?:(\d{1,4})m)?(\d{1,4})s restarting failed")


def told(message: str) -> float:
    """The delay that a CrashLoopBackOff message speaks of; 0 for any other message."""
    match = _TOLD.match(message)
    if match is None:
        return 0.0
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)
