"""Stock clients against the live server: every kubectl there is, the official Python client, and a kubelet's streams."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes
import orjson
import pytest
import yaml
from aiohttp import web

from kube.serving import server_tls
from tests.node.apiserver import Server, running
from tests.ports import free_port
from tests.requirements import kubectls, requires

MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: nginx
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, type: NodePort, ports: [{port: 80}]}
"""


class Kubectl:
    def __init__(self, path: str, server: Server) -> None:
        self.argv = [path, "--kubeconfig", str(server.kubeconfig), "--cache-dir", str(server.directory / "cache")]

    async def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run([*self.argv, *arguments], input=stdin, capture_output=True, text=True, timeout=60)

        done = await asyncio.to_thread(run)
        assert done.returncode == code, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.mark.parametrize("path", kubectls() or [""], ids=lambda path: Path(path).name)
async def test_kubectl(path: str, tmp_path: Path) -> None:
    if not path:
        requires("kubectl")
    async with running(tmp_path) as server:
        kubectl = Kubectl(path, server)
        assert "gitVersion: v1.36.0" in await kubectl("version", "-o", "yaml")
        assert "deployments" in await kubectl("api-resources")
        assert await kubectl("create", "namespace", "x") == "namespace/x created\n"
        await kubectl("create", "configmap", "c", "--from-literal=a=b")
        await kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
        await kubectl("create", "serviceaccount", "robot")
        await kubectl("run", "one", "--image=nginx")
        assert "Pending" in await kubectl("get", "pods", "-o", "wide")

        assert "created" in await kubectl("apply", "-f", "-", stdin=MANIFEST.replace("REPLICAS", "1"))
        assert "unchanged" in await kubectl("apply", "-f", "-", stdin=MANIFEST.replace("REPLICAS", "1"))
        assert "deployment.apps/web configured" in await kubectl(
            "apply", "-f", "-", stdin=MANIFEST.replace("REPLICAS", "2")
        )
        assert "READY" in await kubectl("get", "deployments,services", "-A", "-o", "wide")
        assert "Selector:" in await kubectl("describe", "deployment", "web")
        assert "NodePort:" in await kubectl("describe", "service", "web")

        await kubectl("scale", "deployment", "web", "--replicas=5")
        await kubectl("label", "deployment", "web", "tier=front")
        await kubectl("annotate", "deployment", "web", "note=hello")
        await kubectl("set", "image", "deployment/web", "c=nginx:2")
        await kubectl("rollout", "restart", "deployment/web")
        for kind, patch in (
            (
                "strategic",
                '{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"1"}]}]}}}}',
            ),
            ("merge", '{"spec":{"paused":true}}'),
            ("json", '[{"op":"remove","path":"/spec/paused"}]'),
        ):
            assert "patched" in await kubectl("patch", "deployment", "web", "--type", kind, "-p", patch)
        deployment = yaml.safe_load(await kubectl("get", "deployment", "web", "-o", "yaml"))
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        assert deployment["spec"]["replicas"] == 5
        assert (deployment["metadata"]["labels"]["tier"], deployment["metadata"]["annotations"]["note"]) == (
            "front",
            "hello",
        )
        assert (container["image"], container["env"], container["ports"][0]["containerPort"]) == (
            "nginx:2", [{"name": "A", "value": "1"}], 80,
        )  # fmt: skip
        assert "paused" not in deployment["spec"]
        deployment["metadata"]["labels"]["tier"] = "back"
        assert "replaced" in await kubectl("replace", "-f", "-", stdin=yaml.safe_dump(deployment))
        assert "has been modified" in await kubectl("replace", "-f", "-", stdin=yaml.safe_dump(deployment), code=1)

        bad = MANIFEST.replace("REPLICAS", "1").replace("image: nginx", "imagee: nginx")
        assert "unknown field" in await kubectl("apply", "-f", "-", stdin=bad, code=1)
        other = MANIFEST.replace("REPLICAS", "1").replace("matchLabels: {app: web}", "matchLabels: {app: other}")
        assert 'The Deployment "web" is invalid' in await kubectl("apply", "-f", "-", stdin=other, code=1)
        assert "NotFound" in await kubectl("get", "pod", "none", code=1)
        assert "containers" in await kubectl("explain", "pod.spec")
        await kubectl("delete", "deployment,service", "web")
        await kubectl("delete", "pod", "one", "--wait=true")
        assert await kubectl("get", "pods,deployments") == "No resources found in default namespace.\n"


async def test_kubectl_get_watch(tmp_path: Path) -> None:
    requires("kubectl")
    async with running(tmp_path) as server:
        kubectl = Kubectl(kubectls()[-1], server)
        watch = await asyncio.create_subprocess_exec(
            *kubectl.argv, "get", "configmaps", "-w", stdout=asyncio.subprocess.PIPE
        )
        assert watch.stdout
        try:
            await kubectl("create", "configmap", "a")
            async with asyncio.timeout(20):
                assert (await watch.stdout.readline()).split() == [b"NAME", b"DATA", b"AGE"]
                assert (await watch.stdout.readline()).split()[:2] == [b"a", b"0"]
                await kubectl("patch", "configmap", "a", "--type=merge", "-p", '{"data":{"x":"y"}}')
                assert (await watch.stdout.readline()).split()[:2] == [b"a", b"1"]
        finally:
            watch.terminate()
            await watch.wait()


async def test_the_official_python_client(tmp_path: Path) -> None:
    async with running(tmp_path) as server:

        def use() -> list[tuple[str, str]]:
            client = kubernetes.config.new_client_from_config(str(server.kubeconfig))
            core = kubernetes.client.CoreV1Api(client)
            made = core.create_namespaced_config_map("default", {"metadata": {"name": "a"}, "data": {"x": "y"}})
            core.patch_namespaced_config_map("a", "default", {"data": {"x": "z"}})
            core.patch_namespaced_config_map("a", "default", [{"op": "add", "path": "/data/w", "value": "1"}])
            assert core.read_namespaced_config_map("a", "default").data == {"x": "z", "w": "1"}
            assert [item.metadata.name for item in core.list_namespaced_config_map("default").items] == ["a"]
            core.delete_namespaced_config_map("a", "default")
            stream = kubernetes.watch.Watch().stream(
                core.list_namespaced_config_map,
                "default",
                timeout_seconds=1,
                resource_version=made.metadata.resource_version,
            )
            told = [(event["type"], event["object"].metadata.name) for event in stream]
            dynamic = kubernetes.dynamic.DynamicClient(client)
            assert dynamic.resources.get(api_version="apps/v1", kind="Deployment").get().items == []
            with pytest.raises(kubernetes.client.ApiException) as missing:
                core.read_namespaced_pod("none", "default")
            assert missing.value.status == 404
            client.close()
            return told

        assert await asyncio.to_thread(use) == [("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


@asynccontextmanager
async def kubelet(directory: Path) -> AsyncIterator[tuple[int, list[str]]]:
    """Logs and exec as a kubelet serves them: v5.channel.k8s.io, an echo of stdin, exit code 3."""
    asked: list[str] = []

    async def logs(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        response = web.StreamResponse()
        await response.prepare(request)
        for line in (b"one\n", b"two\n"):
            await response.write(line)
        return response

    async def execute(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        if "missing" in request.query.getall("command"):
            return web.Response(status=400, text="no such program")
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        await socket.send_bytes(b"\x01" + " ".join(request.query.getall("command")).encode() + b"\n")
        async for message in socket:
            if message.data == b"\xff\x00":
                break
            if message.data[:1] == b"\x00":
                await socket.send_bytes(b"\x01" + message.data[1:])
        status = {"status": "Failure", "reason": "NonZeroExitCode", "message": "exit 3",
                  "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}  # fmt: skip
        await socket.send_bytes(b"\x03" + orjson.dumps(status))
        await socket.close()
        return socket

    application = web.Application()
    application.router.add_get("/containerLogs/{ns}/{pod}/{container}", logs)
    application.router.add_get("/exec/{ns}/{pod}/{container}", execute)
    runner = web.AppRunner(application)
    await runner.setup()
    tls: ssl.SSLContext = server_tls(
        str(directory / "server.crt"), str(directory / "server.key"), str(directory / "ca.crt"), require_client=True
    )
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        yield port, asked
    finally:
        await runner.cleanup()


async def place_pod(server: Server, port: int) -> None:
    context = server.connection().ssl_context() or True
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:

        async def post(path: str, body: dict[str, Any]) -> None:
            async with session.post(server.url + path, json=body) as response:
                assert response.status == 201, await response.text()

        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        await post("/api/v1/nodes", {"metadata": {"name": "n"}, "status": status})
        spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}
        await post("/api/v1/namespaces/default/pods", {"metadata": {"name": "p"}, "spec": spec})


async def test_logs_and_exec_through_the_server(tmp_path: Path) -> None:
    requires("kubectl")
    async with running(tmp_path) as server, kubelet(tmp_path) as (port, asked):
        await place_pod(server, port)
        kubectl = Kubectl(kubectls()[-1], server)
        assert await kubectl("logs", "p", "--tail=5", "--timestamps") == "one\ntwo\n"
        assert asked.pop() == "/containerLogs/default/p/c?tailLines=5&timestamps=true"
        assert await kubectl("logs", "-f", "p") == "one\ntwo\n"
        out = await kubectl("exec", "-i", "p", "--", "cat", "-n", stdin="hello\n" * 20_000, code=3)
        assert out.startswith("cat -n\nhello\n")
        assert out.count("hello\n") == 20_000
        assert "command terminated with exit code 3" in out
        assert asked[-1] == "/exec/default/p/c?command=cat&command=-n&error=1&input=1&output=1"
        path = "/api/v1/namespaces/default/pods/p/exec?command=missing&stdout=true"
        tls = server.connection().ssl_context() or True
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(server.url + path, protocols=("v5.channel.k8s.io",))
            assert refused.value.status == 400
        assert "is not valid for pod p" in await kubectl("exec", "p", "-c", "x", "--", "true", code=1)


async def test_a_kubelet_that_is_away_is_named(tmp_path: Path) -> None:
    requires("kubectl")
    async with running(tmp_path) as server:
        port = free_port()
        await place_pod(server, port)
        kubectl = Kubectl(kubectls()[-1], server)
        assert f"cannot reach the kubelet at 127.0.0.1:{port}" in await kubectl("logs", "p", code=1)
        assert f"cannot reach the kubelet at 127.0.0.1:{port}" in await kubectl("exec", "p", "--", "true", code=1)
