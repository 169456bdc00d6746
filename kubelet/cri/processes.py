"""What only a runtime's verbose answers tell of a container or sandbox: its process, cgroup and limits.

The interface has no fields for them; containerd and CRI-O both put a JSON document under `info`, with `pid` and the OCI
specification. It costs a runtime a millisecond or two and is asked for once a process, when it was started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubelet.runtime import LinuxResources


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
        told = json.loads(info.get("info", "") or "{}")
        whole = told.get("runtimeSpec") or {}
        linux = whole.get("linux") or {}
        return Details(
            sandbox_id=str(told.get("sandboxID") or ""),
            tty=bool((told.get("config") or {}).get("tty") or (whole.get("process") or {}).get("terminal")),
            process=Process(
                pid=int(told.get("pid") or 0),
                cgroup=_cgroup(str(linux.get("cgroupsPath") or "")),
                resources=_resources(linux["resources"]) if linux.get("resources") else None,
            ),
        )
    except (ValueError, TypeError, AttributeError):
        return Details()


def _cgroup(path: str) -> str:
    """Of the cgroupfs driver's form; the systemd driver's (slice:prefix:name) is not a path."""
    return path if path.startswith("/") else ""


def _resources(told: Mapping[str, Any]) -> LinuxResources:
    cpu, memory = told.get("cpu") or {}, told.get("memory") or {}
    limit = int(memory.get("limit") or 0)
    swap = int(memory.get("swap") or 0)
    return LinuxResources(
        cpu_shares=int(cpu.get("shares") or 0),
        cpu_period=int(cpu.get("period") or 0),
        cpu_quota=int(cpu.get("quota") or 0),
        cpuset_cpus=str(cpu.get("cpus") or ""),
        cpuset_mems=str(cpu.get("mems") or ""),
        memory_limit=max(limit, 0),
        memory_swap_limit=0 if swap == limit else max(swap, 0),
        pids_limit=max(int((told.get("pids") or {}).get("limit") or 0), 0),
        unified=dict(told.get("unified") or {}),
    )
