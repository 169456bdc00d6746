"""What a cgroup has used and may use: the values that both versions' readers give.

Units are the kernel's lowest common ones: nanoseconds, bytes, counts. `None` means the kernel does not say (controller
absent, kernel too old), which is not zero. Kernel docs: admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

UNLIMITED = 2**62
"""Memory limits at or above this are the kernel's way to say none (v1 shows 9223372036854771712)."""


@dataclass(frozen=True, slots=True)
class Cpu:
    usage_ns: int
    user_ns: int
    system_ns: int
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """`working_set` is usage without inactive file pages, what the OOM killer and the kubelet look at."""

    usage: int
    working_set: int
    max_usage: int | None
    rss: int
    cache: int
    mapped_file: int
    swap: int
    active_file: int
    inactive_file: int
    failcnt: int
    page_faults: int
    major_page_faults: int


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """Since the group was made, per block device `major:minor`."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    cpu: Cpu | None
    memory: Memory | None
    pids: int | None
    io: Mapping[str, DeviceIo] = field(default_factory=dict)
    limits: Limits = Limits()


def text(path: str) -> str | None:
    """A kernel file's content, or None where there is none. Files of a vanished group answer ENODEV."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(handle, 2**16).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(handle)


def number(path: str) -> int | None:
    content = text(path)
    try:
        return int(content) if content else None
    except ValueError:
        return None


def pairs(content: str | None, separator: str | None = " ") -> dict[str, int]:
    """`name value` lines as a mapping; `separator` None is any run of blanks."""
    found: dict[str, int] = {}
    for line in (content or "").splitlines():
        name, value = (*line.split(separator, 1), "", "")[:2]
        if value.lstrip("-").isdecimal():
            found[name] = int(value)
    return found
