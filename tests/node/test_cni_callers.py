"""Stock containerd as the caller: its sandboxes get their network from our plugins under the reference plugins' names."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import launcher
from kubelet.cri import CriOptions, CriRuntime
from kubelet.runtime import PodIdentity, PortMapping, SandboxConfig
from tests.conftest import Netns, named_netns
from tests.containerd import Containerd, private
from tests.node.cni_host import pings
from tests.requirements import requires


@pytest.fixture(scope="module")
def node() -> Iterator[Netns]:
    requires("root", "netns", "nsenter", "containerd", "busybox")
    with named_netns() as make:
        yield make("node")


@pytest.fixture(scope="module")
def engine(node: Netns) -> Iterator[Containerd]:
    with private(enter=["nsenter", f"--net={node.path}"]) as found:
        launcher.write_plugins(found.folder / "bin", run=str(found.folder / "run"))
        yield found


def lists(home: Path) -> dict[str, dict[str, Any]]:
    """What people write for a stock node, by the first plugin's name."""
    env = home / "subnet.env"
    env.write_text(
        "FLANNEL_NETWORK=10.88.0.0/16\nFLANNEL_SUBNET=10.88.0.1/24\nFLANNEL_IPV6_NETWORK=fd00:88::/48\n"
        "FLANNEL_IPV6_SUBNET=fd00:88::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    data = {"dataDir": str(home / "networks")}
    ranges = [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    return {
        "bridge": {
            "isGateway": True,
            "ipMasq": True,
            "promiscMode": True,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, **data},
        },
        "flannel": {
            "subnetFile": str(env),
            "dataDir": str(home / "flannel"),
            "ipam": data,
            "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        },
        "wherry-cni": {"subnetFile": str(env), "hairpinMode": True, **data},
    }


@pytest.mark.parametrize("kind", ["bridge", "flannel", "wherry-cni"])
def test_containerds_pod_has_its_network(
    node: Netns, engine: Containerd, cgroup_parent: str, tmp_path: Path, kind: str
) -> None:
    plugins = [
        {"type": kind, **lists(tmp_path)[kind]},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]
    conflist = {"cniVersion": "0.4.0" if kind == "bridge" else "1.0.0", "name": "pods", "plugins": plugins}
    engine.kill()
    (engine.folder / "net.d" / "10-net.conflist").write_text(json.dumps(conflist))
    engine.start()  # it has read the new list then
    asyncio.run(_life(node, engine, cgroup_parent, tmp_path, kind))
    assert "veth" not in node.run("ip", "-o", "link")
    left = [each.name for each in (tmp_path / "networks" / "pods").iterdir() if each.name[0] not in ".l"]
    assert left == []
    assert "CNI-DN-" not in node.run("iptables-save", "-t", "nat")


async def _life(node: Netns, engine: Containerd, cgroup_parent: str, tmp_path: Path, kind: str) -> None:
    runtime = CriRuntime(CriOptions(socket_path=engine.socket_path, node=node.name))
    try:
        pod = PodIdentity("one", "default", f"one-{kind}-{node.name}")
        port = PortMapping(protocol="TCP", container_port=80, host_port=18088, host_ip="")
        config = SandboxConfig(
            pod=pod,
            hostname="one",
            log_directory=str(tmp_path),
            cgroup_parent=cgroup_parent,
            port_mappings=(port,),
            annotations={"kubernetes.io/ingress-bandwidth": "10M"},
        )
        assert (await runtime.status()).network_ready
        sandbox = await runtime.run_sandbox(config)
        try:
            status = await runtime.sandbox_status(sandbox)
            assert [str(each) for each in status.ips] == ["10.88.0.2", "fd00:88::2"]
            for address in map(str, status.ips):
                assert await asyncio.to_thread(pings, node, address), address
            assert "dport 18088" in await asyncio.to_thread(node.run, "iptables-save", "-t", "nat")
            assert "tbf" in await asyncio.to_thread(node.run, "tc", "qdisc", "show")
        finally:
            await runtime.stop_sandbox(sandbox)
            await runtime.remove_sandbox(sandbox)
    finally:
        await runtime.close()
