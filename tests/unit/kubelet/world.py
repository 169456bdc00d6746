"""A pod and a runtime as values, driven by lines of text: what the dialogues are spoken in.

pod restart=OnFailure init=setup containers=web,crash grace=30
pass                      plan, do, look again, until there is nothing left to do; every step is printed
step N                    the same, but die after N steps: memory is lost, the API's status and the runtime's state are not
exit NAME CODE            the newest container of that name ends
advance SECONDS
fail NAME liveness|startup        ready NAME | unready NAME
sandbox dies | wipe NAME (its remains are removed behind our back)
image NAME IMAGE          the author changes the image
refuse NAME REASON        starting it fails for 10 s
delete                    stop and forget
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import msgspec

from kube.meta import ObjectMeta
from kube.pods import Container, ContainerStatus, Pod, PodSpec, PodStatus
from kubelet import plan
from kubelet.backoff import Entry
from kubelet.model import (
    CreateSandbox,
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
from kubelet.runtime import (
    CONTAINER_HASH,
    ContainerState,
    PodIdentity,
    SandboxRecord,
    SandboxState,
)
from kubelet.runtime import ContainerStatus as RuntimeContainer
from kubelet.status import Report, pod_status

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
IDENTITY = PodIdentity("p", "default", "u1")


def make_pod(**options: str) -> Pod:
    def named(names: str) -> tuple[Container, ...]:
        return tuple(Container(name=name, image=f"{name}:1") for name in names.split(",") if name)

    return Pod(
        metadata=ObjectMeta(name="p", namespace="default", uid="u1", generation=1),
        spec=PodSpec(
            restart_policy=options.get("restart", "Always"),
            init_containers=named(options.get("init", "")),
            containers=named(options.get("containers", "a")),
            termination_grace_period_seconds=int(options.get("grace", "30")),
        ),
    )


@dataclass
class World:
    pod: Pod = field(default_factory=make_pod)
    now: datetime = EPOCH
    sandboxes: list[SandboxRecord] = field(default_factory=list)
    containers: list[RuntimeContainer] = field(default_factory=list)
    health: dict[str, Health] = field(default_factory=dict)
    status: PodStatus = field(default_factory=PodStatus)
    backoffs: dict[str, Entry] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    refusing: dict[str, str] = field(default_factory=dict)
    unready: set[str] = field(default_factory=set)
    serial: int = 0

    def seen(self) -> Seen:
        return Seen(tuple(reversed(self.sandboxes)), tuple(reversed(self.containers)))

    def plan(self) -> Plan:
        return plan.pod_actions(
            plan.Situation(
                pod=self.pod,
                seen=self.seen(),
                previous=self.status,
                health=self.health,
                backoffs=self.backoffs,
                held=self.held,
                now=self.now,
            )
        )

    def forget(self) -> None:
        """The kubelet dies: what is left is what the API and the runtime know."""
        pod = msgspec.structs.replace(self.pod, status=self.status)
        self.backoffs = plan.remembered_backoffs(pod)
        self.held = {}

    def word(self, todo: Plan, stage: Stage = Stage.SYNC) -> None:
        self.status = pod_status(
            Report(
                pod=self.pod,
                seen=self.seen(),
                previous=self.status,
                health=self.health,
                waiting=todo.waiting,
                stage=stage,
                host_ips=("10.0.0.1",),
                over=todo.finished or stage is not Stage.SYNC,
                now=self.now,
            )
        )

    # --- deeds --------------------------------------------------------------------------------------------------------

    def _id(self, word: str) -> str:
        self.serial += 1
        return f"{word}{self.serial}"

    def do(self, action: object) -> str:
        match action:
            case CreateSandbox():
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
                self._sandbox(action.id, state=SandboxState.NOT_READY, ips=())
                return f"stop sandbox {action.id}"
            case RemoveSandbox():
                assert not any(c.sandbox_id == action.id and c.state is ContainerState.RUNNING for c in self.containers)
                self.sandboxes = [s for s in self.sandboxes if s.id != action.id]
                self.containers = [c for c in self.containers if c.sandbox_id != action.id]
                return f"remove sandbox {action.id}"
            case StartContainer():
                return self._start(action)
            case StopContainer():
                self.end(action.id, 137)
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
        return f"start {name} {container.id} in {action.sandbox_id} count={action.restart_count}"

    def _sandbox(self, sandbox_id: str, **changes: object) -> None:
        self.sandboxes = [replace(s, **changes) if s.id == sandbox_id else s for s in self.sandboxes]  # type: ignore[arg-type]

    def end(self, container_id: str, code: int) -> None:
        self.containers = [
            replace(c, state=ContainerState.EXITED, exit_code=code, finished_at=self.now) if c.id == container_id else c
            for c in self.containers
        ]

    def newest(self, name: str) -> RuntimeContainer:
        return next(c for c in reversed(self.containers) if c.name == name)

    # --- a pass -------------------------------------------------------------------------------------------------------

    def passes(self, limit: int = 60) -> Iterator[str]:
        """Plan and do until there is nothing left; one line for each deed."""
        done = 0
        for _ in range(limit):
            todo = self.plan()
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
                done += 1
        raise AssertionError("the plan does not come to rest")

    def terminate(self) -> Iterator[str]:
        while actions := plan.termination_actions(self.seen(), self.pod.spec.termination_grace_period_seconds or 30):
            for action in actions:
                yield self.do(action)
        self.word(Plan(), Stage.TERMINATED)
        yield "terminated"

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
        everyone = (*status.init_container_statuses, *status.container_statuses)
        true = [c.type for c in status.conditions if c.status == "True" and c.type != "PodScheduled"]
        return f"{status.phase}: {', '.join(one(s) for s in everyone)} [{' '.join(true)}]"


def speak(world: World, line: str) -> Iterator[str]:
    """What a line of a dialogue brings about."""
    verb, *words = line.split()
    match verb, words:
        case "pod", _:
            world.pod = make_pod(**dict(word.split("=") for word in words))
        case "pass", _:
            yield from world.passes()
        case "step", [count]:
            for _, text in zip(range(int(count)), world.passes(), strict=False):
                yield text
            world.forget()
            yield "(killed)"
        case "exit", [name, code]:
            world.end(world.newest(name).id, int(code))
        case "advance", [seconds]:
            world.now += timedelta(seconds=float(seconds))
        case "fail", [name, probe]:
            verdict = {probe: Verdict.FAILURE}
            world.health[world.newest(name).id] = Health(**verdict)
        case "ready", [name]:
            world.unready.discard(name)
            world.health[world.newest(name).id] = Health()
        case "unready", [name]:
            world.unready.add(name)
        case "sandbox", ["dies"]:
            world._sandbox(world.sandboxes[-1].id, state=SandboxState.NOT_READY)
        case "wipe", [name]:
            world.containers = [c for c in world.containers if c.name != name]
        case "image", [name, image]:
            containers = tuple(
                msgspec.structs.replace(c, image=image) if c.name == name else c for c in world.pod.spec.containers
            )
            world.pod = msgspec.structs.replace(
                world.pod, spec=msgspec.structs.replace(world.pod.spec, containers=containers)
            )
        case "refuse", [name, reason]:
            world.refusing[name] = reason
        case "allow", [name]:
            world.refusing.pop(name)
        case "delete", []:
            yield from world.terminate()
            for action in plan.removal_actions(world.seen()):
                yield world.do(action)
        case _:
            raise AssertionError(f"not a line of a dialogue: {line}")
    if verb in ("pass", "step", "delete"):
        yield f"= {world.shown()}"
