"""Nothing that a pod may ask for is silently ignored."""

from typing import Any

import msgspec
import pytest

from kubelet.admission.refusals import refusals, shortcomings
from kubelet.observe.wanted import Pod


def pod(container: dict[str, Any] | None = None, init: dict[str, Any] | None = None, **spec: Any) -> Pod:
    body = {"containers": [{"name": "a", **(container or {})}], **spec}
    if init is not None:
        body["initContainers"] = [{"name": "i", **init}]
    return msgspec.convert({"metadata": {"name": "p"}, "spec": body}, Pod)


GRPC = {"grpc": {"port": 80}}
RULES = {"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}


@pytest.mark.parametrize(
    ("asked", "container", "field"),
    [
        (pod({"volumeMounts": [{"mountPath": "/x", "subPath": "y"}]}), "a", "volumeMounts[0].subPath: /x"),
        (pod({"volumeMounts": [{"mountPath": "/x", "subPathExpr": "y"}]}), "a", "volumeMounts[0].subPathExpr: /x"),
        (pod({"volumeMounts": [{"recursiveReadOnly": "Enabled"}]}), "a", "recursiveReadOnly: Enabled"),
        (pod({"volumeDevices": [{"name": "x"}]}), "a", "spec.containers[0].volumeDevices"),
        (
            pod({"restartPolicy": "Never", "restartPolicyRules": [{"action": "RestartAllContainers"}]}),
            "a",
            "spec.containers[0].restartPolicyRules[0].action: RestartAllContainers",
        ),
        (pod({"securityContext": {"procMount": "Unmasked"}}), "a", "spec.containers[0].securityContext.procMount"),
        (pod({"securityContext": {"appArmorProfile": {"type": "Localhost"}}}), "a", "securityContext.appArmorProfile"),
        (pod(securityContext={"appArmorProfile": {"type": "Localhost"}}), "", "spec.securityContext.appArmorProfile"),
        (
            pod(ephemeralContainers=[{"name": "g", "securityContext": {"procMount": "Unmasked"}}]),
            "g",
            "spec.ephemeralContainers[0].securityContext.procMount",
        ),
        (pod(hostUsers=False), "", "spec.hostUsers: false"),
        (pod(resourceClaims=[{"name": "gpu"}]), "", "spec.resourceClaims"),
    ],
)
def test_what_would_make_it_another_pod_is_refused(asked: Pod, container: str, field: str) -> None:
    (refusal,) = refusals(asked)
    assert refusal.container == container
    assert field in refusal.message
    assert "planned for 0.2" in refusal.message


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (pod({"resources": {"limits": {"ephemeral-storage": "1Gi", "cpu": "1"}}}), "ephemeral-storage"),
        (pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]), "emptyDir.sizeLimit of volume v"),
        (pod({"securityContext": {"seLinuxOptions": {"level": "s0:c1"}}}), "seLinuxOptions"),
        (pod(securityContext={"seLinuxOptions": {"type": "spc_t"}}), "seLinuxOptions"),
        (pod(init={"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}), "appArmorProfile: Unconfined"),
    ],
)
def test_what_it_runs_without_is_told(asked: Pod, words: str) -> None:
    assert refusals(asked) == ()
    (message,) = shortcomings(asked)
    assert words in message


@pytest.mark.parametrize(
    "asked",
    [
        pod(),
        pod(init={"restartPolicy": "Always", "startupProbe": GRPC}),
        pod({"livenessProbe": GRPC, "lifecycle": {"stopSignal": "SIGHUP"}, **RULES}),
        pod({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}, ephemeralContainers=[{"name": "debug"}]),
        pod({"ports": [{"containerPort": 80, "hostPort": 80}]}, hostNetwork=True),
        pod({"securityContext": {"procMount": "Default", "seccompProfile": {"type": "RuntimeDefault"}}}),
        pod({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
        pod({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}, shareProcessNamespace=True, hostUsers=True),
        pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}}]),
        pod(securityContext={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}], "fsGroup": 5}),
    ],
)
def test_what_works_draws_no_word(asked: Pod) -> None:
    assert refusals(asked) == ()
    assert shortcomings(asked) == ()
