"""The values of this room: what was seen of a pod, what may be done to it, and where in its life it stands.

A pod's life goes SYNC -> TERMINATING -> TERMINATED -> FINISHED and never back. In SYNC its containers are started and
restarted; in TERMINATING they are stopped, with a grace that only shrinks; in TERMINATED nothing runs any more and its
volumes, cgroup and status are settled; FINISHED pods are forgotten once the API has forgotten them.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kube.pods import Container
from kubelet.backoff import Entry
from kubelet.runtime import ContainerState, ContainerStatus, SandboxRecord, SandboxState


class Stage(enum.IntEnum):
    SYNC = 0
    TERMINATING = 1
    TERMINATED = 2
    FINISHED = 3


class Verdict(enum.StrEnum):
    """What a probe has concluded, after thresholds."""

    SUCCESS = "Success"
    FAILURE = "Failure"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """The verdicts on one running container. Without a probe: alive, started, ready."""

    startup: Verdict = Verdict.SUCCESS
    liveness: Verdict = Verdict.SUCCESS
    readiness: Verdict = Verdict.SUCCESS


@dataclass(frozen=True, slots=True)
class Seen:
    """All the runtime has of one pod, dead things too, newest first."""

    sandboxes: tuple[SandboxRecord, ...] = ()
    containers: tuple[ContainerStatus, ...] = ()

    def of(self, name: str) -> tuple[ContainerStatus, ...]:
        return tuple(status for status in self.containers if status.name == name)

    def latest(self, name: str) -> ContainerStatus | None:
        return next((status for status in self.containers if status.name == name), None)

    @property
    def live(self) -> tuple[ContainerStatus, ...]:
        """Containers that may be running: unknown ones count."""
        return tuple(c for c in self.containers if c.state in (ContainerState.RUNNING, ContainerState.UNKNOWN))

    @property
    def ready_sandboxes(self) -> tuple[SandboxRecord, ...]:
        return tuple(sandbox for sandbox in self.sandboxes if sandbox.state is SandboxState.READY)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running: upstream's reason word and message."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A start that failed: not tried again before `until`, and told to the world meanwhile."""

    waiting: Waiting
    until: datetime


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class StopSandbox:
    id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    id: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    container: Container
    sandbox_id: str
    restart_count: int
    backoff: Entry | None = None  # to remember once the start was tried
    target: str = ""  # of an ephemeral container: whose process namespace it joins


@dataclass(frozen=True, slots=True)
class Farewell:
    """Run the preStop hook."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    """`grace` (seconds) None means the pod's own; `again`: it is stopped in order to be started anew."""

    id: str
    name: str
    message: str
    grace: float | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    id: str


Action = CreateSandbox | StopSandbox | RemoveSandbox | StartContainer | Farewell | StopContainer | RemoveContainer


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now (in order; then look again), what to say of containers that wait, and when time alone changes the
    plan."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    again_at: datetime | None = None
    finished: bool = False  # nothing runs, nothing shall: the pod's work is over
