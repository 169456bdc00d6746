"""Sandboxes on Docker with the network of wherry-cni: pods on one node reach each other, and the address comes back.

The test's thread stands in a node's namespace, as a lab's kubelet does; dockerd is in another.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from kubelet.docker import DockerOptions, DockerRuntime
from kubelet.runtime import ContainerConfig, PodIdentity, SandboxConfig
from linux import netns as kernel
from tests.bench.kubelet import network
from tests.conftest import Netns
from tests.dockerd import IMAGE, Dockerd

SERVE = "busybox mkdir -p /www; echo hello from one > /www/index.html; exec busybox httpd -f -p 8080 -h /www"


def inside(path: str, work: Coroutine[Any, Any, None]) -> None:
    with kernel.enter(path):
        asyncio.run(work)


def test_two_pods_talk_and_leave_nothing(
    netns: Callable[[str], Netns],
    dockerd: Dockerd,
    cgroup_parent: str,
    tmp_path: Path,
) -> None:
    node = netns("node")

    async def work() -> None:
        runtime = DockerRuntime(DockerOptions(socket_path=dockerd.socket_path, node=node.name), network(tmp_path))
        try:
            await two_pods(runtime)
        finally:
            for record in await runtime.list_pods():
                for sandbox in record.sandboxes:
                    await runtime.remove_sandbox(sandbox.id)
            await runtime.close()

    async def two_pods(runtime: DockerRuntime) -> None:
        image = await runtime.image_status(IMAGE)
        assert image is not None
        ips, containers = [], []
        for name, command in (
            ("one", ("sh", "-c", SERVE)),
            ("two", ("sleep", "3600")),
        ):
            pod = PodIdentity(name, "default", f"{name}-{node.name}")
            config = SandboxConfig(pod=pod, hostname=name, log_directory=str(tmp_path), cgroup_parent=cgroup_parent)
            sandbox_id = await runtime.run_sandbox(config)
            container = ContainerConfig(name="main", image=image.id, command=command, log_path=f"{name}/0.log")
            container_id = await runtime.create_container(sandbox_id, container, config)
            await runtime.start_container(container_id)
            containers.append(container_id)
            ips.append((await runtime.sandbox_status(sandbox_id)).ips[0])
        assert ips[0] != ips[1]
        assert all(str(ip).startswith("10.244.7.") for ip in ips)
        url = f"http://{ips[0]}:8080/index.html"
        ask = f"n=0; until busybox wget -q -O - {url}; do n=$((n+1)); [ $n -lt 50 ] || exit 1; sleep 0.1; done"
        answer = await runtime.exec_sync(containers[1], ["sh", "-c", ask], 20)
        assert answer.stdout == b"hello from one\n", answer
        assert await asyncio.to_thread(node.run, "busybox", "wget", "-q", "-O", "-", url) == "hello from one\n"
        links = await asyncio.to_thread(node.run, "ip", "-o", "link")
        assert links.count("veth") == 2

    inside(node.path, work())
    assert "veth" not in node.run("ip", "-o", "link")
    leases = [entry.name for entry in (tmp_path / "networks").rglob("10.244.7.*")]
    assert leases == []
