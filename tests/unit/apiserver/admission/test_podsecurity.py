"""The Pod Security Standards, in upstream's words."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.admission import podsecurity
from apiserver.admission.podsecurity.levels import policy, violations
from apiserver.errors import StatusError
from tests.unit.apiserver.admission.asked import Obj, World, admitted, attributes, chain, obj, pod

P = podsecurity.PREFIX
HARDENED: Obj = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def found(level: str, spec: Obj, version: str = "latest", **metadata: Any) -> str:
    return ", ".join(map(str, violations(policy(level, version), metadata, spec)))


def one(**context: Any) -> Obj:
    return {"containers": [{"name": "c", "securityContext": context}]}


BASELINE = [
    (one(privileged=True), 'privileged (container "c" must not set securityContext.privileged=true)'),
    ({"hostNetwork": True, "hostPID": True, "hostIPC": True, "containers": []},
     "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)"),
    ({"containers": [], "volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]},
     'hostPath volumes (volumes "a", "b")'),
    ({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]},
     'hostPort (container "c" uses hostPort 80)'),
    ({"containers": [{"name": "a", "ports": [{"hostPort": 8}]}, {"name": "b", "ports": [{"hostPort": 9}]}]},
     'hostPort (containers "a", "b" use hostPorts 8, 9)'),
    (one(capabilities={"add": ["NET_ADMIN", "CHOWN"]}),
     'non-default capabilities (container "c" must not include "NET_ADMIN" in securityContext.capabilities.add)'),
    (one(procMount="Unmasked"), 'procMount (container "c" must not set securityContext.procMount to "Unmasked")'),
    ({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}, "containers": []},
     "forbidden sysctls (kernel.msgmax)"),
    ({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}, "containers": []},
     'seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)'),
    ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}, **one(seccompProfile={"type": "Unconfined"})},
     'seccompProfile (pod and container "c" must not set securityContext.seccompProfile.type to "Unconfined")'),
    (one(windowsOptions={"hostProcess": True}),
     'hostProcess (container "c" must not set securityContext.windowsOptions.hostProcess=true)'),
    (one(appArmorProfile={"type": "Unconfined"}),
     'forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")'),
    ({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 1}}}]},
     'probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")'),
]  # fmt: skip
RESTRICTED = [
    (one(**HARDENED | {"allowPrivilegeEscalation": True}),
     'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)'),
    (one(**HARDENED | {"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}),
     'unrestricted capabilities (container "c" must not include "CHOWN" in securityContext.capabilities.add)'),
    ({**one(**HARDENED), "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "e", "emptyDir": {}}]},
     'restricted volume types (volume "v" uses restricted volume type "hostPath")'),
    (one(**HARDENED | {"runAsNonRoot": False}),
     'runAsNonRoot != true (container "c" must not set securityContext.runAsNonRoot=false)'),
    (one(**HARDENED | {"runAsUser": 0}), 'runAsUser=0 (container "c" must not set runAsUser=0)'),
    (one(**HARDENED | {"seccompProfile": {"type": "Unconfined"}}),
     'seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")'),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "words"), BASELINE)
def test_baseline(spec: Obj, words: str) -> None:
    assert found("baseline", spec) == words
    assert found("privileged", spec) == ""


@pytest.mark.parametrize(("spec", "words"), RESTRICTED)
def test_restricted(spec: Obj, words: str) -> None:
    assert found("restricted", spec) == words


def test_a_plain_pod_under_restricted() -> None:
    assert found("baseline", one()) == ""
    assert found("restricted", {"containers": [{"name": "c"}]}) == (
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type'
        ' to "RuntimeDefault" or "Localhost")'
    )
    assert found("restricted", one(**HARDENED)) == ""


def test_levels_of_older_versions_know_less() -> None:
    assert found("restricted", one(runAsUser=0), "v1.7") == found("restricted", one(), "v1.7")
    assert "runAsUser=0" not in found("restricted", one(runAsUser=0), "v1.22")
    assert "runAsUser=0" in found("restricted", one(runAsUser=0), "v1.23")
    tcp = {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_fin_timeout", "value": "1"}]}, "containers": []}
    assert found("baseline", tcp, "v1.28")
    assert not found("baseline", tcp, "v1.29")
    windows = {"os": {"name": "windows"}, **one(runAsNonRoot=True)}
    assert found("restricted", windows, "v1.24")
    assert not found("restricted", windows, "v1.25")
    assert "seccomp" in found(
        "baseline", {"containers": []}, "v1.18", annotations={"seccomp.security.alpha.kubernetes.io/pod": "x"}
    )


def namespace(name: str = "d", **labels: str) -> Obj:
    return obj("v1", "Namespace", name, metadata={"labels": {P + key: value for key, value in labels.items()}})


def test_namespaces_enforce_and_warn() -> None:
    world = World(namespace(enforce="baseline", warn="restricted"))
    admission = chain(world, "PodSecurity")
    asked = attributes("pods", pod())
    admitted(admission, asked)
    assert asked.warnings[0].startswith('would violate PodSecurity "restricted:latest": allowPrivilegeEscalation')
    with pytest.raises(StatusError) as refused:
        admitted(admission, attributes("pods", pod(hostNetwork=True)))
    assert refused.value.code == 403
    assert refused.value.message == (
        'pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)'
    )
    template = {"spec": {"template": {"spec": pod()["spec"]}}}
    asked = attributes("deployments.apps", obj("apps/v1", "Deployment", "w", "d", **template))
    admitted(admission, asked)
    assert len(asked.warnings) == 1


def test_a_pod_that_was_there_before_may_be_labelled() -> None:
    admission = chain(World(namespace(enforce="restricted")), "PodSecurity")
    labelled = pod()
    labelled["metadata"]["labels"] = {"a": "b"}
    admitted(admission, attributes("pods", labelled, pod()))
    with pytest.raises(StatusError, match="violates PodSecurity"):
        admitted(admission, attributes("pods", pod(containers=[{"name": "c", "image": "other"}]), pod()))
    debugged = pod(ephemeralContainers=[{"name": "e", "image": "i"}])
    with pytest.raises(StatusError, match="violates PodSecurity"):
        admitted(admission, attributes("pods", debugged, pod(), subresource="ephemeralcontainers"))


def test_labels_are_spelt_right_or_refused() -> None:
    admission = chain(World(), "PodSecurity")
    wrong = namespace(**{"enforce": "strict", "warn-version": "1.2"})
    with pytest.raises(StatusError) as refused:
        admitted(admission, attributes("namespaces", wrong))
    assert [cause["field"] for cause in (refused.value.details or {})["causes"]] == [
        f"metadata.labels[{P}enforce]",
        f"metadata.labels[{P}warn-version]",
    ]
    assert "must be one of privileged, baseline, restricted" in refused.value.message
    admitted(admission, attributes("namespaces", wrong, wrong))  # what is there already stays


def test_raising_the_level_tells_which_pods_would_not_come_again() -> None:
    world = World(pod("b", hostNetwork=True), pod("a", hostNetwork=True), pod("c"), pod("d", hostPID=True))
    asked = attributes("namespaces", namespace(enforce="baseline"), namespace())
    admitted(chain(world, "PodSecurity"), asked)
    assert asked.warnings == [
        'existing pods in namespace "d" violate the new PodSecurity enforce level "baseline:latest"',
        "a (and 2 other pods): host namespaces",
    ]
