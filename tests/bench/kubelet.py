"""`kubelet.start.one.docker`: how long a pod of one container takes to run, against Docker alone.

Ours is the runtime layer as the kubelet calls it: sandbox with its network by wherry-cni, in a node's namespace, then the
container. The floor is `docker create` and `start` of the same two containers by the `docker` package, without a network.
They are measured in turn.
"""

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docker.api.client import APIClient

from cni.launcher import conflist, write_conflist, write_plugins
from kubelet.docker import DockerOptions, DockerRuntime
from kubelet.docker.pause import COMMAND, PAUSE_IMAGE
from kubelet.network import Network
from kubelet.runtime import ContainerConfig, PodIdentity, SandboxConfig
from linux import netns
from tests import dockerd as daemons
from tests.requirements import missing

NAME = "kubelet.start.one.docker"
RUNS = 15


def rows(only: str | None = None) -> Iterator[dict[str, Any]]:
    if only and not NAME.startswith(only):
        return
    if lacking := missing("root", "netns", "dockerd", "nsenter"):
        print(f"{NAME}: not measured, this machine lacks {', '.join(lacking)}")
        return
    node = f"wt-bench-{uuid.uuid4().hex[:6]}"
    parent = f"/wherry-test-{uuid.uuid4().hex[:8]}"
    netns.create(node)
    try:
        with daemons.private() as found, tempfile.TemporaryDirectory(prefix="wherry-bench-") as home:
            with netns.enter(netns.path_of(node)):  # the plugins that the loop starts are started in here
                yield asyncio.run(_measure(found, Path(home), parent))
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


async def _measure(found: daemons.Dockerd, home: Path, parent: str) -> dict[str, Any]:
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
    middle = statistics.median(ours), statistics.median(floor)
    return {
        "name": NAME,
        "unit": "ms",
        "ours": round(middle[0] * 1000, 1),
        "floor": round(middle[1] * 1000, 1),
        "ratio": round(middle[0] / middle[1], 3),
        "runs": RUNS,
        "note": "sandbox with CNI + container through the runtime layer; floor: docker create+start of the same two, no network",
    }


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
    pause = client.create_container_from_config(
        {"Image": PAUSE_IMAGE, "Entrypoint": list(COMMAND), "HostConfig": host}, None
    )["Id"]
    client.start(pause)
    joined = {**common, "NetworkMode": f"container:{pause}", "IpcMode": f"container:{pause}"}
    main = client.create_container_from_config(
        {"Image": daemons.IMAGE, "Entrypoint": ["sleep", "3600"], "HostConfig": joined}, None
    )["Id"]
    client.start(main)
    took = time.perf_counter() - begun
    for identity in (main, pause):
        client.remove_container(identity, force=True)
    return took
