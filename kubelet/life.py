"""What is kept in mind of one pod. None of it is on disk: a kubelet that starts anew finds pods in the API and containers in the
runtime, and enters each life where it stands."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kube.pods import Pod, PodStatus, ResourceRequirements
from kubelet import backoff, plan, resize
from kubelet.containerlogs.messages import Messages
from kubelet.departure import Departure
from kubelet.model import Health, Held, Plan, Seen, Stage, Waiting
from kubelet.status import Sentence

DEFAULT_GRACE = 30
ORPHAN_GRACE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What all pods of the node share."""

    host_ips: tuple[str, ...]
    scheme: Callable[[], str]  # of containerID: the runtime's name
    sync_frequency: float
    crash_cap: float


@dataclass(slots=True)
class Life:
    uid: str
    pod: Pod | None
    status: PodStatus = field(default_factory=PodStatus)
    stage: Stage = Stage.SYNC
    sentence: Sentence | None = None
    admitted: bool = False  # it has its place on the node
    awaits_room: bool = False  # others were sent away for it
    over: bool = False  # its work is done: nothing runs that is to be kept, nothing is to be started
    evicted: bool = False  # by this node: nothing of it is kept for anybody to look at
    forgotten: bool = False  # its source had lost it: should it be named again, that is another life
    # resizing: see `resize`
    wanted: Pod | None = None  # as its source has it; `pod` is what of it was allocated
    allocation: dict[str, ResourceRequirements] = field(default_factory=dict)  # by container name
    pending: Waiting | None = None  # why what is wanted is not allocated
    resizing: Waiting | None = None  # allocated, and not yet in force everywhere
    before: Pod | None = None  # the pod whose resources are in force until then
    hinted: bool = False  # the runtime has more to tell than is known: look; all else goes by what is known
    # starting
    prepared: tuple[object, ...] | None = None  # what of the pod its volumes and cgroup were made from
    prepared_at: float = 0.0
    backoffs: dict[str, backoff.Entry] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    doomed: set[str] = field(default_factory=set)  # ids of containers that were stopped to be started again
    mount_failures: int = 0
    failures: int = 0  # passes in a row that could not be ended
    departure: Departure = field(default_factory=Departure)
    # ending
    grace: int | None = None  # seconds; it only shrinks
    deadline: float | None = None  # of the ending, on the clock of `asyncio`; it only comes nearer
    farewells: set[str] = field(default_factory=set)  # ids of containers whose preStop hook was run
    killed: set[str] = field(default_factory=set)  # ids of those of whose end was told
    stirred: asyncio.Event = field(default_factory=asyncio.Event)  # something happened while it ends
    # telling
    worded: tuple[Seen, Plan, Mapping[str, Health]] | None = None  # what the status was worded from last
    messages: Messages = field(default_factory=Messages)
    told: set[tuple[str, str]] = field(default_factory=set)  # back-offs that were told, by container id
    warned: set[str] = field(default_factory=set)  # of what the pod does not get
    first_seen: datetime = field(default_factory=lambda: datetime.now(UTC))
    ran: bool = False

    def take(self, pod: Pod) -> None:
        """What its source has of it now. What it was allocated stands until a resize is decided."""
        if not self.allocation:
            self.allocation = resize.remembered(pod)
        self.wanted, self.pod = pod, resize.as_allocated(pod, self.allocation)

    def shrink(self, wish: int | None, now: float) -> None:
        """Whoever is ending the pod wants it within `wish` seconds of `now` (None: no wish)."""
        grace = plan.shrunk(self.grace, wish)
        if grace is None or grace == self.grace:
            return
        self.grace = grace
        deadline = now + grace
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
        self.stirred.set()

    def takes_hint(self) -> bool:
        """Whether this pass has to look. Otherwise it goes by what is known: a regular look at everything tells what else
        there is."""
        hinted, self.hinted = self.hinted, False
        return hinted

    def wish(self) -> int:
        """The grace that the pod itself asks for."""
        spec = self.pod.spec.termination_grace_period_seconds if self.pod else ORPHAN_GRACE
        return DEFAULT_GRACE if spec is None else spec

    def hold(self, name: str, reason: str, message: str, until: datetime) -> None:
        self.held[name] = Held(Waiting(reason, message), until)
