"""Pressure stall information of one group (Documentation/accounting/psi.rst). Version 1 has none, but the tree of version 2
that a hybrid machine mounts beside it counts it for the same processes."""

from linux.cgroup.files import content
from linux.cgroup.usage import Pressure, Stall


def read(folder: str) -> Pressure:
    return Pressure(
        parse(content(f"{folder}/cpu.pressure")),
        parse(content(f"{folder}/memory.pressure")),
        parse(content(f"{folder}/io.pressure")),
    )


def machine() -> Pressure:
    return Pressure(*(parse(content(f"/proc/pressure/{name}")) for name in ("cpu", "memory", "io")))


def parse(data: bytes | None) -> Stall | None:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full` (not of a machine's CPU before 5.13)."""
    rows: dict[bytes, dict[bytes, bytes]] = {}
    for line in (data or b"").splitlines():
        kind, *fields = line.split() or [b""]
        rows[kind] = dict(each.split(b"=", 1) for each in fields if b"=" in each)
    some, full = rows.get(b"some", {}), rows.get(b"full", {})
    try:
        return Stall(
            some_us=int(some[b"total"]),
            full_us=int(full.get(b"total", 0)),
            some_avg10=float(some[b"avg10"]),
            full_avg10=float(full.get(b"avg10", 0)),
            some_avg60=float(some[b"avg60"]),
            full_avg60=float(full.get(b"avg60", 0)),
            some_avg300=float(some[b"avg300"]),
            full_avg300=float(full.get(b"avg300", 0)),
        )
    except (KeyError, ValueError):
        return None
