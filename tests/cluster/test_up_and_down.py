"""`wherry lab` itself: what up says and leaves alone, repeating it, and down after the worst."""

import json
import os
import signal
import subprocess
import time

import pytest

from lab.model import DEMO_IMAGE
from tests.cluster.conftest import Lab, curl, ready, until, wherry
from tests.leave_no_trace import Snapshot
from tests.requirements import requires

ROOT_NETWORK = ("links", "addresses", "routes", "rules", "sysctls")


def test_up_ends_with_where_to_go(lab: Lab) -> None:
    assert lab.kubeconfig in lab.up_output
    assert lab.demo_url in lab.up_output
    assert lab.up_output.count("kubectl") >= 2


def test_up_again_changes_nothing(demo: Lab) -> None:
    before = {name: daemon["pid"] for name, daemon in demo.daemons().items()}
    done = demo.wherry("up", "--nodes", "3")
    assert "running already" in done.stdout
    assert {name: daemon["pid"] for name, daemon in demo.daemons().items()} == before


def test_status_names_every_daemon(demo: Lab) -> None:
    text = demo.wherry("status").stdout
    assert text.count("Ready") >= 3
    for daemon in ("apiserver", "scheduler", "controllers", "kubelet", "proxy", "overlay", "metrics", "cni"):
        assert daemon in text


def test_no_default_route_inside(demo: Lab) -> None:
    for node in ("node1", "node2", "node3"):
        assert demo.shell(node, "ip", "route", "show", "default") == ""
        said = demo.shell(node, "sh", "-c", "ip route get 10.244.200.1 2>&1 || true")
        assert "unreachable" in said.lower() or "No route" in said


def test_host_ports_work_and_host_networks_name_the_remedy(demo: Lab) -> None:
    """All nodes share a dockerd here: its network is no node's."""
    if not demo.docker:
        pytest.skip("nodes with a containerd have their network in it (test_containerd)")
    container = {"name": "c", "image": DEMO_IMAGE}
    more = {"nodeName": "node2", "terminationGracePeriodSeconds": 0}
    specs = {
        "door": {"containers": [{**container, "ports": [{"containerPort": 8080, "hostPort": 8088}]}], **more},
        "whole": {"hostNetwork": True, "containers": [container], **more},
    }
    for name, spec in specs.items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        demo.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    try:
        until(lambda: ready(demo.get("pod", "door")))
        address = next(n["address"] for n in demo.topology["nodes"] if n["name"] == "node2")
        assert "Hello from pod" in demo.shell("node1", "curl", "-s", "-m", "5", f"http://{address}:8088/")
        words = ("events", "--field-selector", "involvedObject.name=whole")
        events = until(lambda: [e for e in demo.get(*words)["items"] if "--runtime containerd" in e["message"]])
        assert {event["type"] for event in events} == {"Warning"}
        assert demo.get("pod", "whole")["status"]["phase"] == "Pending"
    finally:
        demo.kubectl("delete", "pod", "door", "whole")


def test_another_number_of_nodes_is_refused(demo: Lab) -> None:
    done = demo.wherry("up", "--nodes", "2", check=False)
    assert done.returncode == 2
    assert "has 3 nodes" in done.stderr


@pytest.mark.timeout(280)
def test_a_lab_of_its_own_up_killed_up_and_down(leave_no_trace: Snapshot, lab: Lab) -> None:
    """One node beside the other lab: the root namespace's network is untouched while it is up; a lab whose supervisor was
    killed comes up again with its objects; down leaves nothing."""
    requires("root", "netns")
    name = "brief"
    network = {kind: leave_no_trace.facts[kind] for kind in ROOT_NETWORK}
    try:
        wherry("lab", "--name", name, "up", "--nodes", "1", "--no-demo")
        during = Snapshot.take()
        assert {kind: during.facts[kind] for kind in ROOT_NETWORK} == network
        mine = Lab(name, "")
        mine.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        supervisors = subprocess.run(
            ["pgrep", "-f", f"lab.supervisor {mine.state}$"], capture_output=True, text=True, check=True
        )
        for pid in supervisors.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        started = time.monotonic()
        wherry("lab", "--name", name, "up", "--nodes", "1", "--no-demo")
        assert time.monotonic() - started < 60
        assert mine.get("configmap", "kept")["data"] == {"a": "b"}
        until(lambda: ready(mine.get("node", "node1")), seconds=30)
    finally:
        wherry("lab", "--name", name, "down")
    assert wherry("lab", "--name", name, "down").returncode == 0
    assert curl(lab.demo_url) or not lab.up_output
