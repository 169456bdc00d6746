"""One plan while it is being made."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kube.pods import Container, EphemeralContainer
from kubelet import backoff
from kubelet.backoff import Entry
from kubelet.model import Action, Held, Plan, RemoveContainer, StartContainer, StopContainer, Waiting
from kubelet.plan.restarts import backoff_key, restart_count
from kubelet.plan.situation import Situation, pod_label, reported
from kubelet.runtime import ContainerState, ContainerStatus, SandboxRecord

NOT_YET = ("", "ContainerCreating", "PodInitializing")  # waiting for nothing in particular


@dataclass(slots=True)
class Draft:
    """Lives no longer than the call that makes it."""

    at: Situation
    actions: list[Action] = field(default_factory=list)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    again_at: datetime | None = None

    def wake(self, moment: datetime) -> None:
        self.again_at = moment if self.again_at is None else min(self.again_at, moment)

    def held(self, name: str) -> Held | None:
        hold = self.at.held.get(name)
        if hold is None or hold.until <= self.at.now:
            return None
        self.wake(hold.until)
        return hold

    def plan(self, *, finished: bool = False) -> Plan:
        return Plan(tuple(self.actions), self.waiting, self.again_at, finished)

    def start(self, container: Container, latest: ContainerStatus | None, sandbox: SandboxRecord) -> None:
        """Start it, or say why not yet."""
        at = self.at
        if latest is not None and latest.state is ContainerState.UNKNOWN:
            kind = "Init container" if container in at.pod.spec.init_containers else "Container"
            message = f'{kind} is in "unknown" state, try killing it before restart'
            self.actions.append(StopContainer(latest.id, container.name, message))
            return
        if latest is not None and latest.state is ContainerState.CREATED:
            # Created and never started: by a start that failed, or by a kubelet that died between the two.
            self.actions.append(RemoveContainer(latest.id))
            return
        entry: Entry | None = None
        if latest is not None:
            entry = self._after_backoff(container, latest)
            if entry is None:
                return
        hold = self.held(container.name)
        if hold is not None:
            self.waiting[container.name] = hold.waiting
            return
        before = reported(at.previous, container.name)
        if before is not None and before.state.waiting is not None and before.state.waiting.reason not in NOT_YET:
            # Another try begins: until it has an outcome the last one's is what there is to say.
            self.waiting[container.name] = Waiting(before.state.waiting.reason, before.state.waiting.message)
        count = restart_count(container, at.seen, at.previous, at.logged.get(container.name, 0))
        target = container.target_container_name if isinstance(container, EphemeralContainer) else ""
        self.actions.append(StartContainer(container, sandbox.id, count, entry, target))

    def _after_backoff(self, container: Container, latest: ContainerStatus) -> Entry | None:
        """What to remember of starting it again now; None when it has to wait still."""
        at = self.at
        ended = latest.finished_at or latest.created_at
        known = at.backoffs.get(backoff_key(at.pod, container))
        left = backoff.remaining(known, ended, at.now, cap=at.cap)
        if known is None or left <= 0:
            return backoff.following(known, ended, at.now, cap=at.cap)
        message = (
            f"back-off {backoff.spelt(known.delay)} restarting failed "
            f"container={container.name} pod={pod_label(at.pod)}"
        )
        self.waiting[container.name] = Waiting("CrashLoopBackOff", message)
        self.wake(at.now + timedelta(seconds=left))
        return None
