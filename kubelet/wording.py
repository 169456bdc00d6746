"""What is said of a pod while it lives and ends: its status, the probes' aim, and the Events that repeat themselves."""

from collections.abc import Callable, Sequence
from datetime import datetime

from kube.pods import Pod
from kubelet import plan
from kubelet.life import Facts, Life
from kubelet.model import Plan, Seen, Stage
from kubelet.nodestatus.addresses import pod_addresses
from kubelet.probing.probes import Probes
from kubelet.publish import Publisher
from kubelet.runtime import ContainerState
from kubelet.status import Report, pod_status
from kubelet.told import Told


class Wording:
    """`started(seconds)` is called when a pod runs that did not."""

    def __init__(
        self,
        facts: Facts,
        probes: Probes,
        publisher: Publisher,
        told: Told,
        clock: Callable[[], datetime],
        started: Callable[[float], None],
    ) -> None:
        self._facts = facts
        self._probes = probes
        self._publisher = publisher
        self._told = told
        self._clock = clock
        self._started = started

    def track(self, life: Life, pod: Pod, seen: Seen) -> None:
        """Aim the probes at what runs now."""
        sandbox = plan.usable_sandbox(pod, seen)
        ips = pod_addresses(pod, sandbox.ips if sandbox else (), self._facts.host_ips)
        running = [c for c in seen.containers if c.state is ContainerState.RUNNING]
        leaving = life.stage is not Stage.SYNC
        self._probes.track(pod, running, ips[0] if ips else "", life.status, self._clock(), leaving=leaving)

    def word(self, life: Life, seen: Seen, todo: Plan) -> None:
        pod = life.pod
        if pod is None:
            return
        health = self._probes.health(life.uid)
        life.worded = seen, todo, health
        status = pod_status(
            Report(
                pod=pod,
                seen=seen,
                previous=life.status,
                health=health,
                waiting=todo.waiting,
                messages=life.messages.of(seen),
                stage=life.stage,
                host_ips=self._facts.host_ips,
                scheme=self._facts.scheme(),
                sentence=life.sentence,
                pending=life.pending,
                resizing=life.resizing,
                over=todo.finished or life.stage is not Stage.SYNC,
                now=self._clock(),
            )
        )
        self._tell_backoffs(life, pod, seen, todo)
        if status.phase == "Running" and not life.ran:
            life.ran = True
            if life.status.phase == "Pending":
                self._started((self._clock() - life.first_seen).total_seconds())
        life.status = status
        self._publisher.say(life.uid, status)

    def verdict(self, life: Life) -> None:
        """A probe has spoken: what was said last is said again with that. A pass over the pod may be busy for long, with a
        pull or a stop, and traffic goes by what was said. (SetContainerReadiness, SetContainerStartup)"""
        if life.worded is not None:
            seen, todo, health = life.worded
            if health != self._probes.health(life.uid):
                self.word(life, seen, todo)

    def warn(self, life: Life, pod: Pod, reason: str, messages: Sequence[str]) -> None:
        """Once each."""
        for message in messages:
            if message not in life.warned:
                life.warned.add(message)
                self._told.pod(pod, "Warning", reason, message)

    def _tell_backoffs(self, life: Life, pod: Pod, seen: Seen, todo: Plan) -> None:
        for name, waiting in todo.waiting.items():
            latest = seen.latest(name)
            mark = (name, latest.id if latest else waiting.reason)
            if waiting.reason == "CrashLoopBackOff" and mark not in life.told:
                life.told.add(mark)
                message = f"Back-off restarting failed container {name} in pod {plan.pod_label(pod)}"
                self._told.container(pod, name, "Warning", "BackOff", message)
