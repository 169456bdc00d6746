"""The values of this room: whose cgroup it is, and what was read of it.

What is made for each group at each scrape is a msgspec Struct: it takes a twentieth of the time of a frozen dataclass.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from linux.cgroup.usage import Usage

Kind = Literal["root", "qos", "pod", "container", "sandbox", "service"]
"""`qos`: the kubepods tree and its classes; `sandbox`: the container that holds a pod's network; `service`: a group of no
runtime's, such as a systemd slice."""


class Part(enum.Enum):
    """What a family may ask to be read. Everything else costs nothing, and is None or empty in the snapshot."""

    CPU = "usage; periods and throttling where there is a quota"
    CPU_SPLIT = "user and system time (version 2 has them for free)"
    MEMORY = "usage, working set and all of memory.stat; swap"
    MEMORY_PEAK = "highest usage, failcnt, kernel memory"
    OOM = "kills by the OOM killer"
    IO = "bytes and operations per block device"
    NETWORK = "interfaces of pods, of containers with a network of their own, of the machine"
    PIDS = "tasks that the pids controller counts"
    PROCESSES = "processes, descriptors, sockets, ulimits: a look at each process"
    PRESSURE = "pressure stall times"
    LAYERS = "what containers have written into their root filesystems"
    FILESYSTEMS = "the machine's mounted block devices"


MIXIN = frozenset({Part.CPU, Part.MEMORY, Part.IO, Part.NETWORK})
"""What the families of the Kubernetes mixin need."""
EVERYTHING = frozenset(Part)


class Identity(msgspec.Struct, frozen=True):
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
    labels: Mapping[str, str] = {}
    """The runtime's, all of them; which become `container_label_*` is the selection's business."""
    env: Mapping[str, str] = {}
    """Only the variables that --env_metadata_whitelist names."""
    aliases: tuple[str, ...] = ()
    runtime: str = ""
    """`docker`, `containerd` or `crio`."""
    health: str = ""
    """`healthy`, `unhealthy`, `starting`; empty where nobody checks."""


class Interface(msgspec.Struct, frozen=True, gc=False):
    """One network interface, counted since it was made."""

    name: str
    receive_bytes: int
    receive_packets: int
    receive_errors: int
    receive_dropped: int
    transmit_bytes: int
    transmit_packets: int
    transmit_errors: int
    transmit_dropped: int


class Processes(msgspec.Struct, frozen=True, gc=False):
    """A container's processes; `sockets` and `descriptors` are counted in at most so many processes and descriptors, and None
    where that bound was met: half a count would be a lie."""

    processes: int
    descriptors: int | None
    sockets: int | None
    ulimits: Mapping[str, int]
    """Soft limits of the first process by cAdvisor's names (`max_open_files`); -1 is none."""


class Counted(msgspec.Struct, frozen=True, gc=False):
    """A directory tree's bytes and inodes, as du counts them, at the Unix time `when`; not `whole` when the walk gave up at its
    bound."""

    bytes: int
    inodes: int
    when: float
    whole: bool = True
    device: str = ""
    """The block device it is on, `major:minor`."""


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One cgroup at one moment.

    `labels` are cAdvisor's six, the same object (`is`) from scrape to scrape for as long as the group has them, and so is
    `usage.limits` while limits do not change: what is rendered from them can be kept.

    `interfaces` are the machine's on the root, a lone container's on itself; a pod's are on its sandbox and (the same object)
    on the pod's own group: count one of them. Whoever is on the host's network has none: they are the machine's."""

    path: str
    labels: Mapping[str, str]
    usage: Usage
    started: float | None = None
    interfaces: tuple[Interface, ...] = ()
    kind: Kind = "container"
    identity: Identity | None = None
    """None where no runtime knows the group; a pod's own group has its sandbox's."""
    processes: Processes | None = None
    layer: Counted | None = None
    """What was written into the root filesystem; None until it has been counted."""


class Disk(msgspec.Struct, frozen=True, gc=False):
    """One block device since boot, from /proc/diskstats (Documentation/admin-guide/iostats.rst)."""

    reads: int
    reads_merged: int
    sectors_read: int
    read_ms: int
    writes: int
    writes_merged: int
    sectors_written: int
    write_ms: int
    in_progress: int
    io_ms: int
    weighted_ms: int


@dataclass(frozen=True, slots=True)
class FileSystem:
    device: str
    total: int
    used: int
    inodes: int
    inodes_free: int
    mountpoint: str = ""
    kind: str = ""
    available: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    cores: int
    physical_cores: int
    memory_bytes: int
    swap_bytes: int
    kernel: str
    system: str
    sockets: int = 1
    frequency_khz: int = 0
    machine_id: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    booted: float = 0.0
    """Unix time."""
    nodes: Mapping[int, int] = field(default_factory=dict)
    """Bytes of memory by NUMA node."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one scrape says. `when` is Unix time; `failed`: a group that is there could not be read, or a runtime does
    not answer. `parts` is what was read, at least what was asked for."""

    when: float
    machine: Machine
    samples: tuple[Sample, ...]
    filesystems: tuple[FileSystem, ...] = ()
    devices: Mapping[str, str] = field(default_factory=dict)
    """Block device names, such as /dev/vda, by major:minor."""
    disks: Mapping[str, Disk] = field(default_factory=dict)
    """By name, such as /dev/vda."""
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The machine's, over 1, 5 and 15 minutes."""
    failed: bool = False
    parts: frozenset[Part] = EVERYTHING
    runtime_version: str = ""
    """Docker's, where it is Docker that knows the containers (cadvisor_version_info)."""
