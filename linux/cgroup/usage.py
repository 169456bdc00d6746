"""What a cgroup has used and may use: the values that both versions' readers give.

Units are the kernel's lowest common ones: nanoseconds, bytes, counts. `None` means that the kernel does not say (controller
absent, kernel too old) or that nobody asked, which is not zero. Kernel docs: admin-guide/cgroup-v1/, admin-guide/cgroup-v2.rst.
"""

from collections.abc import Mapping

import msgspec

UNLIMITED = 2**62
"""Memory limits at or above this are the kernel's way to say none (v1 shows 9223372036854771712)."""


class Ask(msgspec.Struct, frozen=True):
    """What is wanted beside usage of CPU and memory: each is a file or more to be read."""

    split: bool = True
    """User and system time."""
    peak: bool = True
    """Highest usage, refused allocations, kernel memory."""
    swap: bool = True
    """No where the machine has none."""
    oom: bool = True
    io: bool = True
    pids: bool = True
    pressure: bool = True


class Cpu(msgspec.Struct, frozen=True, gc=False):
    usage_ns: int
    user_ns: int | None = None
    system_ns: int | None = None
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    bursts: int = 0
    burst_ns: int = 0


class Memory(msgspec.Struct, frozen=True, gc=False):
    """`working_set` is usage without inactive file pages, what the OOM killer and the kubelet look at. Faults are counted with
    the groups below, `own_` ones without where the kernel tells them apart (version 1)."""

    usage: int
    working_set: int
    max_usage: int | None
    rss: int
    cache: int
    mapped_file: int
    swap: int
    active_file: int
    inactive_file: int
    failcnt: int | None
    page_faults: int
    major_page_faults: int
    own_page_faults: int | None = None
    own_major_page_faults: int | None = None
    kernel: int | None = None


class DeviceIo(msgspec.Struct, frozen=True, gc=False):
    """Since the group was made, of one block device `major:minor`."""

    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


class Stall(msgspec.Struct, frozen=True, gc=False):
    """Microseconds in which `some` tasks (all non-idle ones: `full`) waited for the resource; shares of the last 10 s in
    per cent."""

    some_us: int
    full_us: int
    some_avg10: float = 0.0
    full_avg10: float = 0.0
    some_avg60: float = 0.0
    full_avg60: float = 0.0
    some_avg300: float = 0.0
    full_avg300: float = 0.0


class Pressure(msgspec.Struct, frozen=True, gc=False):
    """None: the kernel counts no pressure of that resource for the group (version 1; `psi=0`)."""

    cpu: Stall | None = None
    memory: Stall | None = None
    io: Stall | None = None


class Limits(msgspec.Struct, frozen=True, gc=False):
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    swap_bytes: int | None = None
    """As the kernel's file has it: swap alone, or `swap_with_memory` (version 1). None is no limit."""
    swap_with_memory: bool = False
    reservation_bytes: int | None = None
    """What reclaim leaves (version 1: tries to leave) to the group."""
    cpuset: str = ""


class Usage(msgspec.Struct, frozen=True, gc=False):
    cpu: Cpu | None
    memory: Memory | None
    pids: int | None
    io: Mapping[str, DeviceIo] = {}
    limits: Limits = Limits()
    oom_kills: int | None = None
    pressure: Pressure | None = None
