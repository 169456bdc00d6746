"""A pod, a runtime and a clock as values: what the dialogues are spoken in (`dialogue.py` has the words).

The deeds are done at once, but for those that take their time when a pod ends: hooks and stops, which are simulated to the
second. `cut` lets the kubelet die after so many deeds: its memory is lost, the API's status and the runtime's state are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import msgspec

from kube.pods import ContainerStatus, Pod, PodStatus
from kubelet import plan
from kubelet.backoff import Entry
from kubelet.model import (
    CreateSandbox,
    Farewell,
    Health,
    Held,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    Seen,
    Stage,
    StartContainer,
    StopContainer,
    StopSandbox,
    Verdict,
    Waiting,
)
from kubelet.runtime import CONTAINER_HASH, ContainerState, PodIdentity, SandboxRecord, SandboxState
from kubelet.runtime import ContainerStatus as RuntimeContainer
from kubelet.status import Report, pod_status

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
IDENTITY = PodIdentity("p", "default", "u1")
DEFAULT_GRACE = 30.0


class KilledError(Exception):
    """The kubelet was killed here."""


@dataclass
class World:
    pod: Pod = field(default_factory=Pod)
    now: datetime = EPOCH
    stage: Stage = Stage.SYNC
    deleted: float | None = None  # the grace that was asked for
    orphan: bool = False  # the API knows nothing of it
    sandboxes: list[SandboxRecord] = field(default_factory=list)
    containers: list[RuntimeContainer] = field(default_factory=list)
    health: dict[str, Health] = field(default_factory=dict)
    status: PodStatus = field(default_factory=PodStatus)
    # what the kubelet keeps in mind
    backoffs: dict[str, Entry] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    doomed: set[str] = field(default_factory=set)
    farewells: set[str] = field(default_factory=set)
    # how the containers behave, by name
    refusing: dict[str, str] = field(default_factory=dict)
    unready: set[str] = field(default_factory=set)
    slow: dict[str, float] = field(default_factory=dict)  # seconds between SIGTERM and the end
    hooks: dict[str, float] = field(default_factory=dict)  # seconds a preStop hook takes
    codes: dict[str, int] = field(default_factory=dict)  # exit code on SIGTERM
    sigkilled: set[str] = field(default_factory=set)  # ids of those that will not end before their grace does
    later: list[tuple[datetime, str, str]] = field(default_factory=list)  # moment, what, of whom
    lenient: bool = False  # who is spoken of and was never there is passed over
    deadline_passed: float = 0.0  # seconds by which the end came after the deadline
    serial: int = 0
    deeds: int = 0
    cut: int | None = None

    def seen(self) -> Seen:
        return Seen(tuple(reversed(self.sandboxes)), tuple(reversed(self.containers)))

    def situation(self) -> plan.Situation:
        return plan.Situation(
            pod=self.pod,
            seen=self.seen(),
            previous=self.status,
            health=self.health,
            backoffs=self.backoffs,
            held=self.held,
            doomed=self.doomed,
            now=self.now,
        )

    def forget(self) -> None:
        """The kubelet dies: what is left is what the API and the runtime know."""
        pod = msgspec.structs.replace(self.pod, status=self.status)
        self.backoffs = plan.remembered_backoffs(pod)
        self.held, self.doomed, self.farewells = {}, set(), set()
        ended = self.deleted is not None or self.status.phase in ("Succeeded", "Failed")
        self.stage = Stage.TERMINATING if ended else Stage.SYNC

    def word(self, todo: Plan) -> None:
        self.status = pod_status(
            Report(
                pod=self.pod,
                seen=self.seen(),
                previous=self.status,
                health=self.health,
                waiting=todo.waiting,
                stage=self.stage,
                host_ips=("10.0.0.1",),
                over=todo.finished or self.stage is not Stage.SYNC,
                now=self.now,
            )
        )

    # --- deeds --------------------------------------------------------------------------------------------------------

    def _id(self, word: str) -> str:
        self.serial += 1
        return f"{word}{self.serial}"

    def _done(self) -> None:
        self.deeds += 1
        if self.deeds == self.cut:
            raise KilledError

    def do(self, action: object) -> str:
        match action:
            case CreateSandbox() if "network" in self.refusing:
                dead = SandboxRecord(
                    id=self._id("s"), attempt=action.attempt, state=SandboxState.NOT_READY, created_at=self.now
                )
                self.sandboxes.append(dead)
                self.held[""] = Held(Waiting("CreatePodSandboxError", "no"), self.now + timedelta(seconds=1))
                return f"create sandbox {dead.id} attempt={action.attempt}: no network"
            case CreateSandbox():
                assert not any(s.attempt == action.attempt for s in self.sandboxes), "attempt reused"
                sandbox = SandboxRecord(
                    id=self._id("s"),
                    attempt=action.attempt,
                    state=SandboxState.READY,
                    created_at=self.now,
                    ips=(IPv4Address("10.244.0.2"),),
                )
                self.sandboxes.append(sandbox)
                return f"create sandbox {sandbox.id} attempt={action.attempt}"
            case StopSandbox():
                assert not any(c.sandbox_id == action.id and c.state is ContainerState.RUNNING for c in self.containers)
                self.change_sandbox(action.id, state=SandboxState.NOT_READY, ips=())
                return f"stop sandbox {action.id}"
            case RemoveSandbox():
                assert not any(c.sandbox_id == action.id and c.state is ContainerState.RUNNING for c in self.containers)
                self.sandboxes = [s for s in self.sandboxes if s.id != action.id]
                self.containers = [c for c in self.containers if c.sandbox_id != action.id]
                return f"remove sandbox {action.id}"
            case StartContainer():
                return self._start(action)
            case StopContainer():
                if action.again:
                    self.doomed.add(action.id)
                self.end(action.id, self.codes.get(action.name, 137))
                return f"stop {action.name} {action.id}: {action.message}"
            case RemoveContainer():
                self.containers = [c for c in self.containers if c.id != action.id]
                return f"remove container {action.id}"
            case _:
                raise AssertionError(action)

    def _start(self, action: StartContainer) -> str:
        name = action.container.name
        sandbox = next(s for s in self.sandboxes if s.id == action.sandbox_id)
        assert sandbox.state is SandboxState.READY, "start in a dead sandbox"
        assert not any(c.name == name and c.state is ContainerState.RUNNING for c in self.containers), "runs twice"
        assert not any(c.name == name and c.attempt == action.restart_count for c in self.containers), "attempt reused"
        if action.backoff is not None:
            self.backoffs[plan.backoff_key(self.pod, action.container)] = action.backoff
        if name in self.refusing:
            waiting = Waiting(self.refusing[name], "no")
            self.held[name] = Held(waiting, self.now + timedelta(seconds=10))
            return f"start {name}: {waiting.reason}"
        container = RuntimeContainer(
            id=self._id("c"),
            sandbox_id=action.sandbox_id,
            pod=IDENTITY,
            name=name,
            attempt=action.restart_count,
            state=ContainerState.RUNNING,
            created_at=self.now,
            started_at=self.now,
            image=action.container.image,
            image_id="sha256:1",
            annotations={CONTAINER_HASH: plan.container_hash(action.container)},
        )
        self.containers.append(container)
        if name in self.unready:
            self.health[container.id] = Health(readiness=Verdict.FAILURE)
        if action.container.startup_probe is not None:
            self.health[container.id] = Health(startup=Verdict.UNKNOWN, readiness=Verdict.FAILURE)
        joins = f" joins {action.target}" if action.target else ""
        return f"start {name} {container.id} in {action.sandbox_id} count={action.restart_count}{joins}"

    def change_sandbox(self, sandbox_id: str, **changes: object) -> None:
        self.sandboxes = [replace(s, **changes) if s.id == sandbox_id else s for s in self.sandboxes]  # type: ignore[arg-type]

    def end(self, container_id: str, code: int) -> None:
        """Nothing happens to one that does not run."""
        self.containers = [
            replace(c, state=ContainerState.EXITED, exit_code=code, finished_at=self.now)
            if c.id == container_id and c.state in (ContainerState.RUNNING, ContainerState.UNKNOWN)
            else c
            for c in self.containers
        ]

    def newest(self, name: str) -> RuntimeContainer:
        return next(c for c in reversed(self.containers) if c.name == name)

    # --- a pass -------------------------------------------------------------------------------------------------------

    def passes(self, limit: int = 60) -> Iterator[str]:
        """Plan and do until there is nothing left; one line for each deed."""
        if self.stage is not Stage.SYNC:
            yield from self.terminate()
            return
        for _ in range(limit):
            todo = plan.pod_actions(self.situation())
            self.word(todo)
            if todo.finished:
                yield from self.terminate()
                return
            if not todo.actions:
                if todo.again_at is not None:
                    yield f"again in {(todo.again_at - self.now).total_seconds():g}s"
                return
            for action in todo.actions:
                yield self.do(action)
                self._done()
        raise AssertionError("the plan does not come to rest")

    def terminate(self) -> Iterator[str]:
        """Until nothing can be running, to the second: `+5s` is five seconds after the beginning."""
        if self.stage is Stage.TERMINATED:
            return
        self.stage = Stage.TERMINATING
        grace = self.pod.spec.termination_grace_period_seconds
        begun = self.now
        wish = self.deleted if self.deleted is not None else DEFAULT_GRACE if grace is None else float(grace)
        deadline = begun + timedelta(seconds=max(1.0, wish))
        busy: dict[tuple[str, str], datetime] = {}
        self.sigkilled.clear()
        for _ in range(100):
            todo = plan.termination(
                plan.Ending(
                    seen=self.seen(),
                    deadline=deadline,
                    now=self.now,
                    situation=None if self.orphan else self.situation(),
                    farewells=self.farewells,
                )
            )
            if todo.finished:
                self.stage = Stage.TERMINATED
                self.deadline_passed = (self.now - deadline).total_seconds()
                self.word(Plan())
                yield "terminated"
                return
            self.word(todo)
            moved = False
            for action in todo.actions:
                if (text := self._set_about(action, busy, deadline)) is not None:
                    yield f"+{(self.now - begun).total_seconds():g}s {text}"
                    self._done()
                    moved = moved or not isinstance(action, Farewell | StopContainer)
            if not moved:
                deadline = self._wait(busy, deadline, todo)
        raise AssertionError("the end does not come")

    def _set_about(self, action: object, busy: dict[tuple[str, str], datetime], deadline: datetime) -> str | None:
        """Begin what takes time, do what does not; None when it is under way."""
        match action:
            case Farewell():
                if ("hook", action.id) in busy:
                    return None
                done = self.now + timedelta(seconds=self.hooks.get(action.name, 0))
                busy["hook", action.id] = min(done, max(self.now, deadline))
                return f"preStop {action.name} {action.id}"
            case StopContainer():
                if ("stop", action.id) in busy:
                    return None
                assert action.grace is not None
                self._assert_its_turn(action.name, deadline)
                takes = self.slow.get(action.name, 0)
                if takes > action.grace:
                    self.sigkilled.add(action.id)
                busy["stop", action.id] = self.now + timedelta(seconds=min(takes, action.grace))
                return f"stop {action.name} {action.id} within {action.grace:g}s"
            case _:
                return self.do(action)

    def _assert_its_turn(self, name: str, deadline: datetime) -> None:
        sidecars = [c.name for c in self.pod.spec.init_containers if c.restart_policy == "Always"]
        if name not in sidecars or self.now >= deadline or self.orphan:
            return
        before = {*sidecars[sidecars.index(name) + 1 :], *(c.name for c in self.pod.spec.containers)}
        assert not before & {c.name for c in self.seen().live}, f"{name} is stopped before {before}"

    def _wait(self, busy: dict[tuple[str, str], datetime], deadline: datetime, todo: Plan) -> datetime:
        """Let time pass until something happens; the deadline, which may have come nearer."""
        moments = [*busy.values(), *(when for when, _, _ in self.later), *([todo.again_at] if todo.again_at else [])]
        assert moments, "nothing is under way and nothing is to be done"
        self.now = max(self.now, min(moments))
        for (kind, identity), when in list(busy.items()):
            if when > self.now:
                continue
            del busy[kind, identity]
            if kind == "hook":
                self.farewells.add(identity)
            else:
                name = next(c.name for c in self.containers if c.id == identity)
                self.end(identity, 137 if identity in self.sigkilled else self.codes.get(name, 143))
        for when, what, whom in [event for event in self.later if event[0] <= self.now]:
            self.later.remove((when, what, whom))
            nearer = self.now + timedelta(seconds=float(whom)) if what == "grace" else deadline
            if nearer < deadline:
                self.deleted, deadline = float(whom), nearer
                for key in [key for key in busy if key[0] == "stop"]:
                    del busy[key]  # a stop that is under way is begun again with what is left
                for key in busy:
                    busy[key] = min(busy[key], deadline)
            elif what != "grace" and (not self.lenient or self.seen().of(whom)):
                self.end(self.newest(whom).id, int(what))
        return deadline

    def shown(self) -> str:
        def one(status: ContainerStatus) -> str:
            state = status.state
            if state.running:
                word = "running"
            elif state.terminated:
                word = f"terminated({state.terminated.exit_code})"
            else:
                word = state.waiting.reason if state.waiting else "?"
            last = f" last={status.last_state.terminated.exit_code}" if status.last_state.terminated else ""
            return f"{status.name}={word}{' ready' if status.ready else ''} #{status.restart_count}{last}"

        status = self.status
        everyone = (
            *status.init_container_statuses,
            *status.container_statuses,
            *status.ephemeral_container_statuses,
        )
        true = [c.type for c in status.conditions if c.status == "True" and c.type != "PodScheduled"]
        return f"{status.phase}: {', '.join(one(s) for s in everyone)} [{' '.join(true)}]"
