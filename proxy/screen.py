"""A report of `wherry proxy show` for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.model import Reach
from proxy.show import Place, Report, Shown, spelt

_MOST_PLACES = 3
_WIDE = 400  # columns where nobody sees them: what reads a pipe wants whole lines


def print_report(report: Report, *, detail: bool, to: TextIO | None = None) -> None:
    file = to or sys.stdout
    console = Console(file=file, highlight=False, soft_wrap=True, width=None if file.isatty() else _WIDE)
    if detail:
        for each in report.shown:
            _detail(console, each, compared=report.compared)
    elif report.shown:
        console.print(_table(report))
    console.print(_summary(report))
    for note in report.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, header_style="bold")
    for name in ("SERVICE", "AT", "POLICY", "ENDPOINTS", "PACKETS", "STATE"):
        table.add_column(name, no_wrap=True)
    for each in report.shown:
        table.add_row(
            each.name,
            Text(_ats(each.places)),
            _policy(each),
            _endpoints(each),
            _number(each.packets),
            _state(each, report.compared),
        )
    return table


def _ats(places: Iterable[Place]) -> str:
    said = [at(place) for place in places]
    more = f" +{len(said) - _MOST_PLACES}" if len(said) > _MOST_PLACES else ""
    return ", ".join(said[:_MOST_PLACES]) + more


def at(place: Place) -> str:
    where = f"*:{place.at.port}" if place.at.address is None else spelt(place.at.address, place.at.port)
    return f"{where}/{place.at.protocol}"


def _policy(each: Shown) -> str:
    """What is not everybody's: Local policies, affinity, source ranges."""
    if each.port is None:
        return ""
    said = [
        f"{which} Local"
        for which, reach in (("internal", each.port.internal), ("external", each.port.external))
        if reach is Reach.LOCAL
    ]
    if each.port.affinity_seconds is not None:
        said.append("ClientIP")
    if each.port.source_ranges:
        said.append("source ranges")
    return ", ".join(said) or "Cluster"


def _endpoints(each: Shown) -> str:
    if each.port is None:
        return str(len(frozenset().union(*(place.seen for place in each.places))))
    usable = each.port.endpoints
    if not usable.any:
        return "none"
    local = Reach.LOCAL in (each.port.internal, each.port.external)
    return f"{len(usable.all)} ({len(usable.local)} here)" if local else str(len(usable.all))


def _state(each: Shown, compared: bool) -> Text:
    if not compared:
        words = dict.fromkeys(place.verdict for place in each.places if place.verdict)
        return Text(", ".join(words) or "served")
    return Text(each.words, style="green" if each.in_sync else "bold red")


def _number(count: int | None) -> str:
    return "-" if count is None else str(count)


def _detail(console: Console, each: Shown, *, compared: bool) -> None:
    console.print(Text(each.name, style="bold"), _state(each, compared))
    if each.port is not None:
        policies = f"internal {each.port.internal.value}, external {each.port.external.value}"
        affinity = "" if each.port.affinity_seconds is None else f", ClientIP affinity {each.port.affinity_seconds} s"
        ranges = ", ".join(map(str, each.port.source_ranges))
        console.print(f"  policy {policies}{affinity}{f', only from {ranges}' if ranges else ''}")
    for place in each.places:
        counted = "" if place.packets is None else f", {place.packets} packets, {place.octets} bytes"
        console.print(f"  {place.what} {at(place)}{counted}", markup=False)
        if place.whose:
            console.print(f"    another Service's: {place.whose}", markup=False)
        for end in sorted(place.wanted | place.seen):
            console.print(Text("    ").append_text(_end(end, place, compared)))
        if not place.seen and place.verdict:
            console.print(_verdict(place, compared))


def _end(end: str, place: Place, compared: bool) -> Text:
    if not compared:
        return Text(end)
    if end in place.missing:
        return Text(f"{end}  missing in the kernel", style="bold red")
    if end in place.stale:
        return Text(f"{end}  stale: nobody wants it", style="bold red")
    return Text(f"{end}  in sync", style="green")


def _verdict(place: Place, compared: bool) -> Text:
    right = not compared or place.verdict == place.should
    words = {"refused": "refused (REJECT)", "dropped": "dropped (DROP)", "passed": "passed by: no rule knows it"}
    should = "" if right or not place.should else f", should be {place.should}"
    return Text(f"    {words.get(place.verdict, place.verdict)}{should}", style="" if right else "bold red")


def _summary(report: Report) -> Text:
    modes = " and ".join(report.modes) or "no proxy's rules"
    services = len({each.name.partition(":")[0] for each in report.shown})
    counts = f"{_many(services, 'Service')}, {_many(len(report.shown), 'port')}"
    if not report.compared:
        return Text(f"{report.node}: {modes}; {counts} in the kernel; not compared with the API", style="bold")
    wrong = [each for each in report.shown if not each.in_sync]
    if not wrong:
        return Text(f"{report.node}: {modes}; {counts}, all in sync", style="bold green")
    return Text(f"{report.node}: {modes}; {counts}, {len(wrong)} out of sync", style="bold red")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
