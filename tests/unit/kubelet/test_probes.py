"""Verdicts from outcomes, and when attempts are made."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.meta import ObjectMeta
from kube.pods import Container, ContainerStatus, Pod, PodSpec, PodStatus, Probe
from kubelet.model import Health, Verdict
from kubelet.probes import Kind, Outcome, Probes, Streak, Target, first_streak, judged
from kubelet.runtime import ContainerState, PodIdentity
from kubelet.runtime import ContainerStatus as RuntimeContainer

GOOD, BAD, NEITHER = Outcome(True), Outcome(False, "no"), Outcome(None)
PROBE = Probe(success_threshold=2, failure_threshold=3)


def judge(start: Verdict, outcomes: list[Outcome]) -> list[Verdict]:
    streak, found = Streak(start), []
    for outcome in outcomes:
        streak = judged(streak, outcome, PROBE)
        found.append(streak.verdict)
    return found


def test_verdicts_change_at_thresholds() -> None:
    failure, success = Verdict.FAILURE, Verdict.SUCCESS
    assert judge(failure, [GOOD, GOOD]) == [failure, success]
    assert judge(success, [BAD, BAD, GOOD, BAD, BAD, BAD]) == [success] * 5 + [failure]
    assert judge(success, [BAD, NEITHER, BAD, NEITHER, BAD]) == [success] * 4 + [failure]


@given(st.lists(st.sampled_from([GOOD, BAD, NEITHER]), max_size=30))
def test_a_verdict_needs_its_threshold_of_equal_outcomes_in_a_row(outcomes: list[Outcome]) -> None:
    verdicts = judge(Verdict.UNKNOWN, outcomes)
    for index in range(1, len(verdicts)):
        if verdicts[index] != verdicts[index - 1]:
            counted = [o.healthy for o in outcomes[: index + 1] if o.healthy is not None]
            needed = 2 if verdicts[index] is Verdict.SUCCESS else 3
            assert counted[-needed:] == [verdicts[index] is Verdict.SUCCESS] * needed


def test_a_container_that_was_ready_before_stays_so() -> None:
    before = PodStatus(
        container_statuses=(ContainerStatus(name="a", container_id="docker://c1", ready=True, started=True),)
    )
    assert first_streak(Kind.READINESS, "c1", before, "a").verdict is Verdict.SUCCESS
    assert first_streak(Kind.STARTUP, "c1", before, "a").verdict is Verdict.SUCCESS
    assert first_streak(Kind.READINESS, "c2", before, "a").verdict is Verdict.FAILURE
    assert first_streak(Kind.LIVENESS, "c2", before, "a").verdict is Verdict.SUCCESS


def probe(**more: Any) -> Probe:
    return Probe(**{"period_seconds": 0.01, "timeout_seconds": 1, "failure_threshold": 1, **more})


class Rig:
    def __init__(self) -> None:
        self.answers: dict[Kind, Outcome] = dict.fromkeys(Kind, GOOD)
        self.attempts: list[Kind] = []
        self.changed: list[str] = []
        self.failed: list[str] = []
        self.probes = Probes(
            self._attempt, changed=self.changed.append, failed=lambda _, outcome: self.failed.append(outcome.message)
        )

    async def _attempt(self, target: Target) -> Outcome:
        self.attempts.append(target.kind)
        return self.answers[target.kind]

    def track(self, previous: PodStatus | None = None, *, container_id: str = "c1", **probes: Probe) -> None:
        spec = Container(name="a", **probes)  # type: ignore[arg-type]
        pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid="u"), spec=PodSpec(containers=(spec,)))
        now = datetime.now(UTC)
        running = RuntimeContainer(
            id=container_id,
            sandbox_id="s",
            pod=PodIdentity("p", "d", "u"),
            name="a",
            attempt=0,
            state=ContainerState.RUNNING,
            created_at=now,
            started_at=now - timedelta(seconds=1),
        )
        self.probes.track(pod, [running], "10.0.0.2", previous or PodStatus(), now)

    def health(self, container_id: str = "c1") -> Health:
        return self.probes.health("u").get(container_id, Health())


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    rig = Rig()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.probes.run())
        yield rig
        task.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)
    assert condition(), what


async def test_readiness_comes_and_goes() -> None:
    async with running() as rig:
        rig.track(readiness_probe=probe())
        assert rig.health().readiness is Verdict.FAILURE
        await until(lambda: rig.health().readiness is Verdict.SUCCESS, "ready")
        rig.answers[Kind.READINESS] = BAD
        await until(lambda: rig.health().readiness is Verdict.FAILURE, "unready")
        assert rig.changed == ["u", "u"]
        assert rig.failed[0] == "no"


async def test_startup_gates_the_others_and_stops_when_it_has_succeeded() -> None:
    async with running() as rig:
        rig.answers[Kind.STARTUP] = BAD
        rig.track(startup_probe=probe(failure_threshold=1000), liveness_probe=probe(), readiness_probe=probe())
        await until(lambda: rig.attempts.count(Kind.STARTUP) > 3, "startup attempts")
        assert set(rig.attempts) == {Kind.STARTUP}
        rig.answers[Kind.STARTUP] = GOOD
        await until(lambda: rig.health() == Health(), "all well")
        count = rig.attempts.count(Kind.STARTUP)
        await until(lambda: rig.attempts.count(Kind.READINESS) > 5, "readiness attempts")
        assert rig.attempts.count(Kind.STARTUP) == count


async def test_a_condemned_container_is_not_probed_again_and_its_successor_is() -> None:
    async with running() as rig:
        rig.answers[Kind.LIVENESS] = BAD
        rig.track(liveness_probe=probe(), readiness_probe=probe())
        await until(lambda: rig.health().liveness is Verdict.FAILURE, "condemned")
        await until(lambda: rig.attempts.count(Kind.READINESS) > 5, "readiness goes on")
        assert rig.attempts.count(Kind.LIVENESS) == 1
        rig.answers[Kind.LIVENESS] = GOOD
        rig.track(container_id="c2", liveness_probe=probe())
        await until(lambda: rig.attempts.count(Kind.LIVENESS) > 2, "the new one is probed")
        assert rig.health("c2").liveness is Verdict.SUCCESS
        assert "c1" not in rig.probes.health("u")


async def test_what_could_not_be_asked_changes_nothing() -> None:
    async with running() as rig:
        rig.answers[Kind.LIVENESS] = NEITHER
        rig.track(liveness_probe=probe())
        await until(lambda: len(rig.attempts) > 5, "attempts")
        assert rig.health().liveness is Verdict.SUCCESS
        assert rig.failed  # and is told: a probe that can never be made must not go unnoticed


async def test_the_initial_delay_counts_from_the_containers_start() -> None:
    async with running() as rig:
        rig.track(readiness_probe=probe(initial_delay_seconds=1))  # it started a second ago
        await until(lambda: rig.health().readiness is Verdict.SUCCESS, "ready")
        rig.track(container_id="c2", readiness_probe=probe(initial_delay_seconds=3600))
        before = len(rig.attempts)
        rig.track(container_id="c2", liveness_probe=probe(), readiness_probe=probe(initial_delay_seconds=3600))
        await until(lambda: rig.attempts.count(Kind.LIVENESS) > 3, "liveness goes on")
        assert rig.attempts[before:].count(Kind.READINESS) <= 1


async def test_forgotten_pods_are_left_alone() -> None:
    async with running() as rig:
        rig.track(liveness_probe=probe())
        await until(lambda: len(rig.attempts) > 1, "attempts")
        rig.probes.forget("u")
        assert rig.probes.health("u") == {}
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [200])
async def test_many_probes_share_one_heap(count: int) -> None:
    async with running() as rig:
        spec = Container(name="a", readiness_probe=probe(period_seconds=3600))
        pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid="u"), spec=PodSpec(containers=(spec,)))
        now = datetime.now(UTC)
        many = [
            RuntimeContainer(
                id=f"c{n}", sandbox_id="s", pod=PodIdentity("p", "d", "u"), name="a", attempt=n,
                state=ContainerState.RUNNING, created_at=now, started_at=now,
            )
            for n in range(count)
        ]  # fmt: skip
        rig.probes.track(pod, many, "", PodStatus(), now)
        await until(lambda: len(rig.attempts) == count, "each once")
