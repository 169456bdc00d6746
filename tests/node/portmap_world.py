"""The portmap plugin on the node of `service_world`, by each packet filter, and the reference plugin beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni import launcher
from linux import netns as kernel_netns
from tests.conftest import named_netns
from tests.node.cni_host import GO_PLUGINS, CniHost
from tests.node.service_world import (
    FAMILIES,
    GATEWAY,
    HERE,
    HERE_TOO,
    NODE,
    OTHER_NODE,
    OTHER_POD,
    OUTSIDER,
    PORT,
    Site,
    World,
    built,
    spell,
)
from tests.requirements import requires, tool

HOST_PORT = 18080
Mapping_ = Mapping[str, object]


def port(host: int = HOST_PORT, pod: int = PORT, protocol: str = "tcp", **more: str) -> dict[str, object]:
    return {"hostPort": host, "containerPort": pod, "protocol": protocol, **more}


BOTH = (port(), port(protocol="udp"))


@dataclass(slots=True)
class Portmap:
    """The plugin on this world's node with one packet filter. `program` is ours or the reference's."""

    world: World
    program: str
    keys: Mapping[str, object]
    environment: Mapping[str, str]
    flavor: str
    attached: dict[str, dict[str, object]] = field(default_factory=dict)

    def config(self, pod: str, ports: Sequence[Mapping_], **keys: object) -> dict[str, object]:
        """Of a pod on the bridge, as the plugin before this one leaves it."""
        path = self.world.spaces[pod].path
        result = {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "pod0"}, {"name": "eth0", "sandbox": path}],
            "ips": [
                {"address": f"{spell(pod, 4)}/24", "interface": 2, "gateway": GATEWAY},
                {"address": f"{spell(pod, 6)}/112", "interface": 2},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": GATEWAY}],
            "dns": {},
        }
        said = {"cniVersion": "1.0.0", "name": "pods", "type": "portmap", **self.keys, **keys, "prevResult": result}
        return said | {"runtimeConfig": {"portMappings": list(ports)}}

    def start(
        self, command: str, config: Mapping[str, object], container: str = "c1", netns: str = "", program: str = ""
    ) -> subprocess.Popen[bytes]:
        variables = {
            "PATH": os.environ["PATH"],
            **self.environment,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": GO_PLUGINS,
        }
        process = subprocess.Popen(
            kernel_netns.argv_in(self.world.node.path, [program or self.program]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(config).encode())
        process.stdin = None
        return process

    def call(
        self, command: str, config: Mapping[str, object], container: str = "c1", netns: str = "", program: str = ""
    ) -> tuple[int, dict[str, Any]]:
        out, err = (process := self.start(command, config, container, netns, program)).communicate(timeout=120)
        assert not err, err.decode()
        return process.returncode, json.loads(out) if out else {}

    def add(self, pod: str, *ports: Mapping_, container: str = "c1", **keys: object) -> None:
        config = self.config(pod, ports, **keys)
        status, said = self.call("ADD", config, container, self.world.spaces[pod].path)
        assert status == 0, said
        assert said == config["prevResult"]
        self.attached[container] = config

    def delete(self, container: str = "c1", program: str = "") -> None:
        config = self.attached.pop(container)
        assert self.call("DEL", config, container, program=program) == (0, {})

    def rules(self) -> list[str]:
        """Every rule about hostPorts, of both families, without counters."""
        found = []
        for family in FAMILIES:
            if self.flavor == "nftables":
                name = "ip" if family == 4 else "ip6"
                text = self.world.node.run("nft", "-s", "list", "table", name, "cni_hostport", check=False)
                rules = (line.strip() for line in text.splitlines())
                found += [f"{name}: {rule}" for rule in rules if "comment" in rule and "CNI portmap" not in rule]
            else:
                stem = "iptables" if family == 4 else "ip6tables"
                text = self.world.node.run(f"{stem}-{self.flavor}-save", "-t", "nat")
                found += [f"{stem} {line}" for line in text.splitlines() if "CNI-" in line]
        return found

    def of_containers(self) -> list[str]:
        """Those that are not shared."""
        return [rule for rule in self.rules() if self.flavor == "nftables" or "CNI-DN-" in rule]


def legacy_path(folder: Path) -> str:
    """A PATH on which `iptables` is the legacy one."""
    folder.mkdir(exist_ok=True)
    for stem in ("iptables", "ip6tables"):
        for name in ("", "-save", "-restore"):
            link = folder / f"{stem}{name}"
            if not link.is_symlink():
                link.symlink_to(str(tool(f"{stem}-legacy{name}")))
    return f"{folder}:{os.environ['PATH']}"


FLAVORS = ("nft", "legacy", "nftables")


@contextlib.contextmanager
def ours(world: World, flavor: str, folder: Path) -> Iterator[Portmap]:
    """By iptables on nf_tables, by legacy iptables (without the agent that does the others' calls) or by nftables; after the
    test no rule of a container is there."""
    environment = {"XTABLES_LOCKFILE": str(folder / "xtables.lock")}
    if flavor == "legacy":
        requires("iptables-legacy", "ip6tables-legacy")
        environment["PATH"] = legacy_path(folder / "legacy")
    keys = {"backend": "nftables" if flavor == "nftables" else "iptables"}
    with contextlib.ExitStack() as stack:
        path = program(folder)
        if flavor != "legacy":
            path = str(stack.enter_context(CniHost(world.node, folder / "served").served()).bin / "portmap")
        made = Portmap(world, path, keys, environment, flavor)
        stack.enter_context(alone(made))
        yield made


@contextlib.contextmanager
def debians(world: World, folder: Path) -> Iterator[Portmap]:
    requires("portmap")
    environment = {"XTABLES_LOCKFILE": str(folder / "xtables.lock")}
    made = Portmap(world, str(tool("portmap")), {}, environment, "nft")
    with alone(made):
        yield made


@contextlib.contextmanager
def portmap_world() -> Iterator[World]:
    requires("root", "netns", "iptables", "ip6tables", "nft")
    with named_netns() as make, built(make) as made:
        yield made


@contextlib.contextmanager
def alone(portmap: Portmap) -> Iterator[None]:
    """What the test has left attached is detached at its end, and then no rule of a container is there."""
    try:
        yield
        for container in list(portmap.attached):
            portmap.delete(container)
        assert portmap.of_containers() == []
    finally:
        wipe(portmap.world)


def program(folder: Path) -> str:
    made = folder / "bin" / "portmap"
    if not made.exists():
        ours = launcher.write_plugins(folder / "bin", run=str(folder / "run"))
        if not made.exists():
            made.hardlink_to(ours)
    return str(made)


def wipe(world: World) -> None:
    """What containers share stays for the next one on a node; here each packet filter shall be alone."""
    world.node.run("nft", "flush", "ruleset")
    for stem in ("iptables", "ip6tables"):
        if shutil.which(f"{stem}-legacy"):
            world.node.run(f"{stem}-legacy", "-w", "5", "-t", "nat", "-F")
            world.node.run(f"{stem}-legacy", "-w", "5", "-t", "nat", "-X")


WAYS = [
    (OUTSIDER, OUTSIDER),
    (OTHER_NODE, OTHER_NODE),
    (OTHER_POD, OTHER_POD),
    (NODE, NODE),
    (HERE_TOO, "masq"),
    (HERE, "masq"),
]
"""Who asks, and whom the pod sees: those whose answers would not pass the node again are masqueraded."""


def asked(world: World, family: int, protocol: str, to: str = NODE, host_port: int = HOST_PORT) -> dict[str, str]:
    """By who asks: what was answered."""
    site = Site(world, family)
    askers = [asker for asker, _ in WAYS]
    flows = [site.flow(asker, to, host_port, protocol=protocol) for asker in askers]
    return {asker: next(iter(found)) for asker, found in zip(askers, site.ask_all(flows), strict=True)}


def expected(pod: str = HERE, pod_port: int = PORT) -> dict[str, str]:
    return {asker: f"{pod}:{pod_port} {seen}" for asker, seen in WAYS}
