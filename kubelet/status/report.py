"""What a status is worded from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kube.pods import Pod, PodStatus
from kubelet.model import Health, Seen, Stage, Waiting


@dataclass(frozen=True, slots=True)
class Sentence:
    """A decision about the whole pod that its containers' states do not show: deadline, eviction, refusal."""

    phase: str
    reason: str
    message: str
    rejected: bool = False  # never let in: upstream tells of no containers then
    disruption: str = (
        ""  # what DisruptionTarget says, if the node ends it for its own sake; told with the terminal phase
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`messages` are termination messages by container id, `health` is by container id, `waiting` by container name."""

    pod: Pod
    seen: Seen
    previous: PodStatus
    health: Mapping[str, Health] = field(default_factory=dict)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    stage: Stage = Stage.SYNC
    host_ips: tuple[str, ...] = ()
    scheme: str = "docker"
    sentence: Sentence | None = None
    pending: Waiting | None = None  # why a resize has to wait
    resizing: Waiting | None = None  # a resize is under way; what it fails at, if it does
    over: bool = False  # nothing will be started any more; until then no phase is terminal
    now: datetime


def second(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(microsecond=0) if moment else None
