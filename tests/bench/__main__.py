"""`make bench [ONLY=prefix]`: figures against floors measured in turn in the same run.

Each module of this folder gives rows; a row is {name, unit, ours, floor, ratio, runs, note}, medians. The table goes to the
terminal, the rows to .bench/latest.json. A floor is what the kernel or the stock tool needs for the same work; where there
is none (`memory.*`), floor and ratio are null and the note says what the figure stands beside.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tests.bench as here

Row = dict[str, Any]


def modules() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(here.__path__) if not m.name.startswith("_"))


def rows(only: str | None) -> Iterator[Row]:
    for name in modules():
        module = importlib.import_module(f"tests.bench.{name}")
        if hasattr(module, "rows"):
            yield from module.rows(only)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> int:
    only = sys.argv[1] if len(sys.argv) > 1 else None
    found: list[Row] = []
    console = Console()
    for row in rows(only):
        found.append(row)
        console.print(f"  {row['name']}: {_figure(row['ours'])} {row['unit']}", highlight=False)
    if not found:
        console.print(f"no figure's name begins with {only!r}")
        return 2
    table = Table(box=None, header_style="bold")
    for title in ("NAME", "UNIT", "OURS", "FLOOR", "RATIO", "RUNS", "NOTE"):
        table.add_column(title, justify="right" if title in ("OURS", "FLOOR", "RATIO", "RUNS") else "left")
    for row in found:
        figures = [_figure(row["ours"]), _figure(row["floor"]), _figure(row["ratio"])]
        table.add_row(row["name"], row["unit"], *figures, str(row["runs"]), row["note"])
    console.print(table)
    target = Path(".bench/latest.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
