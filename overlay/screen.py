"""A report of `wherry overlay show` for people."""

import sys
from collections.abc import Iterable
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from overlay.show import Entry, Path, Peer, Report, State

_WIDE = 400  # columns where nobody sees them: what reads a pipe wants whole lines
_GOOD, _BAD = "green", "bold red"


def print_report(report: Report, *, detail: bool, to: TextIO | None = None) -> None:
    """In `detail` every entry of each peer, else a line for it."""
    file = to or sys.stdout
    console = Console(file=file, highlight=False, soft_wrap=True, width=None if file.isatty() else _WIDE)
    if detail:
        for peer in report.peers:
            _peer(console, peer)
    elif report.peers:
        console.print(_table(report, lines=file.isatty()))
    _here(console, report)
    console.print(_summary(report))
    for note in report.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _table(report: Report, *, lines: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if lines else None, pad_edge=False, header_style="bold")
    for name in ("NODE", "SUBNET", "PUBLIC IP", "BY", "STATE"):
        table.add_column(name, no_wrap=True)
    for peer in report.peers:
        lease = peer.lease
        subnet, public = (str(lease.subnet), str(lease.public_ip)) if lease else ("-", "-")
        table.add_row(peer.node, subnet, public, peer.by or "-", Text(peer.words, style=_GOOD if peer.ok else _BAD))
    return table


def _peer(console: Console, peer: Peer) -> None:
    where = f" {peer.lease.subnet} at {peer.lease.public_ip}, {peer.by}" if peer.lease else ""
    console.print(
        Text(peer.node, style="bold"), Text(where), Text(peer.words, style=_GOOD if peer.ok else _BAD), sep="  "
    )
    _entries(console, peer.entries)


def _here(console: Console, report: Report) -> None:
    for path in report.paths:
        if path.own or path.trouble:
            console.print(_heading(path))
            _entries(console, path.entries)
    if report.beside:
        console.print(Text("beside", style="bold"))
        _entries(console, report.beside)


def _heading(path: Path) -> Text:
    families = " and ".join(f"IPv{family:d}" for family in path.families)
    text = Text(path.name or "routes", style="bold").append(f"  {families}", style="not bold")
    if path.own:
        own = ", ".join(f"{lease.subnet} at {lease.public_ip}" for lease in path.own)
        text.append(f", {own}, MTU of pods {path.mtu}", style="not bold")
    return text.append(f"  {path.trouble}", style=_BAD) if path.trouble else text


def _entries(console: Console, entries: Iterable[Entry]) -> None:
    for entry in entries:
        text = Text(f"  {entry.object} {entry.words}  ")
        text.append(str(entry.state), style=_GOOD if entry.ok else _BAD)
        if entry.found:
            text.append(f": {entry.found}" if entry.state is State.WRONG else f" ({entry.found})")
        console.print(text)


def _summary(report: Report) -> Text:
    peers = [peer for peer in report.peers if not peer.refused]
    said = f"{report.node}: {report.backend} from {report.registry}; {_many(len(peers), 'peer')}"
    wrong = [peer for peer in report.peers if not peer.ok]
    if report.ok:
        return Text(f"{said}, all as wanted", style="bold green")
    parts = [f"{len(wrong)} not as wanted"] if wrong else []
    if any(path.trouble or not all(entry.ok for entry in path.entries) for path in report.paths):
        parts.append("this node's tunnels are not as wanted")
    if not all(entry.ok for entry in report.beside):
        parts.append("what is beside them is not as wanted")
    return Text(f"{said}, {', '.join(parts)}", style="bold red")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
