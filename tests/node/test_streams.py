"""exec, attach, cp, port-forward and logs, with every kubectl there is, through the API server to real containers."""

import asyncio
import hashlib
import json
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes
import kubernetes.stream
import pytest

from kube.resources import CONFIGMAPS, ENDPOINTSLICES, PODS, SERVICEACCOUNTS, SERVICES
from linux import netns as kernel
from tests.conftest import Netns
from tests.dockerd import IMAGE
from tests.node import engines
from tests.node.engines import Engine
from tests.node.kubelet_world import ADDRESS, World, container, ready, with_world
from tests.node.streams_world import Kubectl, echoing, through
from tests.requirements import all_versions, kubectls, requires

requires("root", "docker", "nsenter")

Run = Callable[[Callable[[World], Awaitable[None]]], None]
FLAGS = ("--bind-address", "0.0.0.0", "--advertise-address", ADDRESS)
PAYLOAD = random.Random(11).randbytes(10_000_000)
APPLETS = "for a in tar stty tty wc head; do ln -s busybox /bin/$a; done"
SHELL = f"{APPLETS}; echo ready; trap 'exit 0' TERM; while :; do sleep 1; done"


@pytest.fixture(params=engines.NAMES)
def run(
    netns: Callable[[str], Netns], cgroup_parent: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Run]:
    """On Docker and on containerd."""
    node = netns("streams")
    with ExitStack() as stack:
        engine: Engine
        if request.param == "docker":
            engine = engines.shared(request.getfixturevalue("dockerd"))
        else:
            engine = stack.enter_context(engines.own(request.param, node))

        def go(test: Callable[[World], Awaitable[None]]) -> None:
            with kernel.enter(node.path):
                asyncio.run(with_world(node, engine, cgroup_parent, tmp_path, test, *FLAGS))

        yield go


def clients(world: World) -> list[Kubectl]:
    """On containerd the newest alone, in a short run: what a client speaks ends in the kubelet, before any runtime."""
    found = []
    for path in kubectls() if world.engine.name == "docker" or all_versions() else kubectls()[-1:]:
        home = world.folder / f"home-{Path(path).name}"
        home.mkdir(exist_ok=True)
        found.append(Kubectl(path, world.server.kubeconfig, home))
    assert found
    return found


async def each(world: World, trial: Callable[[World, Kubectl], Awaitable[None]]) -> None:
    """Two versions at a time."""
    turns = asyncio.Semaphore(2)

    async def one(kubectl: Kubectl) -> None:
        async with turns:
            try:
                await trial(world, kubectl)
            except AssertionError as error:
                raise AssertionError(f"kubectl {kubectl.version}: {error}") from error

    async with asyncio.TaskGroup() as group:
        for kubectl in clients(world):
            group.create_task(one(kubectl))


async def two_containers(world: World) -> None:
    await world.create("p", [container("a", SHELL), container("b", "echo only b; sleep 600")])
    await world.until("p", ready, "ready")


async def _commands(world: World, kubectl: Kubectl) -> None:
    done = await kubectl.run("exec", "p", "-c", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, b"out\n", b"err\ncommand terminated with exit code 7\n")
    place = f"/tmp/x-{kubectl.version}"
    told = await kubectl.says(
        "exec", "-i", "p", "-c", "a", "--", "sh", "-c", f"cat > {place}; wc -c < {place}", stdin=PAYLOAD
    )
    assert told.strip() == str(len(PAYLOAD))
    back = await kubectl.run("exec", "p", "-c", "a", "--", "cat", place)
    assert hashlib.sha256(back.out).digest() == hashlib.sha256(PAYLOAD).digest()
    # A command that does not read all of its input still tells how it ended; containerd 1.6 does not know when more of it is
    # left than a pipe holds, and then it is said that nobody knows.
    for unread in (PAYLOAD[:50_000], PAYLOAD):
        done = await kubectl.run("exec", "-i", "p", "-c", "a", "--", "sh", "-c", "head -c 5; exit 3", stdin=unread)
        assert done.out == PAYLOAD[:5]
        if done.code != 3:
            assert (world.engine.name, len(unread)) == ("containerd", len(PAYLOAD))
            assert "ended without reading all of its input" in done.words


async def _copies(world: World, kubectl: Kubectl) -> None:
    there, back = kubectl.home / "payload", kubectl.home / "back"
    there.write_bytes(PAYLOAD)
    await kubectl.says("cp", str(there), f"p:/tmp/y-{kubectl.version}", "-c", "a")
    await kubectl.says("cp", f"p:/tmp/y-{kubectl.version}", str(back), "-c", "a")
    assert back.read_bytes() == PAYLOAD


async def _terminal(world: World, kubectl: Kubectl) -> None:
    # The size comes after the start, as upstream has it.
    sized = 'while test -z "$(stty size 2>/dev/null)"; do :; done; stty size'
    script = f"tty; {sized}; printf '$ '; read line; echo got $line; exit 0"
    shown = await kubectl.at_terminal(
        "exec", "-it", "p", "-c", "a", "--", "sh", "-c", script, rows=33, columns=77, keys=b"hello\r"
    )
    assert "/dev/" in shown
    assert "33 77" in shown, shown
    assert "got hello" in shown


async def _refusals(world: World, kubectl: Kubectl) -> None:
    assert "container x is not valid for pod p" in await kubectl.refuses("exec", "p", "-c", "x", "--", "true")
    assert 'pods "absent" not found' in await kubectl.refuses("exec", "absent", "--", "true")
    said = await kubectl.refuses("exec", "broken", "--", "true")
    assert 'unable to upgrade connection: container not found ("a")' in said
    done = await kubectl.run("exec", "p", "-c", "a", "--", "no-such-program")
    docker = world.engine.name == "docker"  # dockerd says it as output
    assert done.code == (126 if docker else 1)
    assert 'exec: "no-such-program": executable file not found' in (done.text if docker else done.words)
    said = await kubectl.refuses("exec", "over", "--", "true")
    assert "cannot exec into a container in a completed pod; current phase is Succeeded" in said


async def _without_a_controlling_terminal(world: World, kubectl: Kubectl) -> None:
    name = f"one-{kubectl.version.replace('.', '-')}"
    override = json.dumps({"spec": {"nodeName": world.node.name, "terminationGracePeriodSeconds": 1}})
    argv = ["run", name, f"--image={IMAGE}", "--restart=Never", "-i", "--rm", f"--overrides={override}"]
    told = await kubectl.says(*argv, "--", "sh", "-c", "read x; echo got $x", stdin=b"abc\n")
    assert "got abc" in told
    assert f'pod "{name}" deleted' in told
    name = f"listens-{kubectl.version.replace('.', '-')}"
    loop = "while read x; do echo heard $x; done; echo the end"
    await world.create(name, [container("a", loop, stdin=True, stdinOnce=True)], restartPolicy="Never")
    await world.until(name, ready, "ready")
    told = await kubectl.says("attach", "-i", name, "-c", "a", stdin=b"this\nand that\n")
    assert told == "heard this\nheard and that\nthe end\n"


def test_commands(run: Run) -> None:
    async def test(world: World) -> None:
        await two_containers(world)
        await world.create("over", [container("a", "true")], restartPolicy="Never")
        await world.create("broken", [container("a", "true", image="wherry.local/absent:1", imagePullPolicy="Never")])
        await world.until("over", lambda pod: pod.status.phase == "Succeeded", "succeeded")
        for trial in (_commands, _copies, _terminal, _refusals):
            await each(world, trial)

    run(test)


def test_what_is_run_and_attached(run: Run) -> None:
    async def test(world: World) -> None:
        await each(world, _without_a_controlling_terminal)

    run(test)


async def _forwards(world: World, kubectl: Kubectl) -> None:
    async with kubectl.forwarding("pod/p", 9000) as (port, _):
        pieces = [random.Random(n).randbytes(50_000) for n in range(20)]
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(through(port, piece)) for piece in pieces]
        assert [answer.result() for answer in answers] == pieces
        assert await through(port, PAYLOAD) == PAYLOAD
    async with kubectl.forwarding("pod/p", 9001) as (port, process):
        assert await through(port, b"anybody?") == b""
        assert process.stderr is not None
        async with asyncio.timeout(20):
            line = (await process.stderr.readline()).decode()
            while line and "9001" not in line:
                line = (await process.stderr.readline()).decode()
        assert "connection refused" in line, line


def _python_client(world: World) -> None:
    """The official client: exec over v4 and v5 channels, port-forward over channels of a WebSocket."""
    made: Any = kubernetes.config
    api = kubernetes.client.CoreV1Api(made.new_client_from_config(str(world.server.kubeconfig)))
    talk = kubernetes.stream.stream(
        api.connect_get_namespaced_pod_exec,
        "p",
        "default",
        container="a",
        command=["sh", "-c", "read x; echo got $x; echo bad >&2; exit 5"],
        stdin=True,
        stdout=True,
        stderr=True,
        _preload_content=False,
    )
    talk.write_stdin("this\n")
    talk.run_forever(timeout=20)
    assert (talk.read_stdout(), talk.read_stderr(), talk.returncode) == ("got this\n", "bad\n", 5)
    forward = kubernetes.stream.portforward(
        api.connect_get_namespaced_pod_portforward, "p", "default", ports="9000,9001"
    )
    open_port, closed_port = forward.socket(9000), forward.socket(9001)
    open_port.settimeout(20)
    open_port.sendall(b"there and back")
    assert open_port.recv(100) == b"there and back"
    open_port.close()
    closed_port.settimeout(20)
    assert closed_port.recv(100) == b""
    closed_port.close()
    assert "connection refused" in forward.error(9001)
    assert forward.error(9000) is None


def _in_namespace(world: World, use: Callable[[World], None]) -> None:
    with kernel.enter(world.node.path):
        use(world)


async def _debugs(world: World, kubectl: Kubectl) -> None:
    """A guest in a running container's PID namespace, and a copy of a pod."""
    version = kubectl.version.replace(".", "-")
    guest = ["debug", "p", f"--image={IMAGE}", "--target=a", "-i", f"--container=guest-{version}", "--quiet"]
    told = await kubectl.says(*guest, "--", "sh", "-c", "read x; echo got $x; cat /proc/1/cmdline", stdin=b"abc\n")
    assert "got abc" in told
    assert "while :; do sleep 1; done" in told  # the target's own first process
    pod = await world.until(
        "p",
        lambda pod: any(one.state.terminated for one in pod.status.ephemeral_container_statuses),
        "the guest has ended",
    )
    assert ready(pod)
    assert await kubectl.says("logs", "p", "-c", f"guest-{version}") == told


def test_debug(run: Run) -> None:
    async def test(world: World) -> None:
        await two_containers(world)
        await each(world, _debugs)

    run(test)


def test_port_forward(run: Run) -> None:
    async def test(world: World) -> None:
        await two_containers(world)
        async with echoing(world.namespace_of("p"), 9000):
            await asyncio.to_thread(_in_namespace, world, _python_client)
            await each(world, _forwards)

    run(test)


async def _logs(world: World, kubectl: Kubectl) -> None:
    assert await kubectl.says("logs", "talks") == "one\ntwo\nthree\n"
    assert await kubectl.says("logs", "talks", "--tail=1") == "three\n"
    assert await kubectl.says("logs", "talks", "--limit-bytes=5") == "one\nt"
    stamped = await kubectl.says("logs", "talks", "--timestamps", "--tail=1")
    assert stamped.endswith("Z three\n")
    assert await kubectl.says("logs", "talks", "--since=1h") == "one\ntwo\nthree\n"
    assert await kubectl.says("logs", "talks", "--since-time=2100-01-01T00:00:00Z") == ""
    assert await kubectl.says("logs", "talks", "-f") == "one\ntwo\nthree\n"
    both = await kubectl.says("logs", "-l", "app=p", "--all-containers", "--prefix")
    assert "[pod/p/a] ready\n" in both
    assert "[pod/p/b] only b\n" in both
    said = await kubectl.refuses("logs", "p", "-c", "a", "--previous")
    assert 'previous terminated container "a" in pod "p" not found' in said
    assert await kubectl.says("logs", "again", "--previous") == "crash\n"
    said = await kubectl.refuses("logs", "broken")
    assert 'container "a" in pod "broken" is waiting to start: ErrImageNeverPull' in said


def test_logs(run: Run) -> None:
    async def test(world: World) -> None:
        await world.client.create(
            PODS,
            {
                "metadata": {"name": "p", "labels": {"app": "p"}},
                "spec": {
                    "nodeName": world.node.name,
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container("a", SHELL), container("b", "echo only b; sleep 600")],
                },
            },
            "default",
        )
        await world.create("talks", [container("a", "echo one; echo two; echo three")], restartPolicy="Never")
        await world.create("again", [container("a", "echo crash; test -e /tmp/x && sleep 600; exit 1")])
        await world.create("broken", [container("a", "true", image="wherry.local/absent:1", imagePullPolicy="Never")])
        await world.until("p", ready, "ready")
        await world.until("talks", lambda pod: pod.status.phase == "Succeeded", "over")
        await world.until(
            "again",
            lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].restart_count > 0,
            "restarted",
        )
        await each(world, _logs)
        await _follows(world, Kubectl(kubectls()[-1], world.server.kubeconfig, world.folder))

    run(test)


async def _follows(world: World, kubectl: Kubectl) -> None:
    """Lines arrive as they are written, and the end of the container is the end of the log."""
    await world.create(
        "slow",
        [container("a", "echo begun; while test ! -e /tmp/go; do sleep 0.1; done; echo done")],
        restartPolicy="Never",
    )
    await world.until("slow", ready, "ready")
    process = await kubectl.start("logs", "-f", "slow")
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"begun\n"
        await kubectl.says("exec", "slow", "--", "sh", "-c", ": > /tmp/go")
        assert await process.stdout.read() == b"done\n"
        assert await process.wait() == 0


async def _proxies(world: World, kubectl: Kubectl) -> None:
    pods, node = "/api/v1/namespaces/default/pods", world.node.name
    assert await kubectl.says("get", "--raw", f"{pods}/web:8080/proxy/index.html") == "up\n"
    assert await kubectl.says("get", "--raw", f"{pods}/http:web:/proxy/") == "up\n"
    assert "container_cpu_usage" in await kubectl.says("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics/resource")
    assert '"kind": "PodList"' in await kubectl.says("get", "--raw", f"/api/v1/nodes/{node}:{world.port}/proxy/pods")
    assert await kubectl.says("get", "--raw", "/api/v1/namespaces/default/services/web:80/proxy/") == "up\n"
    said = await kubectl.refuses("get", "--raw", f"{pods}/web:1/proxy/")
    assert "error trying to reach service" in said
    process = await kubectl.start("proxy", "--port=0")
    assert process.stdout is not None
    try:
        port = (await process.stdout.readline()).decode().strip().rpartition(":")[2]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}{pods}/web/proxy/") as answer:
                assert (answer.status, await answer.text()) == (200, "up\n")
            async with session.get(f"http://127.0.0.1:{port}{pods}/web/proxy/none") as answer:
                assert answer.status == 404
            async with session.get(f"http://127.0.0.1:{port}{pods}/web/proxy/big") as answer:
                assert hashlib.sha256(await answer.read()).digest() == hashlib.sha256(PAYLOAD).digest()
    finally:
        process.terminate()
        await process.communicate()


async def _top(world: World, kubectl: Kubectl) -> None:
    nodes = (await kubectl.says("top", "nodes")).splitlines()
    assert nodes[0].split()[:3] == ["NAME", "CPU(cores)", "CPU%"] or nodes[0].split()[:2] == ["NAME", "CPU(cores)"]
    assert nodes[1].split()[0] == world.node.name
    (_, busy) = (await kubectl.says("top", "pod", "busy")).splitlines()
    name, cpu, memory = busy.split()
    assert name == "busy"
    assert int(cpu.removesuffix("m")) > 100, busy
    assert memory.endswith("Mi")
    rows = (await kubectl.says("top", "pods", "--containers", "--sort-by=cpu", "--no-headers")).splitlines()
    assert rows[0].split()[:2] == ["busy", "a"]
    assert {row.split()[0] for row in rows} == {"busy", "web"}
    assert (await kubectl.says("top", "pods", "-l", "app=none")) == ""


def test_proxies_and_top(run: Run) -> None:
    async def test(world: World) -> None:
        big = world.folder / "big"
        big.write_bytes(PAYLOAD)
        volume = {"name": "big", "hostPath": {"path": str(big), "type": "File"}}
        serve = "mkdir -p /www; echo up > /www/index.html; cat /big > /www/big; exec httpd -f -p 8080 -h /www"
        mounts = [{"name": "big", "mountPath": "/big"}]
        web = container("a", serve, ports=[{"containerPort": 8080}], volumeMounts=mounts)
        await world.create("web", [web], volumes=[volume])
        await world.create("busy", [container("a", "while :; do :; done")])
        web_pod = await world.until("web", ready, "ready")
        await world.until("busy", ready, "ready")
        ports = [{"port": 80, "targetPort": 8080}]
        await world.client.create(SERVICES, {"metadata": {"name": "web"}, "spec": {"ports": ports}}, "default")
        sliced = {
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [web_pod.status.pod_ip], "conditions": {"ready": True}}],
        }
        await world.client.create(ENDPOINTSLICES, sliced, "default")
        await each(world, _proxies)
        await each(world, _top)

    run(test)


def test_a_pod_calls_the_api_with_its_own_token(run: Run) -> None:
    async def test(world: World) -> None:
        authority = world.server.authority().certificate.decode()
        await world.client.create(
            CONFIGMAPS, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": authority}}, "default"
        )
        await world.client.create(SERVICEACCOUNTS, {"metadata": {"name": "robot"}}, "default")
        field = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"}
        sources = [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [field]}},
        ]
        mount = {
            "name": "kube-api-access",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        }
        volumes = [{"name": "kube-api-access", "projected": {"sources": sources, "defaultMode": 420}}]
        pod = await world.create(
            "p", [container("a", "sleep 600", volumeMounts=[mount])], volumes=volumes, serviceAccountName="robot"
        )
        pod = await world.until("p", ready, "ready")
        place = world.root / "pods" / pod.metadata.uid / "volumes/kubernetes.io~projected/kube-api-access"
        assert sorted(one.name for one in place.iterdir() if not one.name.startswith("..")) == [
            "ca.crt",
            "namespace",
            "token",
        ]
        assert (place / "namespace").read_text() == "default"
        headers = {"Authorization": f"Bearer {(place / 'token').read_text()}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            url = f"{world.server.url}/apis/authentication.k8s.io/v1/selfsubjectreviews"
            tls = ssl.create_default_context(cafile=place / "ca.crt")
            async with session.post(url, json=body, ssl=tls) as answer:
                found = await answer.json()
        assert answer.status == 201, found
        user = found["status"]["userInfo"]
        assert user["username"] == "system:serviceaccount:default:robot"
        assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]

    run(test)
