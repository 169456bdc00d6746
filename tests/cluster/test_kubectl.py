"""Stock kubectl, every version on this machine, doing what people do."""

import json
import re
import subprocess
import time

import pytest

from tests.cluster.conftest import Lab, ready, until
from tests.requirements import kubectls

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: wherry.local/demo:1
      command:
        - /bin/sh
        - -c
        - "trap 'exit 0' TERM; echo started; i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2 & wait; done"
"""


def version(program: str) -> str:
    found = re.search(r"(\d+)$", program)
    return found[1] if found else "0"


@pytest.fixture(params=kubectls() or ["kubectl"], ids=lambda p: p.rpartition("/")[2])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_get_in_its_usual_forms(demo: Lab, program: str) -> None:
    nodes = demo.kubectl("get", "nodes", "-o", "wide", program=program).splitlines()
    assert nodes[0].split()[:5] == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert [line.split()[1] for line in nodes[1:]] == ["Ready"] * 3
    pods = demo.kubectl("get", "pods", "-A", "-o", "wide", program=program).splitlines()
    assert pods[0].split()[:5] == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS"]
    assert sum("1/1" in line and "Running" in line for line in pods) >= 3
    both = demo.kubectl("get", "svc,endpointslices", program=program)
    assert "service/hello-nodeport" in both
    assert "endpointslice.discovery.k8s.io/hello-" in both
    assert demo.kubectl("get", "deploy", "hello", "-o", "jsonpath={.status.readyReplicas}", program=program) == "3"
    assert "hello" in demo.kubectl("get", "all", program=program)


def test_describe(demo: Lab, program: str) -> None:
    pod = demo.pods("app=hello")[0]["metadata"]["name"]
    text = demo.kubectl("describe", "pod", pod, program=program)
    assert re.search(r"Normal\s+Started", text)
    assert "Controlled By:  ReplicaSet/hello-" in text
    assert re.search(r"Ready\s+True", demo.kubectl("describe", "node", "node1", program=program))
    assert re.search(r"Endpoints:\s+10\.244\.", demo.kubectl("describe", "service", "hello", program=program))
    assert "3 desired | 3 updated | 3 total | 3 available" in demo.kubectl(
        "describe", "deployment", "hello", program=program
    )


def test_top(demo: Lab, program: str) -> None:
    """With nothing installed for it: the API server reads the kubelets' figures."""

    def rows(*words: str) -> list[list[str]]:
        return [line.split() for line in demo.kubectl("top", *words, "--no-headers", program=program).splitlines()]

    until(lambda: rows("nodes"), lambda found: len(found) == 3, seconds=30)
    for name, cpu, share, memory, *_ in rows("nodes"):
        assert name.startswith("node")
        assert re.fullmatch(r"\d+m", cpu)
        assert re.fullmatch(r"\d+%", share)
        assert re.fullmatch(r"\d+Mi", memory)
    raw = json.loads(demo.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes", program=program))
    assert all(node["usage"]["memory"] != "0" for node in raw["items"]), raw
    names = {pod["metadata"]["name"] for pod in demo.pods("app=hello")}
    until(lambda: {row[0] for row in rows("pods", "-l", "app=hello")}, lambda found: found == names, seconds=30)
    containers = rows("pods", "--containers", "-l", "app=hello")
    assert {row[0] for row in containers} == names
    assert all(re.fullmatch(r"\d+m", cpu) and re.fullmatch(r"\d+Mi", memory) for _, _, cpu, memory in containers)
    table = demo.kubectl("get", "nodes.metrics.k8s.io", program=program).splitlines()
    assert table[0].split() == ["NAME", "CPU", "MEMORY", "WINDOW"]
    assert sorted(line.split()[0] for line in table[1:]) == ["node1", "node2", "node3"]


def test_apply_logs_and_delete(demo: Lab, program: str) -> None:
    name = f"k{version(program)}"
    manifest = POD.format(name=name)
    assert "created" in demo.kubectl("apply", "-f", "-", stdin=manifest, program=program)
    try:
        assert "unchanged" in demo.kubectl("apply", "-f", "-", stdin=manifest, program=program)
        demo.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s", program=program)
        assert "started" in demo.kubectl("logs", name, program=program)
        labelled = manifest.replace(f"app: {name}", f"app: {name}, tier: x")
        assert "configured" in demo.kubectl("apply", "-f", "-", stdin=labelled, program=program)
        assert demo.get("pod", name)["metadata"]["labels"]["tier"] == "x"
        followed = subprocess.Popen(
            [program, "--kubeconfig", demo.kubeconfig, "logs", "-f", name], stdout=subprocess.PIPE, text=True
        )
        assert followed.stdout
        lines = [followed.stdout.readline() for _ in range(5)]
        assert lines[0] == "started\n"
        assert lines[4].startswith("line ")
    finally:
        demo.kubectl("delete", "pod", name, program=program)
    followed.wait(timeout=10)
    followed.stdout.close()
    assert "NotFound" in demo.kubectl("get", "pod", name, program=program, check=False)


def test_scale_and_watch(demo: Lab, program: str) -> None:
    name = f"scaled{version(program)}"
    demo.kubectl("create", "deployment", name, "--image=wherry.local/demo:1", program=program)
    watch = subprocess.Popen(
        [
            program,
            "--kubeconfig",
            demo.kubeconfig,
            "get",
            "deployment",
            name,
            "-w",
            "-o",
            "name",
            "--request-timeout=60s",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        demo.kubectl("scale", f"deployment/{name}", "--replicas=2", program=program)
        demo.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s", program=program)
        assert len([p for p in demo.pods(f"app={name}") if ready(p)]) == 2
        assert watch.stdout
        assert [watch.stdout.readline() for _ in range(3)] == [f"deployment.apps/{name}\n"] * 3
        demo.kubectl("label", f"deployment/{name}", "tested=yes", program=program)
        demo.kubectl("annotate", f"deployment/{name}", "note=here", program=program)
        demo.kubectl("patch", f"deployment/{name}", "-p", '{"spec":{"replicas":1}}', program=program)
        until(lambda: len(demo.pods(f"app={name}")) == 1)
    finally:
        watch.kill()
        watch.communicate()
        demo.kubectl("delete", "deployment", name, program=program)
    until(lambda: demo.get("pods", "-l", f"app={name}")["items"], lambda pods: not pods, seconds=60)


def test_exec(demo: Lab, program: str) -> None:
    """Over WebSocket from kubectl 1.30 on, over SPDY before."""
    pod = demo.pods("app=hello")[0]["metadata"]["name"]
    assert demo.kubectl("exec", pod, "--", "echo", "hi", program=program) == "hi\n"
    assert demo.kubectl("exec", "-i", pod, "--", "cat", stdin="through\n", program=program) == "through\n"
    argv = [program, "--kubeconfig", demo.kubeconfig, "exec", pod, "--", "sh", "-c", "exit 7"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr


def test_a_malformed_manifest_is_refused_with_its_fields(demo: Lab, program: str) -> None:
    bad = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "Bad_Name"},
        "spec": {"containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 70000}]}]},
    }
    said = demo.kubectl("create", "-f", "-", stdin=json.dumps(bad), program=program, check=False)
    assert "metadata.name: Invalid value" in said
    assert "spec.containers[0].ports[0].containerPort: Invalid value: 70000" in said
    misspelt = POD.format(name="misspelt").replace("image:", "imagee:")
    said = demo.kubectl("apply", "-f", "-", stdin=misspelt, program=program, check=False)
    assert 'unknown field "spec.containers[0].imagee"' in said


def test_a_node_is_ready_to_a_waiting_kubectl(demo: Lab, program: str) -> None:
    started = time.monotonic()
    demo.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=30s", program=program)
    assert time.monotonic() - started < 15
