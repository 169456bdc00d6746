"""Verdicts from outcomes, and when attempts are made: by a clock that goes by itself."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from kube.meta import ObjectMeta
from kube.pods import Container, ContainerStatus, Pod, PodSpec, PodStatus, Probe
from kubelet.model import Health, Verdict
from kubelet.probing.probes import Kind, Outcome, Probes, Streak, Target, first_streak, judged
from kubelet.runtime import ContainerState, PodIdentity
from kubelet.runtime import ContainerStatus as RuntimeContainer
from tests.unit.kubelet.virtual import run

GOOD, BAD, NEITHER = Outcome(True), Outcome(False, "no"), Outcome(None, "away")
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
SUCCESS, FAILURE = Verdict.SUCCESS, Verdict.FAILURE


def test_verdicts_change_at_thresholds() -> None:
    probe = Probe(success_threshold=2, failure_threshold=3)

    def judge(start: Verdict, outcomes: list[Outcome]) -> list[Verdict]:
        streak, found = Streak(start), []
        for outcome in outcomes:
            streak = judged(streak, outcome, probe)
            found.append(streak.verdict)
        return found

    assert judge(FAILURE, [GOOD, GOOD]) == [FAILURE, SUCCESS]
    assert judge(SUCCESS, [BAD, BAD, GOOD, BAD, BAD, BAD]) == [SUCCESS] * 5 + [FAILURE]
    assert judge(SUCCESS, [BAD, NEITHER, BAD, NEITHER, BAD]) == [SUCCESS] * 4 + [FAILURE]


def test_a_container_that_was_ready_before_stays_so() -> None:
    before = PodStatus(
        container_statuses=(ContainerStatus(name="a", container_id="docker://c1", ready=True, started=True),)
    )
    assert first_streak(Kind.READINESS, "c1", before, "a").verdict is SUCCESS
    assert first_streak(Kind.STARTUP, "c1", before, "a").verdict is SUCCESS
    assert first_streak(Kind.READINESS, "c2", before, "a").verdict is FAILURE
    assert first_streak(Kind.LIVENESS, "c2", before, "a").verdict is SUCCESS


def probe(**more: Any) -> Probe:
    return Probe(**{"period_seconds": 10, "failure_threshold": 1, **more})


@dataclass(frozen=True)
class Attempt:
    at: float
    kind: Kind
    container_id: str


class Rig:
    """Each kind's attempts answer what `answers` has for it: one outcome for all, or a list that ends with silence."""

    def __init__(self, *, since: datetime = BEGINNING) -> None:
        self.answers: dict[Kind, Outcome | list[Outcome]] = dict.fromkeys(Kind, GOOD)
        self.attempts: list[Attempt] = []
        self.verdicts: dict[Kind, list[Verdict]] = {kind: [] for kind in Kind}
        self.changed: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.hanging: dict[str, float] = {}  # seconds an attempt takes, by container id
        self.begun = asyncio.get_running_loop().time()
        self.probes = Probes(
            self._attempt,
            changed=self.changed.append,
            tell=lambda _, reason, message: self.told.append((reason, message)),
            since=since,
        )

    @property
    def seconds(self) -> float:
        return asyncio.get_running_loop().time() - self.begun

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.seconds)

    async def _attempt(self, target: Target) -> Outcome:
        self.attempts.append(Attempt(round(self.seconds, 2), target.kind, target.container_id))
        await asyncio.sleep(self.hanging.get(target.container_id, 0))
        answer = self.answers[target.kind]
        if isinstance(answer, Outcome):
            return answer
        if not answer:
            await asyncio.Event().wait()
        return answer.pop(0)

    def times(self, kind: Kind, container_id: str = "c1") -> list[float]:
        return [a.at for a in self.attempts if a.kind is kind and a.container_id == container_id]

    def track(
        self,
        previous: PodStatus | None = None,
        *,
        uid: str = "u",
        container_id: str = "c1",
        age: float = 0,
        leaving: bool = False,
        sidecar: bool = False,
        **probes: Probe,
    ) -> None:
        spec = Container(name="a", restart_policy="Always" if sidecar else None, **probes)  # type: ignore[arg-type]
        inside = PodSpec(init_containers=(spec,)) if sidecar else PodSpec(containers=(spec,))
        pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid=uid), spec=inside)
        started = self.now() - timedelta(seconds=age)
        running = RuntimeContainer(
            id=container_id,
            sandbox_id="s",
            pod=PodIdentity("p", "d", uid),
            name="a",
            attempt=0,
            state=ContainerState.RUNNING,
            created_at=started,
            started_at=started,
        )
        self.probes.track(pod, [running], "10.0.0.2", previous or PodStatus(), self.now(), leaving=leaving)

    def health(self, container_id: str = "c1", uid: str = "u") -> Health:
        return self.probes.health(uid).get(container_id, Health())


@asynccontextmanager
async def rigged(**more: Any) -> AsyncIterator[Rig]:
    rig = Rig(**more)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.probes.run())
        yield rig
        task.cancel()


def timed(test: Callable[[Rig], Any]) -> Callable[[], None]:
    """The test in a virtual day of its own."""

    async def main() -> None:
        async with rigged() as rig:
            await test(rig)

    def wrapped() -> None:
        run(main())

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


@timed
async def test_readiness_comes_and_goes(rig: Rig) -> None:
    rig.track(readiness_probe=probe(failure_threshold=3))
    assert rig.health().readiness is FAILURE
    await asyncio.sleep(5)
    assert rig.health().readiness is SUCCESS
    rig.answers[Kind.READINESS] = BAD
    await asyncio.sleep(24)
    assert rig.health().readiness is SUCCESS
    await asyncio.sleep(10)
    assert rig.health().readiness is FAILURE
    assert rig.times(Kind.READINESS) == [0, 10, 20, 30]
    assert rig.changed == ["u", "u"]
    assert rig.told == [("Unhealthy", "Readiness probe failed: no")] * 3


@timed
async def test_startup_gates_the_others_and_stops_when_it_has_succeeded(rig: Rig) -> None:
    rig.answers[Kind.STARTUP] = BAD
    rig.track(startup_probe=probe(failure_threshold=30), liveness_probe=probe(), readiness_probe=probe())
    await asyncio.sleep(45)
    assert {a.kind for a in rig.attempts} == {Kind.STARTUP}
    assert rig.health().startup is Verdict.UNKNOWN
    rig.answers[Kind.STARTUP] = GOOD
    await asyncio.sleep(20)
    assert rig.times(Kind.STARTUP) == [0, 10, 20, 30, 40, 50]
    assert rig.times(Kind.READINESS) == rig.times(Kind.LIVENESS) == [50, 60]
    assert rig.health() == Health()


@timed
async def test_the_others_keep_their_own_initial_delay_after_startup(rig: Rig) -> None:
    rig.track(startup_probe=probe(), liveness_probe=probe(initial_delay_seconds=25), readiness_probe=probe())
    await asyncio.sleep(29)
    assert rig.times(Kind.LIVENESS) == [25]
    assert rig.times(Kind.READINESS) == [0, 10, 20]


@timed
async def test_a_condemned_container_is_not_probed_again_and_its_successor_is(rig: Rig) -> None:
    rig.answers[Kind.LIVENESS] = BAD
    rig.track(liveness_probe=probe(), readiness_probe=probe())
    await asyncio.sleep(35)
    assert rig.health().liveness is FAILURE
    assert rig.times(Kind.LIVENESS) == [0]
    assert rig.times(Kind.READINESS) == [0, 10, 20, 30]
    rig.answers[Kind.LIVENESS] = GOOD
    rig.track(container_id="c2", liveness_probe=probe())
    await asyncio.sleep(15)
    assert rig.times(Kind.LIVENESS, "c2") == [35, 45]
    assert rig.health("c2").liveness is SUCCESS
    assert "c1" not in rig.probes.health("u")


@timed
async def test_what_could_not_be_asked_changes_nothing_and_is_told(rig: Rig) -> None:
    rig.answers[Kind.LIVENESS] = NEITHER
    rig.track(liveness_probe=probe())
    await asyncio.sleep(15)
    assert rig.health().liveness is SUCCESS
    assert rig.told == [("Unhealthy", "Liveness probe errored and resulted in unknown state: away")] * 2


@timed
async def test_an_attempt_that_meets_a_bug_says_nothing_of_the_container_and_ends_nobody(rig: Rig) -> None:
    async def buggy(target: Target) -> Outcome:
        if target.container_id == "c1":
            raise ValueError("nobody foresaw this")
        return GOOD

    broken: list[int] = []
    rig.probes._attempt, rig.probes._broken = buggy, lambda: broken.append(1)
    rig.track(liveness_probe=probe())
    rig.track(uid="other", container_id="c2", readiness_probe=probe())
    await asyncio.sleep(15)
    assert rig.health().liveness is SUCCESS
    assert rig.health("c2", "other").readiness is SUCCESS
    unknown = "Liveness probe errored and resulted in unknown state: ValueError: nobody foresaw this"
    assert rig.told == [("Unhealthy", unknown)] * 2
    assert broken == [1, 1]


@timed
async def test_a_warning_is_a_success_that_is_told(rig: Rig) -> None:
    rig.answers[Kind.READINESS] = Outcome(True, "elsewhere", warning=True)
    rig.track(readiness_probe=probe())
    await asyncio.sleep(1)
    assert rig.health().readiness is SUCCESS
    assert rig.told == [("ProbeWarning", "Readiness probe warning: elsewhere")]


@timed
async def test_the_initial_delay_counts_from_the_containers_start(rig: Rig) -> None:
    await asyncio.sleep(100)
    rig.track(age=4, readiness_probe=probe(initial_delay_seconds=30))
    await asyncio.sleep(25)
    assert rig.times(Kind.READINESS) == []
    await asyncio.sleep(2)
    assert rig.times(Kind.READINESS) == [126]


@timed
async def test_of_a_pod_that_is_to_go_only_readiness_is_probed(rig: Rig) -> None:
    every: dict[str, Any] = {
        "liveness_probe": probe(),
        "readiness_probe": probe(),
        "startup_probe": probe(failure_threshold=9),
    }
    rig.answers |= {Kind.STARTUP: BAD, Kind.LIVENESS: BAD}
    rig.track(**every)
    await asyncio.sleep(5)
    rig.track(leaving=True, **every)
    await asyncio.sleep(22)
    assert rig.times(Kind.STARTUP) == [0]
    assert rig.times(Kind.LIVENESS) == []
    assert rig.times(Kind.READINESS) == [5, 15, 25]  # the startup probe it waited for is no more
    assert rig.health() == Health()


@timed
async def test_forgotten_pods_are_left_alone(rig: Rig) -> None:
    rig.track(liveness_probe=probe())
    await asyncio.sleep(5)
    rig.probes.forget("u")
    await asyncio.sleep(50)
    assert len(rig.attempts) == 1
    assert rig.probes.health("u") == {}


@timed
async def test_sidecars_are_probed(rig: Rig) -> None:
    rig.track(sidecar=True, startup_probe=probe(), readiness_probe=probe())
    await asyncio.sleep(1)
    assert rig.health() == Health()
    assert rig.times(Kind.STARTUP) == rig.times(Kind.READINESS) == [0]


def test_after_a_restart_no_verdict_flips_and_the_first_attempts_are_spread() -> None:
    async def main() -> None:
        before = PodStatus(
            container_statuses=(ContainerStatus(name="a", container_id="docker://c1", ready=True, started=True),)
        )
        firsts = []
        for _ in range(20):
            async with rigged(since=BEGINNING) as rig:
                rig.track(before, age=3600, readiness_probe=probe(), startup_probe=probe())
                assert rig.health() == Health()
                await asyncio.sleep(10)
                assert len(rig.times(Kind.READINESS)) == 1
                assert not rig.times(Kind.STARTUP)
                assert rig.changed == []
                firsts += rig.times(Kind.READINESS)
        assert max(firsts) - min(firsts) > 3

    run(main())


@timed
async def test_three_hundred_that_hang_delay_none_that_answers(rig: Rig) -> None:
    for n in range(300):
        rig.hanging[f"h{n}"] = 3600
        rig.track(uid=f"h{n}", container_id=f"h{n}", readiness_probe=probe())
    rig.track(readiness_probe=probe(period_seconds=1))
    await asyncio.sleep(30)
    times = rig.times(Kind.READINESS)
    assert times[0] < 3  # nobody knew yet who hangs
    rig.track(container_id="c2", readiness_probe=probe(period_seconds=1))
    await asyncio.sleep(3700)
    assert rig.times(Kind.READINESS, "c2")[:3] == [30, 31, 32]
    later = rig.times(Kind.READINESS, "c2")
    assert max(b - a for a, b in itertools.pairwise(later)) < 1.1  # also when they try again


@timed
async def test_a_period_that_is_none_is_a_second(rig: Rig) -> None:
    rig.track(readiness_probe=probe(period_seconds=-1))
    await asyncio.sleep(2.5)
    assert rig.times(Kind.READINESS) == [0, 1, 2]


@timed
async def test_only_so_many_attempts_are_made_at_once(rig: Rig) -> None:
    for n in range(200):
        rig.hanging[f"c{n}"] = 0.4
        rig.track(uid=f"u{n}", container_id=f"c{n}", readiness_probe=probe())
    await asyncio.sleep(0.1)
    assert len(rig.attempts) == 64
    await asyncio.sleep(2)
    assert len(rig.attempts) == 200


@timed
async def test_what_was_counted(rig: Rig) -> None:
    rig.answers[Kind.READINESS] = [GOOD, BAD, NEITHER]
    rig.hanging["c1"] = 0.2
    rig.track(readiness_probe=probe(failure_threshold=3))
    await asyncio.sleep(25)
    registry = CollectorRegistry()
    registry.register(rig.probes.tallies)
    text = generate_latest(registry).decode()
    who = 'container="a",namespace="d",pod="p"'
    for result in ("successful", "failed", "unknown"):
        labels = f'{who},pod_uid="u",probe_type="Readiness",result="{result}"'
        ordered = ",".join(sorted(labels.split(",")))
        lines = [line for line in text.splitlines() if line.startswith("prober_probe_total")]
        found = [",".join(sorted(line.partition("{")[2].partition("}")[0].split(","))) for line in lines]
        assert ordered in found
    assert 'le="0.25"' in text
    rig.probes.forget("u")
    assert "prober_probe_total{" not in generate_latest(registry).decode()


# --- any sequence of outcomes -----------------------------------------------------------------------------------------


def upstreams(kind: Kind, outcomes: list[Outcome], wanted: Probe) -> tuple[Verdict, int]:
    """The worker of pkg/kubelet/prober/worker.go on these outcomes: its verdict, and how many of them it took."""
    verdict = {Kind.STARTUP: Verdict.UNKNOWN, Kind.LIVENESS: SUCCESS, Kind.READINESS: FAILURE}[kind]
    last, in_a_row = None, 0
    for taken, outcome in enumerate(outcomes):
        if outcome.healthy is None:
            continue
        last, in_a_row = outcome.healthy, in_a_row + 1 if last == outcome.healthy else 1
        if in_a_row < (wanted.success_threshold if outcome.healthy else wanted.failure_threshold):
            continue
        verdict = SUCCESS if outcome.healthy else FAILURE
        if kind is Kind.STARTUP or (kind is Kind.LIVENESS and not outcome.healthy):
            return verdict, taken + 1  # it is started, or on hold
    return verdict, len(outcomes)


sequences = st.lists(st.sampled_from([GOOD, BAD, NEITHER]), max_size=12)


@given(sequences, sequences, sequences, st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_any_outcomes_give_upstreams_verdicts(
    startup: list[Outcome], liveness: list[Outcome], readiness: list[Outcome], success: int, failure: int, gated: bool
) -> None:
    given_outcomes = {Kind.LIVENESS: liveness, Kind.READINESS: readiness} | ({Kind.STARTUP: startup} if gated else {})
    thresholds = {
        kind: probe(failure_threshold=failure, success_threshold=success if kind is Kind.READINESS else 1)
        for kind in given_outcomes
    }

    async def main() -> None:
        async with rigged() as rig:
            left = {kind: list(outcomes) for kind, outcomes in given_outcomes.items()}
            rig.answers = dict(left)
            named: dict[str, Any] = {f"{kind.lower()}_probe": wanted for kind, wanted in thresholds.items()}
            rig.track(**named)
            await asyncio.sleep(500)
            found = rig.health()
            verdicts = {
                Kind.STARTUP: found.startup, Kind.LIVENESS: found.liveness, Kind.READINESS: found.readiness,
            }  # fmt: skip
            started = not gated or upstreams(Kind.STARTUP, startup, thresholds[Kind.STARTUP])[0] is SUCCESS
            for kind, outcomes in given_outcomes.items():
                open_to_it = outcomes if kind is Kind.STARTUP or started else []
                verdict, taken = upstreams(kind, open_to_it, thresholds[kind])
                assert (verdicts[kind], len(outcomes) - len(left[kind])) == (verdict, taken)

    run(main())
