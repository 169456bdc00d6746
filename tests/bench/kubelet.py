"""How long a pod of one container takes to run, against Docker alone.

    kubelet.start.one.docker       the whole of Wherry: from the create call for a pod with a nodeName to the moment a watch
                                   shows it Running; API server and kubelet are processes of their own
    kubelet.start.runtime.docker   the runtime layer as the kubelet calls it: sandbox with its network, then the container

The floor of both is `docker create` and `start` of the same two containers by the `docker` package, without a network. Ours
and floor are measured in turn. The network is wherry-cni's, in a node's namespace.
"""

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.api.client import APIClient

from cni.launcher import conflist, write_conflist, write_plugins
from kube.resources import PODS
from kubelet.docker import DockerOptions, DockerRuntime
from kubelet.docker.pause import COMMAND, PAUSE_IMAGE
from kubelet.network import Network
from kubelet.runtime import ContainerConfig, PodIdentity, SandboxConfig
from linux import netns
from tests import dockerd as daemons
from tests.requirements import missing

if TYPE_CHECKING:
    from tests.node.kubelet_world import World

NAME, LAYER = "kubelet.start.one.docker", "kubelet.start.runtime.docker"
RUNS = 15


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    wanted = [name for name in (NAME, LAYER) if not only or name.startswith(only)]
    if wanted and (lacking := missing("root", "netns", "dockerd", "nsenter")):
        print(f"{', '.join(wanted)}: not measured, this machine lacks {', '.join(lacking)}")
        return
    for name in wanted:
        node = f"wt-bench-{uuid.uuid4().hex[:6]}"
        parent = f"/wherry-test-{uuid.uuid4().hex[:8]}"
        netns.create(node)
        try:
            with daemons.private() as found, tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
                with netns.enter(netns.path_of(node)):  # the plugins that the loop starts are started in here
                    if name == NAME:
                        yield asyncio.run(_whole(found, node, Path(home), parent))
                    else:
                        yield asyncio.run(_layer(found, Path(home), parent))
        finally:
            netns.delete(node)
            for controller in Path("/sys/fs/cgroup").iterdir():
                daemons.remove_cgroups(controller / parent.lstrip("/"))


def network(home: Path) -> Network:
    """wherry-cni on a subnet of its own, its files all below `home`."""
    subnet = home / "subnet.env"
    subnet.write_text(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    write_plugins(home / "bin")
    write_conflist(home / "net.d", conflist(subnet_file=str(subnet), data_dir=str(home / "networks")))
    return Network(str(home / "net.d"), [str(home / "bin")], str(home / "cache"))


async def _layer(found: daemons.Dockerd, home: Path, parent: str) -> dict[str, Any]:
    runtime = DockerRuntime(DockerOptions(socket_path=found.socket_path, node="bench"), network(home))
    client = found.client()
    try:
        await _ours(runtime, home, parent)  # builds the pause image, warms what is cold
        ours, floor = [], []
        for _ in range(RUNS):
            floor.append(await asyncio.to_thread(_floor, client, parent))
            ours.append(await _ours(runtime, home, parent))
    finally:
        client.close()
        await runtime.close()
    note = (
        "sandbox with CNI + container through the runtime layer; floor: docker create+start of the same two, no network"
    )
    return _row(LAYER, ours, floor, note)


def _row(name: str, ours: list[float], floor: list[float], note: str) -> dict[str, Any]:
    middle = statistics.median(ours), statistics.median(floor)
    return {
        "name": name,
        "unit": "ms",
        "ours": round(middle[0] * 1000, 1),
        "floor": round(middle[1] * 1000, 1),
        "ratio": round(middle[0] / middle[1], 3),
        "runs": RUNS,
        "note": note,
    }


async def _whole(found: daemons.Dockerd, node: str, home: Path, parent: str) -> dict[str, Any]:
    from tests.conftest import Netns
    from tests.node.kubelet_world import World, with_world

    ours: list[float] = []
    floor: list[float] = []

    async def measure(world: World) -> None:
        client = found.client()
        try:
            await _pod(world, "warm")
            for number in range(RUNS):
                floor.append(await asyncio.to_thread(_floor, client, parent))
                ours.append(await _pod(world, f"pod{number}"))
        finally:
            client.close()

    Netns(node).run("ip", "link", "set", "lo", "up")
    await with_world(Netns(node), found, parent, home, measure)
    note = "API create with a nodeName -> a watch shows Running; floor: docker create+start of the same two, no network"
    return _row(NAME, ours, floor, note)


async def _pod(world: "World", name: str) -> float:
    """Seconds from create to Running; the pod is gone, and the kubelet idle again, when it returns."""
    body = {
        "metadata": {"name": name},
        "spec": {
            "nodeName": world.node.name,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": daemons.IMAGE, "command": ["sleep", "3600"]}],
        },
    }
    page = await world.client.list(PODS, "default")
    begun = time.perf_counter()
    await world.client.create(PODS, body, "default")
    async for event in world.client.watch(PODS, "default", resource_version=page.resource_version):
        if event.object.metadata.name == name and event.object.status.phase == "Running":
            break
    took = time.perf_counter() - begun
    await world.client.delete(PODS, name, "default")
    await world.until_gone(name)
    await world.eventually(lambda: not world.remains(), "nothing is left of the pod")
    return took


async def _ours(runtime: DockerRuntime, home: Path, parent: str) -> float:
    pod = PodIdentity("bench", "default", uuid.uuid4().hex)
    sandbox = SandboxConfig(pod=pod, hostname="bench", log_directory=str(home / "log"), cgroup_parent=parent)
    image = await runtime.image_status(daemons.IMAGE)
    assert image is not None
    begun = time.perf_counter()
    sandbox_id = await runtime.run_sandbox(sandbox)
    config = ContainerConfig(name="main", image=image.id, command=("sleep", "3600"), log_path="main/0.log")
    container_id = await runtime.create_container(sandbox_id, config, sandbox)
    await runtime.start_container(container_id)
    took = time.perf_counter() - begun
    await runtime.stop_container(container_id, 0)
    await runtime.remove_container(container_id)
    await runtime.remove_sandbox(sandbox_id)
    return took


def _floor(client: APIClient, parent: str) -> float:
    common = {"RestartPolicy": {"Name": "no"}, "CgroupParent": parent}
    begun = time.perf_counter()
    host = {**common, "NetworkMode": "none", "IpcMode": "shareable"}
    pause = client.create_container_from_config(  # type: ignore[no-untyped-call]
        {"Image": PAUSE_IMAGE, "Entrypoint": list(COMMAND), "HostConfig": host}, None
    )["Id"]
    client.start(pause)
    joined = {**common, "NetworkMode": f"container:{pause}", "IpcMode": f"container:{pause}"}
    main = client.create_container_from_config(  # type: ignore[no-untyped-call]
        {"Image": daemons.IMAGE, "Entrypoint": ["sleep", "3600"], "HostConfig": joined}, None
    )["Id"]
    client.start(main)
    took = time.perf_counter() - begun
    for identity in (main, pause):
        client.remove_container(identity, force=True)
    return took
