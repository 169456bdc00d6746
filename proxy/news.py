"""What people are told of their Services: an Event, a line in the log and a count, once for each change of the matter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from linux.iptables.rules import Family
from proxy.objects import Service
from proxy.slices import Skipped

REFUSED = "FailedToProgramService"

Tell = Callable[[str, str, str], None]
"""Puts a Warning Event on a Service: its `namespace/name`, the reason, the message."""

log = logging.getLogger(__name__)


class News:
    """`count` is called with the reason of each part that was skipped."""

    def __init__(self, tell: Tell, count: Callable[[str], None]) -> None:
        self._tell = tell
        self._count = count
        self._refused: dict[Family, Mapping[str, str]] = {}

    def skipped(self, parts: Iterable[tuple[Service, Skipped]]) -> None:
        """Parts of objects that could not be used; the rest of each object is."""
        for service, part in parts:
            key = service.metadata.key
            log.warning("%s: %s: %s", key, part.reason, part.message)
            self._count(part.reason)
            self._tell(key, part.reason, part.message)

    def refused(self, family: Family, refused: Mapping[str, str]) -> None:
        """Service ports whose rules the kernel did not take, with its words."""
        known = self._refused.get(family, {})
        for name, why in refused.items():
            if known.get(name) == why:
                continue
            log.error("IPv%d: %s: the kernel refused its rules, all others are in place: %s", family, name, why)
            self._tell(_key(name), REFUSED, f"IPv{family} rules of {name} were refused: {why}")
        for name in known.keys() - refused.keys():
            log.info("IPv%d: %s: its rules are in place now, or no longer wanted", family, name)
        self._refused[family] = dict(refused)


def _key(port_name: str) -> str:
    """`namespace/name` of a service port name, `namespace/name:port`."""
    return port_name.partition(":")[0]
