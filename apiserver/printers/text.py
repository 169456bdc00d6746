"""Cells as kubectl prints them: ages, lists cut short, labels, selectors.

After k8s.io/apimachinery/pkg/util/duration and pkg/printers.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
UNSET: Final = "<unset>"
_SHOWN: Final = 3


def since(text: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 moment was: `5m30s`; `<unknown>` without one."""
    if not text:
        return UNKNOWN
    return human(now - moment(text))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def human(span: timedelta) -> str:
    """Two units at most, coarser as it grows; clocks may differ by a second."""
    exact = span.total_seconds()
    seconds = int(exact)
    if seconds < -1:
        return "<invalid>"
    if exact < 0:
        return "0s"
    minutes, hours = seconds // 60, seconds // 3600
    days = hours // 24
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 24 * 8:
        return _two(days, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{days}d"
    if hours < 24 * 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(big: int, unit: str, small: int, small_unit: str) -> str:
    return f"{big}{unit}{small}{small_unit}" if small else f"{big}{unit}"


def age(obj: Mapping[str, Any], now: datetime) -> str:
    return since(obj.get("metadata", {}).get("creationTimestamp"), now)


def name(obj: Mapping[str, Any]) -> str:
    return str(obj.get("metadata", {}).get("name", ""))


def annotations(obj: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = obj.get("metadata", {}).get("annotations", {})
    return found


def deleted(obj: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in obj.get("metadata", {})


def labels(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{key}={pairs[key]}" for key in sorted(pairs)) or NONE


def selector(one: Mapping[str, Any] | None) -> str:
    """A label selector in the syntax of `-l`; an absent or empty one is `<none>`."""
    if not one:
        return NONE
    terms = [(key, f"{key}={value}") for key, value in one.get("matchLabels", {}).items()]
    for term in one.get("matchExpressions", ()):
        key, values = term.get("key", ""), ",".join(sorted(term.get("values", ())))
        match term.get("operator"):
            case "In":
                terms.append((key, f"{key} in ({values})"))
            case "NotIn":
                terms.append((key, f"{key} notin ({values})"))
            case "Exists":
                terms.append((key, key))
            case _:
                terms.append((key, f"!{key}"))
    return ",".join(text for _, text in sorted(terms)) or NONE


def cut(values: Iterable[str], shown: int = _SHOWN, separator: str = ",") -> str:
    """The first few, and how many more there are."""
    everything = list(values)
    text = separator.join(everything[:shown])
    more = len(everything) - shown
    return f"{text} + {more} more..." if more > 0 else text


def condition(obj: Mapping[str, Any], kind: str) -> str | None:
    """The status of that condition, or None where there is no such condition."""
    found = (one.get("status") for one in obj.get("status", {}).get("conditions", ()) if one.get("type") == kind)
    return next(found, None)


def containers(spec: Mapping[str, Any]) -> list[str]:
    """Names and images of a pod spec's containers: two cells."""
    values = spec.get("containers", ())
    return [",".join(one.get(field, "") for one in values) for field in ("name", "image")]
