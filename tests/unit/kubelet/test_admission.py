"""The node's last word on a pod that was bound to it, and whom a critical one sends away."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.core import Taint
from kube.errors import UsageError
from kube.pods import Pod
from kubelet.admission.fit import Ground, counted, objection
from kubelet.admission.preemption import victims
from kubelet.admission.sysctls import Allowlist, normalised

STATIC = {"kubernetes.io/config.source": "file"}
GROUND = Ground(
    name="n1",
    labels={"kubernetes.io/os": "linux", "disk": "ssd"},
    allocatable={"cpu": "2", "memory": "1Gi", "pods": "3", "ephemeral-storage": "10Gi"},
)


def a_pod(name: str = "p", container: dict[str, Any] | None = None, *, annotations: Any = None, **spec: Any) -> Pod:
    body = {
        "metadata": {"name": name, "uid": name, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "a", **(container or {})}], **spec},
    }
    return msgspec.convert(body, Pod)


def asking(name: str = "p", **requests: str) -> Pod:
    return a_pod(name, {"resources": {"requests": {k.replace("_", "-"): v for k, v in requests.items()}}})


def port(number: int, **more: Any) -> dict[str, Any]:
    return {"ports": [{"containerPort": 80, "hostPort": number, **more}]}


NO_EXECUTE = Taint(key="maintenance", value="yes", effect="NoExecute")
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}]
        }
    }
}


@pytest.mark.parametrize(
    ("pod", "others", "ground", "reason", "message"),
    [
        (
            asking(cpu="1500m"),
            (asking("o", cpu="600m"),),
            GROUND,
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000",
        ),
        (
            asking(memory="1Gi"),
            (asking("o", memory="1"),),
            GROUND,
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 1073741824, used: 1, capacity: 1073741824",
        ),
        (
            asking(),
            tuple(asking(n) for n in "xyz"),
            GROUND,
            "OutOfpods",
            "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3",
        ),
        (
            asking(ephemeral_storage="11Gi"),
            (),
            GROUND,
            "OutOfephemeral-storage",
            "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0, capacity: 10737418240",
        ),
        (
            asking(**{"hugepages-2Mi": "2Mi"}),
            (),
            GROUND,
            "OutOfhugepages-2Mi",
            "requested: 2097152, used: 0, capacity: 0",
        ),
        (
            a_pod(nodeSelector={"disk": "hdd"}),
            (),
            GROUND,
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (a_pod(affinity=AFFINITY), (), GROUND, "NodeAffinity", "didn't match"),
        (
            a_pod(container=port(80)),
            (a_pod("o", {"ports": [{"containerPort": 80}]}, hostNetwork=True),),
            GROUND,
            "NodePorts",
            "didn't have free ports",
        ),
        (
            a_pod(container=port(80)),
            (a_pod("o", port(80)),),
            GROUND,
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        (
            a_pod(),
            (),
            replace(GROUND, taints=(NO_EXECUTE,)),
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ),
        (a_pod(os={"name": "windows"}), (), GROUND, "PodOSNotSupported", "OS field doesn't match node OS"),
        (
            a_pod(nodeSelector={"kubernetes.io/os": "windows"}),
            (),
            GROUND,
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ),
        (
            a_pod(),
            (),
            replace(GROUND, pressure=("MemoryPressure",)),
            "Evicted",
            "The node had condition: [MemoryPressure]. ",
        ),
        (asking(cpu="1m"), (), replace(GROUND, pressure=("DiskPressure",)), "Evicted", "[DiskPressure]"),
        (
            a_pod(securityContext={"appArmorProfile": {"type": "RuntimeDefault"}}),
            (),
            replace(GROUND, apparmor=False),
            "AppArmor",
            "Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ),
        (
            a_pod(securityContext={"supplementalGroupsPolicy": "Strict"}),
            (),
            GROUND,
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
        (
            a_pod(securityContext={"sysctls": [{"name": "kernel.msgmax"}]}),
            (),
            GROUND,
            "SysctlForbidden",
            'forbidden sysctl: "kernel.msgmax" not allowlisted',
        ),
    ],
)
def test_objections_are_upstream_s(
    pod: Pod, others: tuple[Pod, ...], ground: Ground, reason: str, message: str
) -> None:
    found = objection(pod, others, ground)
    assert found is not None
    assert found.reason == reason
    assert message in found.message


@pytest.mark.parametrize(
    ("pod", "others", "ground"),
    [
        (asking(cpu="1400m", memory="1Gi"), (asking("o", cpu="600m"),), GROUND),
        (asking(**{"example.com/gpu": "4"}), (), GROUND),  # the node does not offer it: the device plugins' matter
        (a_pod(nodeSelector={"disk": "ssd"}), (), GROUND),
        (a_pod(container=port(80)), (a_pod("o", port(81)),), GROUND),
        (a_pod(container=port(80)), (a_pod("o", port(80, protocol="UDP")),), GROUND),
        (a_pod(container=port(80, hostIP="10.0.0.1")), (a_pod("o", port(80, hostIP="10.0.0.2")),), GROUND),
        (
            a_pod(tolerations=[{"operator": "Exists", "effect": "NoExecute"}]),
            (),
            replace(GROUND, taints=(NO_EXECUTE,)),
        ),
        (a_pod(annotations=STATIC), (), replace(GROUND, taints=(NO_EXECUTE,))),
        (a_pod(), (), replace(GROUND, taints=(Taint(key="x", effect="NoSchedule"),))),
        (asking(cpu="1m"), (), replace(GROUND, pressure=("MemoryPressure",))),
        (
            a_pod(tolerations=[{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]),
            (),
            replace(GROUND, pressure=("MemoryPressure",)),
        ),
        (a_pod(priority=2_000_000_000), (), replace(GROUND, pressure=("DiskPressure", "PIDPressure"))),
        (a_pod(os={"name": "linux"}, nodeSelector={"kubernetes.io/os": "linux"}), (), GROUND),
        (a_pod(securityContext={"appArmorProfile": {"type": "Unconfined"}}), (), replace(GROUND, apparmor=False)),
    ],
)
def test_what_fits_is_let_in(pod: Pod, others: tuple[Pod, ...], ground: Ground) -> None:
    assert objection(pod, others, ground) is None


def test_sidecars_init_containers_overhead_and_the_pod_s_own_word_are_counted() -> None:
    def part(cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": f"c{cpu}", "resources": {"requests": {"cpu": cpu}}, **more}

    inits = [part("100m", restartPolicy="Always"), part("900m")]
    pod = a_pod(container=part("200m"), initContainers=inits, overhead={"cpu": "50m"})
    assert counted(pod)["cpu"] == 100 + 900 + 50
    small = a_pod(container=part("950m"), initContainers=inits)
    assert counted(small)["cpu"] == 950 + 100
    own = a_pod(container=part("200m"), initContainers=inits, resources={"requests": {"cpu": "3"}})
    assert counted(own)["cpu"] == 3000


# --- sysctls ----------------------------------------------------------------------------------------------------------


def sysctl(name: str, **spec: Any) -> Pod:
    return a_pod(securityContext={"sysctls": [{"name": name, "value": "1"}]}, **spec)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (sysctl("net/ipv4/tcp_syncookies"), ""),
        (
            sysctl("net/ipv4/tcp_syncookies", hostNetwork=True),
            'forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled',
        ),
        (
            sysctl("kernel.shm_rmid_forced", hostIPC=True),
            'forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled',
        ),
        (sysctl("kernel.msgmax"), ""),
        (sysctl("kernel.msgmax", hostIPC=True), 'forbidden sysctl: "kernel.msgmax" not allowed with host ipc enabled'),
        (sysctl("net.core.somaxconn"), ""),
        (sysctl("net.ipv4.ip_forward"), 'forbidden sysctl: "net.ipv4.ip_forward" not allowlisted'),
        (sysctl("vm.swappiness"), 'forbidden sysctl: "vm.swappiness" not allowlisted'),
    ],
)
def test_sysctls(pod: Pod, words: str) -> None:
    assert Allowlist.of(["kernel.msg*", "net.core.somaxconn"]).objection(pod) == words


@pytest.mark.parametrize("pattern", ["vm.*", "*", "kernel.*", "net.*.forwarding"])
def test_what_is_not_a_pod_s_own_cannot_be_allowed(pattern: str) -> None:
    with pytest.raises(UsageError, match="allowedUnsafeSysctls"):
        Allowlist.of([pattern])


def test_separators() -> None:
    assert normalised("net/ipv4/conf/eth0.1/arp_accept") == "net.ipv4.conf.eth0/1.arp_accept"
    assert normalised("net.ipv4.conf.eth0/1.arp_accept") == "net.ipv4.conf.eth0/1.arp_accept"


# --- preemption -------------------------------------------------------------------------------------------------------


def of_class(qos: str, name: str, memory: str) -> Pod:
    amounts = {"cpu": "100m", "memory": memory}
    match qos:
        case "Guaranteed":
            return a_pod(name, {"resources": {"limits": amounts, "requests": amounts}})
        case "Burstable":
            return a_pod(name, {"resources": {"requests": amounts}})
        case _:
            return a_pod(name)


def critical(**requests: str) -> Pod:
    return a_pod("critical", {"resources": {"requests": requests}}, priority=2_000_000_000)


def sent_away(pod: Pod, *others: Pod, ground: Ground = GROUND) -> list[str]:
    found = objection(pod, others, ground)
    assert found is not None
    return sorted(victim.metadata.name for victim in victims(pod, others, found.shortages))


def test_the_cheapest_class_goes_first_and_the_nearest_in_it() -> None:
    others = (
        of_class("Guaranteed", "g", "400Mi"),
        of_class("Burstable", "b1", "300Mi"),
        of_class("Burstable", "b2", "200Mi"),
    )
    assert sent_away(critical(memory="300Mi"), *others, ground=replace(GROUND, allocatable={"memory": "1Gi"})) == ["b2"]
    assert sent_away(critical(memory="600Mi"), *others, ground=replace(GROUND, allocatable={"memory": "1Gi"})) == [
        "b1",
        "b2",
    ]
    # a Guaranteed one only because the others together would not do; then not all of them need to go
    assert sent_away(critical(memory="700Mi"), *others, ground=replace(GROUND, allocatable={"memory": "1Gi"})) == [
        "b2",
        "g",
    ]


def test_a_place_is_given_by_one_that_asks_for_nothing() -> None:
    others = (of_class("BestEffort", "e", ""), of_class("Burstable", "b", "1Mi"), of_class("Guaranteed", "g", "1Mi"))
    assert sent_away(critical(), *others) == ["e"]


def test_nobody_leaves_in_vain() -> None:
    assert sent_away(critical(memory="2Gi"), of_class("Burstable", "b", "600Mi")) == []
    # room is not all that is missing
    elsewhere = a_pod(
        "critical", {"resources": {"requests": {"cpu": "3"}}}, priority=2**31 - 1, nodeSelector={"x": "y"}
    )
    assert sent_away(elsewhere, of_class("Burstable", "b", "600Mi")) == []


def test_only_those_of_lower_standing_leave() -> None:
    above = a_pod("o", {"resources": {"requests": {"cpu": "2"}}}, priority=2_000_001_000)
    static = a_pod("s", {"resources": {"requests": {"cpu": "2"}}}, annotations=STATIC)
    assert sent_away(critical(cpu="1"), above, static) == []
    assert sent_away(asking("plain", cpu="1"), asking("o", cpu="2")) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["Guaranteed", "Burstable", "BestEffort"]), st.integers(1, 600)), max_size=8),
    st.integers(1, 1500),
)
def test_when_anybody_leaves_the_critical_pod_fits(crowd: list[tuple[str, int]], wanted: int) -> None:
    others = tuple(of_class(qos, f"o{i}", f"{memory}Mi") for i, (qos, memory) in enumerate(crowd))
    newcomer = critical(memory=f"{wanted}Mi", cpu="100m")
    found = objection(newcomer, others, GROUND)
    if found is None:
        return
    gone = victims(newcomer, others, found.shortages)
    left = tuple(other for other in others if other not in gone)
    if gone:
        assert objection(newcomer, left, GROUND) is None
    else:
        assert objection(newcomer, (), GROUND) is not None, "an empty node would do, and nobody left"
