"""What only a runtime's verbose answers tell of a container or sandbox: its process, cgroup and limits.

The interface has no fields for them; containerd and CRI-O both put a JSON document under `info`, with `pid` and the OCI
specification. It costs a runtime a millisecond or two and is asked for once a process, when it was started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from kubelet.runtime import LinuxResources


class _Cpu(msgspec.Struct, frozen=True):
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    cpus: str | None = None
    mems: str | None = None


class _Memory(msgspec.Struct, frozen=True):
    limit: int | None = None
    swap: int | None = None


class _Pids(msgspec.Struct, frozen=True):
    limit: int | None = None


class _Resources(msgspec.Struct, frozen=True):
    cpu: _Cpu | None = None
    memory: _Memory | None = None
    pids: _Pids | None = None
    unified: dict[str, str] | None = None


class _Linux(msgspec.Struct, frozen=True, rename="camel"):
    cgroups_path: str | None = None
    resources: _Resources | None = None


class _Main(msgspec.Struct, frozen=True):
    terminal: bool = False


class _Spec(msgspec.Struct, frozen=True):
    process: _Main | None = None
    linux: _Linux | None = None


class _Config(msgspec.Struct, frozen=True):
    tty: bool = False


class _Info(msgspec.Struct, frozen=True):
    sandbox_id: str = msgspec.field(default="", name="sandboxID")
    pid: int = 0
    config: _Config | None = None
    runtime_spec: _Spec | None = msgspec.field(default=None, name="runtimeSpec")


_DECODER = msgspec.json.Decoder(_Info)


@dataclass(frozen=True, slots=True)
class Process:
    pid: int = 0
    cgroup: str = ""  # absolute below the cgroup mount
    resources: LinuxResources | None = None


NOBODY = Process()


@dataclass(frozen=True, slots=True)
class Details:
    sandbox_id: str = ""
    tty: bool = False
    process: Process = NOBODY


def details_of(info: Mapping[str, str]) -> Details:
    """Of the `info` of a verbose answer; what it does not say is empty."""
    try:
        told = _DECODER.decode(info.get("info", ""))
    except msgspec.MsgspecError:
        return Details()
    whole = told.runtime_spec or _Spec()
    linux = whole.linux or _Linux()
    path = linux.cgroups_path or ""
    return Details(
        sandbox_id=told.sandbox_id,
        tty=(told.config or _Config()).tty or (whole.process or _Main()).terminal,
        process=Process(
            pid=told.pid,
            cgroup=path if path.startswith("/") else "",  # the systemd driver's form, slice:prefix:name, is no path
            resources=_resources(linux.resources) if linux.resources is not None else None,
        ),
    )


def _resources(told: _Resources) -> LinuxResources:
    cpu, memory, pids = told.cpu or _Cpu(), told.memory or _Memory(), told.pids or _Pids()
    limit, swap = memory.limit or 0, memory.swap or 0
    return LinuxResources(
        cpu_shares=cpu.shares or 0,
        cpu_period=cpu.period or 0,
        cpu_quota=cpu.quota or 0,
        cpuset_cpus=cpu.cpus or "",
        cpuset_mems=cpu.mems or "",
        memory_limit=max(limit, 0),
        memory_swap_limit=0 if swap == limit else max(swap, 0),
        pids_limit=max(pids.limit or 0, 0),
        unified=told.unified or {},
    )
