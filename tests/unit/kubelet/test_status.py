"""What is said of a pod, state by state; and that it is said once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.meta import Condition
from kube.pods import ContainerStatus, Pod, PodStatus
from kubelet.model import Health, Seen, Stage, Verdict, Waiting
from kubelet.publish import status_patch
from kubelet.runtime import ContainerState, ContainerUser, LinuxResources, PodIdentity, SandboxRecord, SandboxState
from kubelet.runtime import ContainerStatus as RuntimeContainer
from kubelet.status import Report, Sentence, pod_status
from kubelet.status.containers import MESSAGES_OF_A_POD

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WHO = PodIdentity("p", "default", "u1")
SIDECAR = {"restartPolicy": "Always"}


def a_pod(
    *names: str,
    init: dict[str, dict[str, Any]] | None = None,
    policy: str = "Always",
    guests: tuple[str, ...] = (),
    conditions: tuple[dict[str, Any], ...] = (),
    **spec: Any,
) -> Pod:
    body = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u1", "generation": 3},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": name, "image": "i", **more} for name, more in (init or {}).items()],
            "containers": [{"name": name, "image": "i"} for name in names or ("a",)],
            "ephemeralContainers": [{"name": name, "image": "i"} for name in guests],
            **spec,
        },
        "status": {"conditions": list(conditions)},
    }
    return msgspec.convert(body, Pod)


def sandbox(*ips: str) -> SandboxRecord:
    addresses = tuple(IPv6Address(ip) if ":" in ip else IPv4Address(ip) for ip in ips or ("10.244.0.2",))
    return SandboxRecord(id="s1", attempt=0, state=SandboxState.READY, created_at=NOW, ips=addresses)


def ran(name: str, code: int | None = None, attempt: int = 0, **more: Any) -> RuntimeContainer:
    """Running, or ended with `code`."""
    ended = {"exit_code": code, "finished_at": NOW, "reason": "Completed" if code == 0 else "Error"}
    return RuntimeContainer(
        **{
            "id": f"{name}{attempt}",
            "sandbox_id": "s1",
            "pod": WHO,
            "name": name,
            "attempt": attempt,
            "state": ContainerState.RUNNING if code is None else ContainerState.EXITED,
            "created_at": NOW,
            "started_at": NOW + timedelta(microseconds=5),
            "image": "i",
            **({} if code is None else ended),
            **more,
        }
    )


def report(pod: Pod, *containers: RuntimeContainer, **more: Any) -> Report:
    return Report(
        **{
            "pod": pod,
            "seen": Seen((sandbox(),), containers),
            "previous": PodStatus(),
            "host_ips": ("192.0.2.1",),
            "now": NOW,
            **more,
        }
    )


def condition(status: PodStatus, kind: str) -> Condition:
    return next(c for c in status.conditions if c.type == kind)


def of(status: PodStatus, name: str) -> ContainerStatus:
    everyone = (*status.init_container_statuses, *status.container_statuses, *status.ephemeral_container_statuses)
    return next(one for one in everyone if one.name == name)


# --- phase ------------------------------------------------------------------------------------------------------------

UNSTARTED = {"health": {"s0": Health(startup=Verdict.UNKNOWN)}}


@pytest.mark.parametrize(
    ("said", "phase"),
    [
        (report(a_pod("a")), "Pending"),
        (report(a_pod("a", "b"), ran("a")), "Pending"),
        (report(a_pod("a", "b"), ran("a"), ran("b")), "Running"),
        (report(a_pod("a", "b"), ran("a", 1), ran("b", 0)), "Running"),
        (report(a_pod("a", "b", policy="Never"), ran("a", 0), ran("b")), "Running"),
        (report(a_pod("a", policy="Never"), ran("a", 0), over=True), "Succeeded"),
        (report(a_pod("a", "b", policy="Never"), ran("a", 0), ran("b", 3), over=True), "Failed"),
        (report(a_pod("a", policy="OnFailure"), ran("a", 3)), "Running"),
        (report(a_pod("a", policy="OnFailure"), ran("a", 0), over=True), "Succeeded"),
        # while something may still be started, no phase is terminal
        (report(a_pod("a", policy="Never"), ran("a", 0)), "Running"),
        # init containers
        (report(a_pod("a", init={"i": {}}), ran("i")), "Pending"),
        (report(a_pod("a", init={"i": {}}), ran("i", 1)), "Pending"),
        (report(a_pod("a", init={"i": {}}, policy="Never"), ran("i", 1), over=True), "Failed"),
        (report(a_pod("a", init={"i": {}}), ran("i", 0), ran("a")), "Running"),
        # sidecars: started, not ready, is what counts; and nothing once an app container has run
        (report(a_pod("a", init={"s": SIDECAR}), ran("s")), "Pending"),
        (report(a_pod("a", init={"s": SIDECAR}), ran("s"), ran("a"), **UNSTARTED), "Running"),
        (report(a_pod("a", init={"s": SIDECAR}), ran("s"), **UNSTARTED), "Pending"),
        (report(a_pod("a", init={"s": SIDECAR}), ran("s", 1), ran("a")), "Running"),
        # a sidecar's end is not the pod's work
        (report(a_pod("a", init={"s": SIDECAR}, policy="Never"), ran("s", 143), ran("a", 0), over=True), "Succeeded"),
        (report(a_pod("a", init={"s": SIDECAR}, policy="Never"), ran("s"), ran("a", 0), over=True), "Running"),
        (
            report(a_pod("a", init={"s": SIDECAR}), ran("s", 137), ran("a", 0), stage=Stage.TERMINATED, over=True),
            "Succeeded",
        ),
        # deleted before it ever ran
        (report(a_pod("a"), stage=Stage.TERMINATED, over=True), "Failed"),
        # ephemeral containers do not count
        (report(a_pod("a", guests=("g",)), ran("a")), "Running"),
        (report(a_pod("a", policy="Never", guests=("g",)), ran("a", 0), ran("g", 1), over=True), "Succeeded"),
    ],
)
def test_phase(said: Report, phase: str) -> None:
    previous = PodStatus(phase="Running") if phase in ("Succeeded", "Failed", "Running") else PodStatus()
    assert pod_status(replace(said, previous=previous)).phase == phase


def test_a_terminal_phase_stays() -> None:
    before = PodStatus(phase="Failed", reason="Evicted", message="why")
    after = pod_status(report(a_pod("a"), ran("a"), previous=before))
    assert (after.phase, after.reason, after.message) == ("Failed", "Evicted", "why")


@pytest.mark.parametrize(
    ("rules", "phase"),
    [
        ([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}], "Running"),
        ([{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [42]}}], "Failed"),
    ],
)
def test_a_container_s_own_rules_go_before_the_pod_s_policy(rules: list[dict[str, Any]], phase: str) -> None:
    pod = a_pod(policy="Never", containers=[{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules}])
    assert pod_status(report(pod, ran("a", 42), over=True, previous=PodStatus(phase="Running"))).phase == phase


# --- containers -------------------------------------------------------------------------------------------------------


def test_what_waits_for_a_restart_shows_how_it_ended() -> None:
    waiting = {"a": Waiting("CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_default(u1)")}
    status = of(pod_status(report(a_pod("a"), ran("a", 7), waiting=waiting)), "a")
    assert status.state.waiting is not None
    assert status.state.waiting.reason == "CrashLoopBackOff"
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.exit_code == 7
    assert (status.ready, status.started) == (False, False)
    assert status.container_id == "docker://a0"


def test_a_restarted_container_shows_the_end_before() -> None:
    status = of(pod_status(report(a_pod("a"), ran("a", attempt=1), ran("a", 7))), "a")
    assert status.state.running is not None
    assert status.state.running.started_at == NOW, "whole seconds"
    assert status.last_state.terminated is not None
    assert status.last_state.terminated.exit_code == 7
    assert (status.restart_count, status.ready, status.started) == (1, True, True)


def test_restart_counts_never_fall() -> None:
    before = PodStatus(container_statuses=(ContainerStatus(name="a", restart_count=4, container_id="docker://x"),))
    assert of(pod_status(report(a_pod("a"), ran("a"), previous=before)), "a").restart_count == 4


def lost(stage: Stage) -> ContainerStatus:
    running = pod_status(report(a_pod("a"), ran("a")))
    return of(pod_status(report(a_pod("a"), previous=running, stage=stage)), "a")


def test_what_ran_and_is_gone_counts_as_killed() -> None:
    living, ended = lost(Stage.SYNC), lost(Stage.TERMINATED)
    for state in (living.last_state, ended.state):
        assert state.terminated is not None
        assert (state.terminated.reason, state.terminated.exit_code) == ("ContainerStatusUnknown", 137)
    assert living.state.waiting is not None, "it will be started again"


@pytest.mark.parametrize(
    ("init", "expected"), [({}, (True, False, True)), (SIDECAR, (True, True, False))], ids=["regular", "sidecar"]
)
def test_ready_means_done_for_init_containers_and_probed_for_sidecars(
    init: dict[str, Any], expected: tuple[bool, bool, bool]
) -> None:
    pod = a_pod("a", init={"i": init})
    running, ended = of(pod_status(report(pod, ran("i"))), "i"), of(pod_status(report(pod, ran("i", 0))), "i")
    assert (running.started, running.ready, ended.ready) == expected


def test_guests_are_told_of_and_change_nothing_else() -> None:
    without = pod_status(report(a_pod("a"), ran("a")))
    with_guests = pod_status(report(a_pod("a", guests=("z", "g")), ran("g", 1), ran("a")))
    assert [s.name for s in with_guests.ephemeral_container_statuses] == ["g", "z"]
    g, z = with_guests.ephemeral_container_statuses
    assert g.state.terminated is not None
    assert z.state.waiting is not None
    assert (g.ready, g.started) == (False, None)
    assert msgspec.structs.replace(with_guests, ephemeral_container_statuses=()) == without


def test_init_containers_keep_their_order_and_the_others_go_by_name() -> None:
    status = pod_status(report(a_pod("b", "a", init={"z": {}, "y": {}})))
    assert [s.name for s in status.init_container_statuses] == ["z", "y"]
    assert [s.name for s in status.container_statuses] == ["a", "b"]
    assert {s.state.waiting.reason for s in status.container_statuses if s.state.waiting} == {"PodInitializing"}


def test_messages_of_one_pod_share_its_measure() -> None:
    said = {"a0": "ä" * 4096, "b0": "short"}
    status = pod_status(report(a_pod("a", "b", "c"), ran("a", 1), ran("b", 1), messages=said))
    long, short = of(status, "a").state.terminated, of(status, "b").state.terminated
    assert long is not None
    assert short is not None
    assert len(long.message.encode()) <= MESSAGES_OF_A_POD // 3
    assert set(long.message) == {"ä"}, "no character is cut in two"
    assert short.message == "short"


def test_the_runtime_s_words_come_before_the_container_s() -> None:
    status = pod_status(report(a_pod("a"), ran("a", 1, message="OCI runtime"), messages={"a0": "bye"}))
    ended = of(status, "a").state.terminated
    assert ended is not None
    assert ended.message == "OCI runtime: bye"


def test_a_message_that_was_told_stays() -> None:
    """The file is gone with the pod's directory, and a kubelet that starts anew would read the log in its stead."""
    first = pod_status(report(a_pod("a", policy="Never"), ran("a", 1), messages={"a0": "from the file"}))
    again = report(a_pod("a", policy="Never"), ran("a", 1), messages={"a0": "from the log"}, previous=first)
    ended = of(pod_status(again), "a").state.terminated
    assert ended is not None
    assert ended.message == "from the file"


def test_mounts_resources_and_user() -> None:
    app = {
        "name": "a",
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}, {"name": "w", "mountPath": "/w"}],
        "resources": {"limits": {"cpu": "1000m"}, "requests": {"cpu": "100m", "memory": "1024Mi"}},
    }
    pod = a_pod(containers=[app])
    status = of(pod_status(report(pod, ran("a", user=ContainerUser(uid=1000, gid=5, supplemental_groups=(9, 5))))), "a")
    assert [(m.name, m.read_only, m.recursive_read_only) for m in status.volume_mounts] == [
        ("v", True, "Disabled"),
        ("w", False, None),
    ]
    assert status.allocated_resources == {"cpu": "100m", "memory": "1Gi"}
    assert status.resources is not None
    assert status.resources.limits == {"cpu": "1"}
    assert status.user is not None
    assert status.user.linux is not None
    assert (status.user.linux.uid, status.user.linux.supplemental_groups) == (1000, (5, 9))


def test_what_is_in_force_is_what_the_runtime_says() -> None:
    asked = {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m"}}
    pod = a_pod(containers=[{"name": "a", "resources": asked}])
    old = LinuxResources(cpu_shares=256, cpu_period=100_000, cpu_quota=50_000, memory_limit=32 << 20)
    new = LinuxResources(cpu_shares=512, cpu_period=100_000, cpu_quota=100_000, memory_limit=64 << 20)
    resized = of(pod_status(report(pod, ran("a", resources=old))), "a").resources
    settled = of(pod_status(report(pod, ran("a", resources=new))), "a").resources
    assert resized is not None
    assert settled is not None
    assert (resized.limits, resized.requests) == ({"cpu": "500m", "memory": "32Mi"}, {"cpu": "250m"})
    assert (settled.limits, settled.requests) == (asked["limits"], asked["requests"])


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind", "expected"),
    [
        (report(a_pod("b", "a")), "Ready", ("False", "ContainersNotReady", "containers with unready status: [b a]")),
        (report(a_pod("a"), ran("a")), "Ready", ("True", "", "")),
        (report(a_pod("a"), seen=Seen()), "PodReadyToStartContainers", ("False", "", "")),
        (report(a_pod("a")), "PodReadyToStartContainers", ("True", "", "")),
        (
            report(a_pod("a", init={"i": {}, "s": SIDECAR})),
            "Initialized",
            ("False", "ContainersNotInitialized", "containers with incomplete status: [i s]"),
        ),
        (report(a_pod("a", init={"i": {}, "s": SIDECAR}), ran("i", 0), ran("s")), "Initialized", ("True", "", "")),
        # a sidecar that restarts does not take the initialisation back, but it is not ready
        (report(a_pod("a", init={"s": SIDECAR}), ran("s", 1), ran("a")), "Initialized", ("True", "", "")),
        (
            report(a_pod("a", init={"s": SIDECAR}), ran("s", 1), ran("a")),
            "ContainersReady",
            ("False", "ContainersNotReady", "containers with unready status: [s]"),
        ),
        (
            report(a_pod("a", policy="Never"), ran("a", 0), over=True),
            "Ready",
            ("False", "PodCompleted", ""),
        ),
        (report(a_pod("a", policy="Never"), ran("a", 0), over=True), "Initialized", ("True", "PodCompleted", "")),
        (report(a_pod("a", policy="Never"), ran("a", 1), over=True), "ContainersReady", ("False", "PodFailed", "")),
        (
            report(a_pod("a", readinessGates=[{"conditionType": "x/y"}]), ran("a")),
            "Ready",
            (
                "False",
                "ReadinessGatesNotReady",
                'corresponding condition of pod readiness gate "x/y" does not exist.',
            ),
        ),
        (
            report(
                a_pod(
                    "a",
                    readinessGates=[{"conditionType": "x/y"}],
                    conditions=({"type": "x/y", "status": "False"},),
                ),
                ran("a"),
            ),
            "Ready",
            ("False", "ReadinessGatesNotReady", 'the status of pod readiness gate "x/y" is not "True", but False'),
        ),
        (
            report(
                a_pod(
                    "a",
                    readinessGates=[{"conditionType": "x/y"}],
                    conditions=({"type": "x/y", "status": "True"},),
                ),
                ran("a"),
            ),
            "Ready",
            ("True", "", ""),
        ),
    ],
)
def test_conditions(said: Report, kind: str, expected: tuple[str, str, str]) -> None:
    found = condition(pod_status(said), kind)
    assert (found.status, found.reason, found.message) == expected
    assert found.observed_generation == 3


def test_a_time_moves_only_with_its_condition() -> None:
    first = pod_status(report(a_pod("a"), ran("a"), health={"a0": Health(readiness=Verdict.FAILURE)}))
    later = NOW + timedelta(seconds=9)
    second = pod_status(report(a_pod("a"), ran("a"), previous=first, now=later))
    assert condition(second, "Ready").last_transition_time == later
    assert condition(second, "Initialized").last_transition_time == NOW
    assert second.start_time == first.start_time == NOW


EVICTED = Sentence("Failed", "Preempting", "Preempted in order to admit critical pod", disruption="why")


def test_a_disruption_is_told_along_with_the_terminal_phase_and_never_before() -> None:
    running = pod_status(report(a_pod("a"), ran("a")))
    stopping = pod_status(
        report(a_pod("a"), ran("a"), previous=running, sentence=EVICTED, stage=Stage.TERMINATING, over=True)
    )
    assert stopping.phase == "Running"
    assert "DisruptionTarget" not in {c.type for c in stopping.conditions}
    ended = pod_status(
        report(a_pod("a"), ran("a", 143), previous=stopping, sentence=EVICTED, stage=Stage.TERMINATED, over=True)
    )
    assert (ended.phase, ended.reason) == ("Failed", "Preempting")
    assert condition(ended, "DisruptionTarget").reason == "TerminationByKubelet"


def test_a_rejected_pod_tells_of_no_containers() -> None:
    sentence = Sentence("Failed", "OutOfcpu", "Pod was rejected: no", rejected=True)
    status = pod_status(report(a_pod("a"), seen=Seen(), sentence=sentence, over=True))
    assert (status.phase, status.reason, status.container_statuses) == ("Failed", "OutOfcpu", ())


# --- addresses --------------------------------------------------------------------------------------------------------


def test_addresses_go_in_the_node_s_order_one_a_family() -> None:
    seen = Seen((sandbox("10.244.0.2", "10.244.0.3", "fd00::2"),), (ran("a"),))
    first = pod_status(report(a_pod("a"), seen=seen))
    other = pod_status(report(a_pod("a"), seen=seen, host_ips=("fd00::1", "192.0.2.1")))
    assert [ip.ip for ip in first.pod_ips] == ["10.244.0.2", "fd00::2"]
    assert [ip.ip for ip in other.pod_ips] == ["fd00::2", "10.244.0.2"]
    assert other.pod_ip == "fd00::2"
    assert [ip.ip for ip in other.host_ips] == ["fd00::1", "192.0.2.1"]


# --- it is said once --------------------------------------------------------------------------------------------------


def containers_of(name: str) -> st.SearchStrategy[tuple[RuntimeContainer, ...]]:
    newest = st.none() | st.integers(0, 2)
    return st.lists(newest, max_size=3).map(
        lambda codes: tuple(
            ran(name, code if index == 0 or code is not None else 1, attempt=len(codes) - index)
            for index, code in enumerate(codes)
        )
    )


@st.composite
def reports(draw: st.DrawFn) -> Report:
    pod = a_pod(
        "b",
        "a",
        init={"i": {}, "s": SIDECAR},
        guests=("g",),
        policy=draw(st.sampled_from(["Always", "OnFailure", "Never"])),
        conditions=({"type": "x/y", "status": "True"},),
    )
    containers = tuple(one for name in "isabg" for one in draw(containers_of(name)))
    unready = draw(st.sets(st.sampled_from([c.id for c in containers]))) if containers else set()
    stage = draw(st.sampled_from(list(Stage)))
    if stage >= Stage.TERMINATED:
        containers = tuple(c for c in containers if c.state is ContainerState.EXITED)
    waiting = draw(st.sets(st.sampled_from("iab")))
    return report(
        pod,
        seen=Seen((sandbox(),) if draw(st.booleans()) else (), containers),
        health={one: Health(readiness=Verdict.FAILURE) for one in unready},
        waiting={name: Waiting("ImagePullBackOff", "x") for name in waiting},
        stage=stage,
        over=stage is not Stage.SYNC,
        previous=PodStatus(phase=draw(st.sampled_from(["", "Pending", "Running"]))),
    )


@settings(max_examples=80, deadline=None)
@given(reports())
def test_an_unchanged_pod_is_said_once(said: Report) -> None:
    """Also by a kubelet that was restarted and knows only what the API has."""
    first = pod_status(said)
    read_back = msgspec.json.decode(msgspec.json.encode(first), type=PodStatus)
    for previous in (first, read_back):
        later = replace(said, previous=previous, now=NOW + timedelta(hours=1))
        second = pod_status(later)
        assert status_patch(read_back, second) is None, (first, second)


@settings(max_examples=40, deadline=None)
@given(reports(), st.integers(4, 500))
def test_a_new_generation_is_the_only_thing_said_of_it(said: Report, generation: int) -> None:
    first = pod_status(said)
    meta = msgspec.structs.replace(said.pod.metadata, generation=generation)
    pod = msgspec.structs.replace(said.pod, metadata=meta)
    patch = status_patch(first, pod_status(replace(said, pod=pod, previous=first, now=NOW + timedelta(hours=1))))
    assert patch is not None
    assert set(patch) == {"observedGeneration", "conditions"}
    before = {c.type: c for c in first.conditions}
    for told in patch["conditions"]:
        assert told["observedGeneration"] == generation
        assert told["status"] == before[told["type"]].status
        assert told["lastTransitionTime"] == "2026-01-01T12:00:00Z"


def test_of_a_pod_that_was_never_let_in_the_next_kubelet_says_the_same() -> None:
    sentence = Sentence("Failed", "OutOfcpu", "Node didn't have enough resource: cpu", rejected=True)
    pod = a_pod("a", init={"i": {}})
    told = pod_status(report(pod, sentence=sentence))
    assert (told.phase, told.container_statuses, told.init_container_statuses) == ("Failed", (), ())
    assert pod_status(report(pod, previous=told, now=NOW + timedelta(hours=1))) == told
