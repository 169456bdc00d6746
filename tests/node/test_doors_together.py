"""`wherry server` and `wherry agent` on an installed host: a cluster of one node, from two processes and Docker."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kube.client import Client
from kube.core import Node
from kube.errors import NotFound
from kube.pods import Pod
from kube.resources import NODES, PODS, SERVICEACCOUNTS
from tests.node.host import ADDRESS, BIN, Host, Service, host, until
from tests.requirements import requires

END_SECONDS = 20.0


@pytest.fixture
def at() -> Iterator[Host]:
    requires("root", "netns", "nsenter", "unshare", "ip", "iptables", "dockerd")
    with host() as made:
        made.install()
        yield made


def node_of(at: Host) -> Node | None:
    async def ask(client: Client) -> Node | None:
        try:
            return await client.get(NODES, "node1")
        except NotFound:
            return None

    return at.api(ask)


def is_ready(at: Host) -> bool:
    node = node_of(at)
    return node is not None and any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def pod_of(at: Host) -> Pod:
    return at.api(lambda client: client.get(PODS, "web", "default"))


def run_a_pod(at: Host) -> Pod:
    """A pod that serves over HTTP, once it is ready."""
    assert at.docker
    container: dict[str, Any] = {
        "name": "web",
        "image": at.docker.image,
        "command": ["httpd", "-f", "-p", "8080", "-h", "/etc"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}

    def furnished() -> bool:
        found = at.api(lambda client: client.list(SERVICEACCOUNTS, "default")).items
        return any(account.metadata.name == "default" for account in found)

    until(furnished, "the default ServiceAccount")
    body = {"metadata": {"name": "web"}, "spec": spec}
    at.api(lambda client: client.create(PODS, body, "default"))

    def ready() -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in pod_of(at).status.conditions)

    until(ready, lambda: f"the pod is ready: {pod_of(at).status}", 60)
    return pod_of(at)


def start(at: Host, what: str) -> Service:
    return at.command(BIN / "wherry", what)


def test_two_processes_are_a_cluster_and_end_cleanly(at: Host) -> None:
    at.start_docker()
    server = start(at, "server").ready()
    agent = start(at, "agent").ready()
    until(lambda: is_ready(at), lambda: f"node1 Ready\n{agent.log[-3000:]}", 60)
    pod = run_a_pod(at)
    assert pod.status.pod_ip.startswith("10.244.0.")
    assert at.get(f"http://{pod.status.pod_ip}:8080/hostname")[0] == 200  # over cni0, from the node
    assert at.get("https://10.96.0.1/readyz")[0] == 200  # through the proxy's rules
    for url in ("http://127.0.0.1:10248", "http://127.0.0.1:10256", "http://127.0.0.1:10262", "http://127.0.0.1:8080"):
        assert at.get(f"{url}/healthz")[0] == 200
    until(lambda: 'pod="web"' in at.get("http://127.0.0.1:8080/metrics")[1], "the pod's series")
    assert agent.end(signal.SIGTERM, END_SECONDS) == 0, agent.log[-4000:]
    assert at.get(f"http://{pod.status.pod_ip}:8080/hostname")[0] == 200, "the pod runs on without its agent"
    again = start(at, "agent").ready()
    until(lambda: is_ready(at), "node1 Ready again", 60)
    assert pod_of(at).status.container_statuses[0].restart_count == 0
    at.api(lambda client: client.delete(PODS, "web", "default"))

    def gone() -> bool:
        return not at.api(lambda client: client.list(PODS, "default")).items

    until(gone, lambda: f"the pod is gone\n{again.log[-3000:]}", 60)
    assert again.end(signal.SIGTERM, END_SECONDS) == 0, again.log[-4000:]
    assert server.end(signal.SIGTERM, END_SECONDS) == 0, server.log[-4000:]
    for service in (server, agent, again):
        assert "Traceback" not in service.log
        assert "STOPPING=1" in service.told()


def test_one_rooms_death_is_the_whole_processes_and_says_why(at: Host) -> None:
    """The store's process is the API server's; without it the API server ends, and the centre with it."""
    server = start(at, "server").ready()
    (store,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    at.run("kill", "-9", store)
    assert server.wait(END_SECONDS) == 1
    assert "the store's process ended" in server.log
    again = start(at, "server").ready()
    assert at.get(f"https://{ADDRESS}:6443/readyz")[0] == 200
    assert again.end(signal.SIGTERM, END_SECONDS) == 0


def test_what_one_room_refuses_the_whole_process_refuses_in_one_line(at: Host) -> None:
    """The agent has no Docker here: nothing of the other three is left."""
    agent = start(at, "agent")
    assert agent.wait(END_SECONDS) == 2
    (line,) = agent.log.splitlines()[-1:]
    assert line.startswith("wherry-agent: --container-runtime-endpoint docker:///var/run/docker.sock: nobody answers")
    assert "Traceback" not in agent.log
    assert "KUBE-" not in at.run("iptables-save")
    assert "flannel" not in at.run("ip", "link")
    at.path("etc/wherry/scheduler.yaml").write_text("kind: Scheduler\n")
    server = start(at, "server")
    assert server.wait(END_SECONDS) == 2
    assert server.log.splitlines()[-1].startswith(
        "wherry server: --scheduler-args: --config /etc/wherry/scheduler.yaml"
    )
    at.path("etc/wherry/node.json").write_text("{}")
    agent = start(at, "agent")
    assert agent.wait(END_SECONDS) == 2
    assert agent.log == (
        "wherry agent: /etc/wherry/node.json: expected node, address and pods; install the node's bundle again,"
        " or give --kubelet-args\n"
    )
