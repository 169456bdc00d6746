"""A lab on containerd whose control plane is static pods: two nodes, each with a containerd and mounts of its own.

One lab for the module. What its pods do is asked of kubectl, containerd's `ctr` and the nodes' kernels; what `down` leaves is
asked of the kernel, also where other tests' labs are up.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.model import DEMO_IMAGE
from tests.cluster.conftest import Lab, curl, ready, until, wherry
from tests.leave_no_trace import Snapshot, settled
from tests.requirements import requires

NAME = f"{os.environ.get('WHERRY_TEST_LAB') or 'test'}-cri"
KEEP = bool(os.environ.get("WHERRY_KEEP_LAB"))
CONTROL_PLANE = ("kube-apiserver-node1", "kube-controller-manager-node1", "kube-scheduler-node1")


@pytest.fixture(scope="module")
def cri() -> Iterator[Lab]:
    requires("root", "netns", "iptables", "containerd", "ctr", "runc", "kubectl")
    before = Snapshot.take()
    words = ("--nodes", "2", "--runtime", "containerd", "--static-control-plane")
    done = wherry("lab", "--name", NAME, "up", *words, check=False)
    made = Lab(NAME, done.stdout)
    try:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{_logs(made.state)}"
        yield made
    finally:
        if not KEEP:
            _forget(made.state)
            wherry("lab", "--name", NAME, "down")
    if not KEEP:
        assert _left(NAME, made.state) == []
        left = settled(before)
        assert not left, f"the lab left traces: {left}"


def _forget(state: str) -> None:
    """Kill the supervisor and lose its file: `down` has to find everything by itself."""
    found = subprocess.run(["pgrep", "-f", f"lab.supervisor {state}$"], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    Path(state, "topology.json").unlink(missing_ok=True)


def _logs(state: str) -> str:
    script = f"tail -n 15 {state}/log/*.log {state}/*/log/*.log"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout


def _left(name: str, state: str) -> list[str]:
    """What the kernel knows of a lab: namespaces, mounts, cgroups, and processes in its cgroups or with its paths."""
    found = [str(path) for path in Path("/run/netns").glob(f"wherry-{name}*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if state in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/wherry/{name}")]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.name != str(os.getpid()):
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                if (
                    not command
                ):  # a kernel thread, or dead and not yet buried: not every machine's first process does that
                    continue
                if state in command or f"/wherry/{name}/" in (entry / "cgroup").read_text():
                    found.append(f"{entry.name} {command}")
        except OSError:
            continue
    return found + ([state] if os.path.exists(state) else [])


def _running(group: str) -> str:
    """The processes of a cgroup and of those below, which may vanish meanwhile."""
    found = ""
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            found += Path(folder, "cgroup.procs").read_text()
    return found


def pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": DEMO_IMAGE, **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


@pytest.fixture
def run(cri: Lab) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """`run(pod)`: created, and seen Ready; deleted afterwards."""
    names: list[str] = []

    def make(wanted: dict[str, Any]) -> dict[str, Any]:
        name = wanted["metadata"]["name"]
        names.append(name)
        cri.kubectl("create", "-f", "-", stdin=json.dumps(wanted))
        found: dict[str, Any] = until(lambda: cri.get("pod", name), ready)
        return found

    yield make
    if names:
        cri.kubectl("delete", "pod", "--ignore-not-found", *names)


def address(cri: Lab, node: str) -> str:
    return str(next(n["address"] for n in cri.topology["nodes"] if n["name"] == node))


def lives(cri: Lab) -> dict[str, tuple[str, int]]:
    """Container id and restarts of every pod that is Ready."""
    pods = cri.get("pods", "-A")["items"]
    statuses = {p["metadata"]["name"]: p["status"]["containerStatuses"][0] for p in pods if ready(p)}
    return {name: (status["containerID"], status["restartCount"]) for name, status in statuses.items()}


def signalled(cri: Lab, daemon: str, number: signal.Signals) -> int:
    pid = int(cri.daemons()[daemon]["pid"])
    os.kill(pid, number)
    return pid


def reborn(cri: Lab, daemon: str, before: int) -> None:
    until(lambda: cri.daemons()[daemon], lambda d: d["state"] == "ready" and d["pid"] not in (before, None))


def test_pods_are_containerds_and_the_demo_answers(cri: Lab) -> None:
    versions = {node["status"]["nodeInfo"]["containerRuntimeVersion"] for node in cri.get("nodes")["items"]}
    assert all(version.startswith("containerd://") for version in versions)
    pods = until(lambda: [p for p in cri.pods("app=hello") if ready(p)], lambda found: len(found) == 3)
    assert {p["spec"]["nodeName"] for p in pods} == {"node1", "node2"}
    for one in pods:
        container = one["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        assert container in cri.shell(one["spec"]["nodeName"], "ctr", "-n", "k8s.io", "tasks", "ls")
    assert "Hello from pod hello-" in curl(cri.demo_url)
    service = cri.get("service", "hello")["spec"]["clusterIP"]
    asked = cri.kubectl("exec", pods[0]["metadata"]["name"], "--", "wget", "-q", "-O", "-", f"http://{service}/")
    assert "Hello from pod hello-" in asked
    assert "Hello" not in cri.kubectl("logs", pods[0]["metadata"]["name"], check=False)


def test_a_nodes_mounts_are_its_own(cri: Lab) -> None:
    inside = cri.shell("node1", "cat", "/proc/self/mountinfo")
    assert "overlay" in inside
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{cri.state}/node" in line]
    assert cri.shell("node2", "hostname").strip() == "node2"
    assert cri.shell("node1", "ls", "/run/containerd/containerd.sock")


def test_the_nodes_network(cri: Lab, run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """hostNetwork: the pod has the node's address, name and ports."""
    serve = {"command": ["/bin/sh", "-c", "echo serving; exec httpd -f -p 8099 -h /etc"]}
    made = run(pod("whole", nodeName="node2", hostNetwork=True, container=serve))
    assert made["status"]["podIP"] == made["status"]["hostIP"] == address(cri, "node2")
    assert cri.kubectl("exec", "whole", "--", "hostname").strip() == "node2"
    assert "eth0" in cri.kubectl("exec", "whole", "--", "ip", "addr")
    assert "root:" in cri.shell("node1", "curl", "-s", "-m", "5", f"http://{address(cri, 'node2')}:8099/passwd")
    assert cri.kubectl("logs", "whole").strip() == "serving"


def test_a_host_port(cri: Lab, run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    made = run(pod("door", nodeName="node2", container={"ports": [{"containerPort": 8080, "hostPort": 8088}]}))
    url = f"http://{address(cri, 'node2')}:8088/"
    assert made["status"]["podIP"] != address(cri, "node2")
    assert "Hello from pod" in cri.shell("node1", "curl", "-s", "-m", "5", url)
    cri.kubectl("delete", "pod", "door")
    assert cri.shell("node1", "curl", "-s", "-m", "2", url, check=False) == ""


def test_a_runtime_class_chooses_the_oci_runtime(cri: Lab, run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    handler = "crun" if shutil.which("crun") else "runc"
    named = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "other"}, "handler": handler}
    cri.kubectl("create", "-f", "-", stdin=json.dumps(named))
    made = run(pod("chosen", nodeName="node1", runtimeClassName="other"))
    container = made["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    task = f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{container}"
    assert cri.shell("node1", "cat", f"{task}/runtime").endswith(handler)


def test_the_control_plane_is_static_pods(cri: Lab) -> None:
    assert "apiserver" not in "".join(cri.daemons())
    found = {p["metadata"]["name"]: p for p in cri.get("pods", "-n", "kube-system")["items"]}
    assert set(CONTROL_PLANE) <= found.keys()
    for name in CONTROL_PLANE:
        assert "kubernetes.io/config.mirror" in found[name]["metadata"]["annotations"]
        assert [owner["kind"] for owner in found[name]["metadata"]["ownerReferences"]] == ["Node"]
        assert ready(found[name])
    assert "ready" in cri.kubectl("logs", "-n", "kube-system", "kube-scheduler-node1", "--tail=20")
    text = cri.wherry("status").stdout
    assert all(name.removesuffix("-node1") in text for name in CONTROL_PLANE)


def test_a_deleted_mirror_pod_comes_back_and_its_container_never_left(cri: Lab) -> None:
    name = "kube-scheduler-node1"
    before = cri.get("pod", "-n", "kube-system", name)
    cri.kubectl("delete", "pod", "-n", "kube-system", name, "--wait=false")

    def again() -> dict[str, Any] | None:
        found = cri.get("pods", "-n", "kube-system")["items"]
        mine = [p for p in found if p["metadata"]["name"] == name and p["metadata"]["uid"] != before["metadata"]["uid"]]
        return mine[0] if mine and ready(mine[0]) else None

    after = until(again)
    assert after is not None
    assert (
        after["status"]["containerStatuses"][0]["containerID"]
        == before["status"]["containerStatuses"][0]["containerID"]
    )


def test_a_killed_api_server_comes_back(cri: Lab) -> None:
    name = "kube-apiserver-node1"
    status = cri.get("pod", "-n", "kube-system", name)["status"]["containerStatuses"][0]
    task = f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{status['containerID'].removeprefix('containerd://')}"
    os.kill(int(cri.shell("node1", "cat", f"{task}/init.pid")), signal.SIGKILL)

    def counted() -> int:
        text = cri.kubectl("get", "pod", "-n", "kube-system", name, "-o", "json", check=False)
        now = json_or_nothing(text).get("status", {})
        return int(now["containerStatuses"][0]["restartCount"]) if ready({"status": now}) else 0

    until(counted, lambda restarts: restarts == status["restartCount"] + 1)


def json_or_nothing(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def test_nothing_restarts_when_containerd_and_the_kubelets_are_killed(cri: Lab) -> None:
    wanted = 3 + len(CONTROL_PLANE)
    before = until(lambda: lives(cri), lambda found: len(found) == wanted)
    killed = {name: signalled(cri, name, signal.SIGKILL) for name in ("node1/containerd", "node2/kubelet")}
    assert "Hello" in curl(cri.demo_url)
    for name, pid in killed.items():
        reborn(cri, name, pid)
    until(lambda: [n for n in cri.get("nodes")["items"] if ready(n)], lambda found: len(found) == 2)
    assert until(lambda: lives(cri), lambda found: len(found) == wanted) == before
    victim = cri.pods("app=hello")[0]["metadata"]["name"]
    cri.kubectl("delete", "pod", victim)
    until(lambda: [p for p in cri.pods("app=hello") if ready(p)], lambda found: len(found) == 3)


def test_a_node_without_power_and_with_it_again(cri: Lab) -> None:
    cri.wherry("stop", "node2")
    assert "stopped" in cri.wherry("status").stdout
    until(lambda: _running(f"/sys/fs/cgroup/pids/wherry/{NAME}/node2"), lambda pids: pids == "")
    cri.wherry("start", "node2")
    until(lambda: cri.daemons()["node2/kubelet"]["state"], lambda state: state == "ready")
    until(lambda: [p for p in cri.pods("app=hello") if ready(p)], lambda found: len(found) == 3, seconds=40)
    until(lambda: ready(cri.get("node", "node2")), seconds=40)


def test_another_runtime_is_refused_while_this_one_is_up(cri: Lab) -> None:
    done = cri.wherry("up", "--nodes", "2", "--runtime", "docker", check=False)
    assert done.returncode == 2
    assert "runs its pods on containerd" in done.stderr
