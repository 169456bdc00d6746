"""The values of this room: whose cgroup it is, and what was read of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from linux.cgroup.usage import Usage


@dataclass(frozen=True, slots=True)
class Identity:
    """A container as people know it. `sandbox` is the pod's own container, which holds its network."""

    id: str
    name: str
    image: str
    pod: str = ""
    namespace: str = ""
    container: str = ""
    pod_uid: str = ""
    sandbox: bool = False
    started: float | None = None
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of a pod, counted since it was made."""

    name: str
    receive_bytes: int
    receive_packets: int
    receive_errors: int
    receive_dropped: int
    transmit_bytes: int
    transmit_packets: int
    transmit_errors: int
    transmit_dropped: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One cgroup at one moment. `labels` are cAdvisor's six; `interfaces` only on a pod's own cgroup."""

    path: str
    labels: Mapping[str, str]
    usage: Usage
    started: float | None = None
    interfaces: tuple[Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class FileSystem:
    device: str
    total: int
    used: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True, slots=True)
class Machine:
    cores: int
    physical_cores: int
    memory_bytes: int
    swap_bytes: int
    kernel: str
    system: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one scrape says. `when` is Unix time; `failed`: a group that is there could not be read."""

    when: float
    machine: Machine
    samples: tuple[Sample, ...]
    filesystems: tuple[FileSystem, ...] = ()
    devices: Mapping[str, str] = field(default_factory=dict)
    """Block device names, such as /dev/vda, by major:minor."""
    failed: bool = False
