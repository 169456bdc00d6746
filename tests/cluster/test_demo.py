"""The demo application, as its reader tries it: reachable pod to pod, by ClusterIP and by NodePort, and it heals."""

import re

import pytest

from tests.cluster.conftest import Lab, curl, ready, until
from tests.cluster.world import World


def _fetch(lab: Lab, pod: str, url: str) -> str:
    return lab.kubectl("exec", pod, "--", "wget", "-q", "-O", "-", url)


def test_its_pods_are_spread_over_the_nodes(demo: Lab) -> None:
    assert {pod["spec"]["nodeName"] for pod in demo.pods("app=hello")} == {"node1", "node2", "node3"}


def test_every_pod_reaches_every_other_and_keeps_its_address(demo: Lab) -> None:
    pods = demo.pods("app=hello")
    for source in pods:
        own = source["status"]["podIP"]
        for target in pods:
            answer = _fetch(demo, source["metadata"]["name"], f"http://{target['status']['podIP']}:8080/")
            assert f"pod {target['metadata']['name']} " in answer
            assert f"you are {own}\n" in answer, f"the source address was not preserved: {answer}"


def test_the_cluster_ip_balances_over_all_replicas(demo: Lab) -> None:
    pods = demo.pods("app=hello")
    address = demo.get("service", "hello")["spec"]["clusterIP"]
    script = f"for i in $(seq 40); do wget -q -O - http://{address}/; done"
    for source in pods:
        answers = demo.kubectl("exec", source["metadata"]["name"], "--", "sh", "-c", script)
        found = re.findall(r"Hello from pod (\S+)", answers)
        assert len(found) == 40
        assert set(found) == {pod["metadata"]["name"] for pod in pods}


def test_the_node_port_answers_on_loopback_and_on_every_node(demo: Lab) -> None:
    assert "Hello from pod hello-" in curl(demo.demo_url)
    for node in ("node1", "node2", "node3"):
        address = next(n["address"] for n in demo.topology["nodes"] if n["name"] == node)
        answer = demo.shell("node1", "curl", "-s", "-m", "5", f"http://{address}:30080/")
        assert "Hello from pod hello-" in answer


def test_a_killed_container_is_restarted(demo: Lab) -> None:
    pod = demo.pods("app=hello")[0]
    name = pod["metadata"]["name"]
    before = pod["status"]["containerStatuses"][0]
    world = World(demo)
    world.end(world.running()[before["containerID"].partition("://")[2]])

    def restarted() -> bool:
        status = demo.get("pod", name)["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == before["restartCount"] + 1 and status["ready"])

    until(restarted, seconds=30)
    last = demo.get("pod", name)["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert last["exitCode"] == 137


def test_a_deleted_pod_is_replaced(demo: Lab) -> None:
    name = demo.pods("app=hello")[0]["metadata"]["name"]
    demo.kubectl("delete", "pod", name)
    until(
        lambda: [p for p in demo.pods("app=hello") if ready(p) and p["metadata"]["name"] != name], lambda p: len(p) == 3
    )
    until(lambda: curl(demo.demo_url))


@pytest.mark.timeout(240)
def test_a_stopped_nodes_pods_run_elsewhere_and_the_node_comes_back(demo: Lab) -> None:
    demo.wherry("stop", "node3")
    try:
        until(
            lambda: [p for p in demo.pods("app=hello") if ready(p) and p["spec"]["nodeName"] != "node3"],
            lambda pods: len(pods) == 3,
            seconds=60,
        )
        node = demo.get("node", "node3")
        assert not ready(node)
        assert {"node.kubernetes.io/unreachable"} <= {taint["key"] for taint in node["spec"].get("taints", ())}
        until(lambda: curl(demo.demo_url), seconds=20)
    finally:
        demo.wherry("start", "node3")
    until(lambda: ready(demo.get("node", "node3")), seconds=60)
    # What ran there is gone for good, and new pods may run there again.
    until(lambda: list(demo.get("pods", "-l", "app=hello")["items"]), lambda pods: len(pods) == 3, seconds=60)
    victim = demo.pods("app=hello")[0]["metadata"]["name"]
    demo.kubectl("delete", "pod", victim)
    until(
        lambda: {p["spec"].get("nodeName") for p in demo.pods("app=hello") if ready(p)},
        lambda nodes: "node3" in nodes,
        seconds=60,
    )
