"""What a user may write, however odd, is refused in words or done: it never ends the kubelet.

A whole pod is taken, and some of its leaves are replaced by odd numbers and texts, as an API that checks little would let them
pass. All that is computed from a pod then has to come to a value, or to one of the failures that its callers know.
"""

import base64
import contextlib
import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.core import ConfigMap, Secret, Service, ServicePort, ServiceSpec
from kube.errors import Invalid
from kube.meta import ObjectMeta
from kube.pods import Pod
from kubelet import containers, hosts, plan, resize, resources, sandboxes, tokens, volumes
from kubelet.admission import fit, preemption, refusals
from kubelet.containers import Furniture
from kubelet.cri import spec as cri
from kubelet.docker import spec as docker
from kubelet.environment import Missing, Surroundings, environment
from kubelet.images.credentials import missing_secrets, pull_secrets
from kubelet.leaving import _moment
from kubelet.life import Life
from kubelet.means import Place
from kubelet.model import Health, Seen, Stage, StartContainer, Verdict, Waiting
from kubelet.observe.static import static_pod
from kubelet.observe.wanted import Pod as Wanted
from kubelet.plan.ending import Ending, termination
from kubelet.probing.probes import Outcome, Streak, judged
from kubelet.runtime import (
    ContainerState,
    ContainerStatus,
    Image,
    PodIdentity,
    RuntimeRefused,
    SandboxRecord,
    SandboxState,
)
from kubelet.status import Report, pod_status

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KNOWN = (Invalid, Missing, volumes.MountFailed, RuntimeRefused)  # what callers tell the pod's author of, or try again

_PROBE = {
    "httpGet": {"path": "/x", "port": 80, "host": "h", "scheme": "HTTP", "httpHeaders": [{"name": "a", "value": "b"}]},
    "initialDelaySeconds": 1,
    "timeoutSeconds": 1,
    "periodSeconds": 1,
    "successThreshold": 1,
    "failureThreshold": 1,
    "terminationGracePeriodSeconds": 1,
}
_CONTAINER = {
    "name": "a",
    "image": "web:1",
    "command": ["$(A)"],
    "args": ["$(B)"],
    "workingDir": "/",
    "restartPolicy": "Always",
    "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}],
    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
    "ports": [{"name": "p", "containerPort": 80, "hostPort": 80, "hostIP": "1.2.3.4", "protocol": "TCP"}],
    "envFrom": [{"prefix": "x", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s", "optional": True}}],
    "env": [
        {"name": "A", "value": "$(B)"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
        {
            "name": "C",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m", "containerName": "a"}},
        },
        {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
        {"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ],
    "resources": {
        "limits": {"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "2Mi", "x.y/z": "1"},
        "requests": {"cpu": "100m", "memory": "1Mi"},
    },
    "volumeMounts": [{"name": "cm", "mountPath": "/v", "readOnly": True, "mountPropagation": "None"}],
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}, "stopSignal": "SIGTERM"},
    "terminationMessagePath": "/t",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "Always",
    "securityContext": {
        "capabilities": {"add": ["CAP_X"], "drop": ["ALL"]},
        "runAsUser": 1,
        "runAsGroup": 1,
        "seccompProfile": {"type": "Localhost", "localhostProfile": "p"},
        "appArmorProfile": {"type": "RuntimeDefault"},
    },
}
_STATUS = {
    "name": "a",
    "ready": True,
    "started": True,
    "restartCount": 1,
    "image": "web:1",
    "imageID": "i",
    "containerID": "docker://c1",
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}},
    "lastState": {
        "terminated": {"exitCode": 1, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:00Z"}
    },
    "allocatedResources": {"cpu": "100m"},
    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}},
}
WHOLE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u1",
        "labels": {"a": "1"},
        "annotations": {"kubernetes.io/config.source": "api", "b": "2"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 1,
    },
    "spec": {
        "nodeName": "n",
        "hostname": "h",
        "subdomain": "s",
        "setHostnameAsFQDN": True,
        "priority": 1,
        "priorityClassName": "c",
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "1"}]},
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x"]}],
        "terminationGracePeriodSeconds": 1,
        "activeDeadlineSeconds": 1,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "os": {"name": "linux"},
        "overhead": {"cpu": "1m"},
        "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1"}},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "Gt", "values": ["1"]}]},
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]},
                    ]
                }
            }
        },
        "readinessGates": [{"conditionType": "x"}],
        "imagePullSecrets": [{"name": "s"}],
        "securityContext": {
            "fsGroup": 1,
            "runAsUser": 1,
            "runAsGroup": 1,
            "supplementalGroups": [1],
            "supplementalGroupsPolicy": "Merge",
            "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}],
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [{**_CONTAINER, "name": "i"}],
        "containers": [_CONTAINER],
        "volumes": [
            {
                "name": "cm",
                "configMap": {"name": "cm", "defaultMode": 420, "items": [{"key": "k", "path": "p", "mode": 1}]},
            },
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
            {"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "h", "hostPath": {"path": "/x", "type": ""}},
            {
                "name": "d",
                "downwardAPI": {
                    "items": [
                        {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
                        {"path": "r", "resourceFieldRef": {"resource": "requests.memory", "containerName": "a"}},
                    ]
                },
            },
            {
                "name": "j",
                "projected": {
                    "sources": [
                        {"serviceAccountToken": {"path": "t", "audience": "x", "expirationSeconds": 600}},
                        {"secret": {"name": "s", "items": [{"key": "k", "path": "p", "mode": 1}]}},
                    ]
                },
            },
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "x", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [_STATUS],
        "initContainerStatuses": [{**_STATUS, "name": "i"}],
    },
}

REQUIRED = ("spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")

ODD: tuple[Any, ...] = (
    0, -1, 1 << 31, 1 << 63, -(1 << 63), 1 << 70, "", "\0", "\u00b2", "[", "a\0b", "../..", "x" * 300, "1e100", "-1", "8Ei",
    "nan", None, [], {}, {"": ""}, {"\0": "\0"}, [""], "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z",
)  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from leaves(inner, (*path, key))


def changed(*changes: tuple[tuple[Any, ...], Any]) -> dict[str, Any]:
    document = copy.deepcopy(WHOLE)
    for path, odd in changes:
        place: Any = document
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change took it away
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = odd
    return document


@contextlib.contextmanager
def told() -> Iterator[None]:
    with contextlib.suppress(*KNOWN):
        yield


PLACE = Place(
    root="/r",
    logs="/l",
    cgroup_root="/",
    cluster_dns=("10.96.0.10",),
    cluster_domain="cluster.local",
    resolv_conf="/nowhere",
    host_ips=("10.0.0.1",),
    memory=1 << 30,
    allocatable={"cpu": "1", "memory": "1Gi", "pods": "110"},
)
AROUND = Surroundings(
    services=(
        Service(
            metadata=ObjectMeta(name="w", namespace="ns"),
            spec=ServiceSpec(cluster_ip="1.2.3.4", ports=(ServicePort(port=1),)),
        ),
    ),
    config_maps={"cm": ConfigMap(data={"k": "v"}, binary_data={"b": "AA=="})},
    secrets={"s": Secret(data={"k": base64.b64encode(b"x").decode(), "odd": "abc"})},
    allocatable=PLACE.allocatable,
)
GROUND = fit.Ground(
    name="n",
    labels={"kubernetes.io/os": "linux", "n": "5"},
    allocatable=PLACE.allocatable,
    pressure=("MemoryPressure",),
)
OTHER = Pod(metadata=ObjectMeta(name="o", namespace="ns", uid="u2"))


def everything(pod: Pod) -> None:
    """What the kubelet computes of a pod, in the order of a life."""
    life = Life("u1", pod, status=pod.status)
    life.take(pod)
    life.shrink(life.wish(), 0.0)
    life.shrink(pod.metadata.deletion_grace_period_seconds, 0.0)
    _moment(life.deadline or 0.0)
    pod = life.pod or pod
    volumes.references(pod)
    fit.was_let_in(pod)
    resources.burstable_shares([pod, OTHER])
    if (rejection := fit.objection(pod, [OTHER], GROUND)) is not None:
        preemption.victims(pod, [OTHER], rejection.shortages)
    fit.objection(OTHER, [pod], GROUND)
    resize.objection(pod, [OTHER], GROUND)
    resize.changed(pod, life.allocation)
    refusals.refusals(pod)
    refusals.shortcomings(pod)
    resources.pod_limits(pod)
    for wish in tokens.wishes(pod):
        tokens.request_for(pod, wish)
    for volume in pod.spec.volumes:
        with told():
            if volumes.plugin_of(volume) not in ("empty-dir", "host-path"):
                volumes.payload(pod, volume, AROUND)
    resolver = hosts.resolver(pod, hosts.Resolver(), PLACE.cluster_dns, PLACE.cluster_domain)
    hosts.resolver_file(resolver)
    hosts.hosts_file(pod, ("10.0.0.1",), PLACE.cluster_domain)
    sandbox = sandboxes.sandbox_config(pod, 0, PLACE, resolver)
    msgspec.json.encode(docker.sandbox_body(sandbox, docker.Owner("n"), "pause", 0))
    with told(), cri.speaking():
        cri.sandbox(sandbox, cri.Owner("n")).SerializeToString()
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        pull_secrets(pod, AROUND.secrets, container.image)
        start(pod, container, sandbox)
        for probe in (container.liveness_probe, container.readiness_probe, container.startup_probe):
            if probe is not None:
                judged(Streak(Verdict.UNKNOWN), Outcome(True), probe)
    missing_secrets(pod, AROUND.secrets)
    for seen in sights(pod):
        plans_and_words(pod, seen)


def start(pod: Pod, container: Any, sandbox: Any) -> None:
    with told():
        variables = environment(pod, container, AROUND)
        paths = {volume.name: "/v" for volume in pod.spec.volumes}
        furniture = Furniture(volumes=paths, hosts="/h", resolver="/r", hostname="/n", termination="/t", memory=1 << 30)
        action = StartContainer(container, "s1", 0)
        config = containers.container_config(pod, action, Image(id="i", user="\u00b2"), variables, furniture)
        msgspec.json.encode(docker.container_body(config, sandbox, "s1", docker.Owner("n"), docker.LogLimits(), "1"))
        with cri.speaking():
            cri.container(config, sandbox, cri.Owner("n")).SerializeToString()


def sights(pod: Pod) -> Iterator[Seen]:
    yield Seen()
    identity = PodIdentity("p", "ns", "u1")
    box = SandboxRecord(id="s1", attempt=0, state=SandboxState.READY, created_at=NOW, ips=(IPv4Address("10.0.0.1"),))
    yield Seen((box,))
    for state in ContainerState:
        one = ContainerStatus(
            id="c1", sandbox_id="s1", pod=identity, name="a", attempt=0, state=state, created_at=NOW, exit_code=1
        )
        yield Seen((box,), (one,))


def plans_and_words(pod: Pod, seen: Seen) -> None:
    sick = {"c1": Health(liveness=Verdict.FAILURE)}
    situation = plan.Situation(
        pod=pod, seen=seen, previous=pod.status, health=sick, now=NOW, backoffs=plan.remembered_backoffs(pod)
    )
    todo = plan.pod_actions(situation)
    termination(Ending(seen=seen, deadline=NOW + timedelta(seconds=5), now=NOW, situation=situation))
    waiting = {**todo.waiting, "i": Waiting("x", "y")}
    report = Report(pod=pod, seen=seen, previous=pod.status, waiting=waiting, stage=Stage.TERMINATED, now=NOW)
    msgspec.json.encode(pod_status(report))
    resize.updates(pod, seen, 1 << 30, resources.UPSTREAMS)


PLACES = list(leaves(WHOLE))


def _read(document: dict[str, Any]) -> Wanted | None:
    try:
        return msgspec.convert(document, Wanted)
    except msgspec.ValidationError:
        return None  # the API says no to it, and so does whoever watches


def test_the_whole_pod_is_one() -> None:
    pod = _read(WHOLE)
    assert pod is not None
    everything(pod)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(ODD)), min_size=1, max_size=3))
def test_no_pod_ends_the_kubelet(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = changed(*changes)
    pod = _read(document)
    if pod is not None:
        everything(pod)
    with contextlib.suppress(Invalid):
        static_pod(document, "n", "/m/x.yaml", "file", NOW)


@pytest.mark.parametrize(
    ("path", "odd"),
    [
        (("spec", "containers", 0, "resources", "limits", "cpu"), "much"),
        (("spec", "overhead", "cpu"), ""),
        (("spec", "containers", 0, "resources", "limits", "memory"), "8Ei"),
        (("spec", "terminationGracePeriodSeconds"), 1 << 62),
        (("spec", "containers"), []),
        (("spec", "containers", 0, "securityContext", "seccompProfile", "localhostProfile"), "a\0b"),
        ((*REQUIRED, "nodeSelectorTerms", 0, "matchExpressions", 0, "values"), []),
        (
            (*REQUIRED, "nodeSelectorTerms", 0, "matchExpressions", 0),
            {"key": "n", "operator": "Gt", "values": ["9" * 5000]},
        ),
        (
            ("status", "containerStatuses", 0, "state", "waiting", "message"),
            f"back-off {'9' * 5000}s restarting failed",
        ),
    ],
)
def test_what_once_did(path: tuple[Any, ...], odd: Any) -> None:
    pod = _read(changed((path, odd)))
    assert pod is not None
    everything(pod)


def test_what_is_no_quantity_is_refused_and_counts_as_nothing() -> None:
    pod = _read(changed((("spec", "containers", 0, "resources", "limits", "cpu"), "much")))
    assert pod is not None
    assert "spec.containers[0].resources.limits.cpu: 'much' is no quantity" in refusals.words(
        refusals.refusals(pod), "a"
    )
    assert resources.amounts_of(pod.spec.containers[0].resources.limits)["cpu"] == 0
