"""Snapshots as Prometheus text: exposition format 0.0.4, or OpenMetrics 1.0 for who asks.

Lines are joined by hand: building them through prometheus-client costs about 18 times as much for container series, of which
there are many; a daemon's own metrics do go through it. What of a line never changes is kept from page to page (see
`metrics.labels`), and so are the lines of limits and start times, which hardly ever do. A snapshot is rendered once a
format, however many ask: scrapes that share a reading share its text.

The two formats differ in what a family's head calls it (OpenMetrics counters lose their `_total` there; one that has none is
of unknown type), in the unit of times, and in the end mark, which is left to whoever puts the page together.
"""

import re
import threading
import zlib
from collections.abc import Iterator

from metrics.families import Column, Family
from metrics.labels import Labels, Prefixes, escaped, joined
from metrics.machine import MachineFamily
from metrics.model import Part, Snapshot
from metrics.rows import Pairs, Rows
from metrics.selection import FULL, MIXIN, Selection, select

# What the kubelet needs to serve its own containers.
__all__ = ["FULL", "MIXIN", "Labels", "Page", "Selection", "content_type", "escaped", "openmetrics", "select"]

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EOF = b"# EOF\n"


def content_type(openmetrics: bool = False) -> str:
    return _OPENMETRICS if openmetrics else _TEXT


def openmetrics(accept: str) -> bool:
    """Whether an Accept header wants OpenMetrics at least as much as plain text."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = [word.strip() for word in part.split(";")]
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            if kind.lower() in wanted:
                wanted[kind.lower()] = max(wanted[kind.lower()], float(quality))
        except ValueError:
            continue  # a quality that is no number asks for nothing
    return wanted["application/openmetrics-text"] > 0 and wanted["application/openmetrics-text"] >= wanted["text/plain"]


_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
_WORTH_PACKING = 1024
"""Bytes; below, gzip's own work is more than what it saves."""


def packed(body: bytes, accept_encoding: str) -> bytes | None:
    """The body with gzip, at its fastest, where the Accept-Encoding takes that (at q=0 it does not) and it is worth it. It costs
    more than all the rest of a scrape: call it in a thread."""
    if len(body) < _WORTH_PACKING or not _GZIP.search(accept_encoding):
        return None
    return zlib.compress(body, 1, wbits=31)


class Page:
    """The text of snapshots, one after the other. Safe to call from several threads: they wait for one rendering."""

    def __init__(self, selection: Selection = MIXIN, labels: Labels | None = None, *, timestamps: bool = False) -> None:
        self.parts: frozenset[Part] = selection.parts
        """What a snapshot for this page must hold."""
        self._selection = selection
        self._timestamps = timestamps
        self._prefixes = Prefixes(labels or Labels())
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[list[Pairs], str]] = {}
        self._snapshot: Snapshot | None = None
        self._texts: dict[bool, bytes] = {}

    def text(self, snapshot: Snapshot, openmetrics: bool = False) -> bytes:
        """Without the end mark of OpenMetrics: more may follow."""
        with self._lock:
            if snapshot is not self._snapshot:
                self._snapshot, self._texts = snapshot, {}
            text = self._texts.get(openmetrics)
            if text is None:
                text = self._texts[openmetrics] = "".join(self._blocks(snapshot, openmetrics)).encode()
            return text

    def whole(self, snapshot: Snapshot, openmetrics: bool = False) -> bytes:
        return self.text(snapshot, openmetrics) + (_EOF if openmetrics else b"")

    def _blocks(self, snapshot: Snapshot, openmetrics: bool) -> Iterator[str]:
        view = Rows(snapshot, self._prefixes)
        end = "\n"
        if self._timestamps:
            end = f" {snapshot.when:.3f}\n" if openmetrics else f" {int(snapshot.when * 1000)}\n"
        for family in self._selection.families:
            lines = _lines(family, view, end) if family.timed else self._lasting(family, view)
            if lines:
                yield _head(family, openmetrics)
                yield lines
        for single in self._selection.machine:
            lines = "".join(
                [f"{single.name}{{{joined(labels)}}} {value}\n" for labels, value in single.values(snapshot)]
            )
            if lines:
                yield _head(single, openmetrics)
                yield lines.replace("{} ", " ")

    def _lasting(self, family: Family, view: Rows) -> str:
        """The lines of a family whose values last, rendered again only when one of its rows is another one."""
        rows = [view.of(column.source) for column in family.columns]
        kept = self._kept.get(family.name)
        if kept is None or kept[0] != rows:
            kept = self._kept[family.name] = (rows, _lines(family, view, "\n"))
        return kept[1]


def _head(family: Family | MachineFamily, openmetrics: bool) -> str:
    name, kind = family.name, str(family.kind)
    if openmetrics and kind == "counter":
        name, kind = (name.removesuffix("_total"), kind) if name.endswith("_total") else (name, "unknown")
    return f"# HELP {name} {family.help}\n# TYPE {name} {kind}\n"


def _lines(family: Family, view: Rows, end: str) -> str:
    return "".join([line for column in family.columns for line in _column(family, column, view, end)])


def _column(family: Family, column: Column, view: Rows, end: str) -> list[str]:
    name, scale, get, extra = family.name, family.scale, column.value, column.extra
    prefixes, values = view.of(column.source)
    if extra:
        prefixes = [prefix.more(extra) for prefix in prefixes]
    rows = zip(prefixes, map(get, values), strict=True)
    if scale == 1:
        return [f"{name}{prefix.text}{v}{end}" for prefix, v in rows if v is not None]
    return [f"{name}{prefix.text}{v / scale:.6f}{end}" for prefix, v in rows if v is not None]
