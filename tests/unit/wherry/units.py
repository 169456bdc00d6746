"""Unit files, read."""

import shlex
from pathlib import Path


def exec_start(unit: Path) -> list[str]:
    """The words of a unit's ExecStart."""
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    return shlex.split(line.removeprefix("ExecStart="))
