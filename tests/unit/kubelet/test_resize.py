"""Resizes of pods that run: what is promised, to whom, and in which order it is brought about."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kube.pods import Pod
from kubelet import resize, resources
from kubelet.admission.fit import Ground
from kubelet.model import Seen, Waiting
from kubelet.runtime import ContainerState, ContainerStatus, LinuxResources, PodIdentity
from linux.cgroup.tree import Limits

NODE = Ground(name="n1", allocatable={"cpu": "2", "memory": "1Gi", "pods": "2"})
SMALL = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
LARGE = {"requests": {"cpu": "1", "memory": "128Mi"}, "limits": {"cpu": "1500m", "memory": "128Mi"}}
MEMORY = 1 << 33


def a_pod(asked: dict[str, Any], *, status: list[dict[str, Any]] | None = None, **container: Any) -> Pod:
    body = {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "a", "resources": asked, **container}, {"name": "b"}]},
        "status": {"containerStatuses": status or []},
    }
    return msgspec.convert(body, Pod)


def running(pod: Pod, name: str = "a", real: LinuxResources | None = None) -> ContainerStatus:
    container = next(c for c in pod.spec.containers if c.name == name)
    return ContainerStatus(
        id=f"{name}1",
        sandbox_id="s",
        pod=PodIdentity("p", "d", "u"),
        name=name,
        attempt=0,
        state=ContainerState.RUNNING,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        resources=real or resources.container_resources(pod, container, MEMORY),
        cgroup="/g",
    )


def test_the_pod_is_what_it_was_allocated() -> None:
    small, large = a_pod(SMALL), a_pod(LARGE)
    allocation = resize.asked(small)
    assert resize.as_allocated(small, allocation) is small
    assert resize.changed(large, allocation)
    assert resize.as_allocated(large, allocation) == small
    spelt = {"requests": {"cpu": "0.1", "memory": "65536Ki"}, "limits": {"cpu": "0.2", "memory": "67108864"}}
    assert not resize.changed(a_pod(spelt), allocation), "the same in other words"


def test_a_kubelet_that_starts_anew_knows_what_was_allocated() -> None:
    told = {
        "name": "a",
        "state": {"running": {}},
        "resources": SMALL,
        "allocatedResources": SMALL["requests"],
    }
    pod = a_pod(LARGE, status=[told])
    assert resize.as_allocated(pod, resize.remembered(pod)).spec == a_pod(SMALL).spec
    waiting = told | {"state": {"waiting": {}}}
    assert not resize.changed(a_pod(LARGE, status=[waiting]), resize.remembered(a_pod(LARGE, status=[waiting])))


@pytest.mark.parametrize(
    ("asked", "others", "why"),
    [
        (LARGE, (), None),
        (
            {"requests": {"cpu": "3"}},
            (),
            Waiting("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"),
        ),
        (
            LARGE,
            (a_pod({"requests": {"cpu": "1100m"}}),),
            Waiting("Deferred", "Node didn't have enough resource: cpu, requested: 1000, used: 1100, capacity: 2000"),
        ),
        (SMALL, (a_pod({}), a_pod({})), None),  # it has its place already: how many pods there are does not matter
    ],
)
def test_what_is_promised(asked: dict[str, Any], others: tuple[Pod, ...], why: Waiting | None) -> None:
    assert resize.objection(a_pod(asked), others, NODE) == why


def test_what_runs_as_promised_is_left_alone() -> None:
    pod = a_pod(SMALL)
    assert resize.updates(pod, Seen((), (running(pod), running(pod, "b"))), MEMORY, resources.UPSTREAMS) == ()


def test_who_gets_less_goes_first() -> None:
    whole = {"requests": {"memory": "10Mi"}, "limits": {"memory": "10Mi"}}
    body = {"containers": [{"name": n, "resources": whole} for n in ("more", "less")]}
    pod = msgspec.convert({"metadata": {"name": "p"}, "spec": body}, Pod)
    more = running(pod, "more", LinuxResources(cpu_shares=2, memory_limit=5 << 20))
    less = running(pod, "less", LinuxResources(cpu_shares=2, memory_limit=20 << 20))
    todo = resize.updates(pod, Seen((), (more, less)), MEMORY, resources.UPSTREAMS)
    assert [(one.container.name, one.less_memory) for one in todo] == [("less", True), ("more", False)]


@pytest.mark.parametrize(
    ("policy", "restart"),
    [
        ([], False),
        ([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}], True),
        ([{"resourceName": "memory", "restartPolicy": "RestartContainer"}], False),
    ],
)
def test_a_container_is_restarted_only_for_what_its_policy_names(policy: list[dict[str, Any]], restart: bool) -> None:
    small = a_pod(SMALL)
    cpu_only = {"requests": SMALL["requests"] | {"cpu": "150m"}, "limits": SMALL["limits"]}
    asked = a_pod(cpu_only, resizePolicy=policy)
    (update,) = resize.updates(asked, Seen((), (running(small),)), MEMORY, resources.UPSTREAMS)
    assert update.restart is restart
    assert update.wanted.cpu_shares == 153


def test_a_pod_s_group_holds_both_sets_of_containers_meanwhile() -> None:
    one = Limits(cpu_shares=100, cpu_quota_us=1000, memory_bytes=5)
    other = Limits(cpu_shares=50, cpu_quota_us=2000, memory_bytes=None)
    assert resize.widest(one, other) == Limits(cpu_shares=100, cpu_quota_us=2000, memory_bytes=None)
