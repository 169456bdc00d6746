"""What stock flanneld (vxlan backend, kube subnet manager) does on a node, by ip, bridge and iptables: a stand-in that
writes what flanneld writes and nothing of ours, for networks in which both kinds of node live.

Read from flannel's pkg/backend/vxlan (device.go, vxlan_network.go), pkg/subnet/kube and pkg/trafficmngr/iptables: names and
formats of annotations, the order of the objects, the routes' protocol (netlink's default, boot), what of a device is
compared before it is reused, the rules' text.
"""

import json
from typing import Any

from tests.node.overlay_world import PREFIX, OverlayNode


class Flanneld:
    """One node's. `start` is flanneld's start, `learn` what it does for the Nodes that it knows then."""

    def __init__(self, node: OverlayNode) -> None:
        self.node, self.world = node, node.world
        conf = json.loads((self.world.home / "net-conf.json").read_text())
        self.mtu = conf["Backend"].get("MTU", 1500) - 50  # of the IPv6 device too

    def start(self, *, masquerade: bool = False) -> "Flanneld":
        for version in self.world.versions:
            self._device(version)
        self._announce()
        self._subnet_env(masquerade)
        if masquerade:
            self._masquerade()
        self.learn()
        return self

    def learn(self) -> None:
        """For each other node, as flanneld on a lease event: neighbour, FDB entry, route."""
        names = [node.name for node in self.world.nodes if node is not self.node]
        for name in names:
            node = self.world.node(name)
            notes = {key.removeprefix(PREFIX): value for key, value in node.metadata.annotations.items()}
            assert notes.get("kube-subnet-manager") == "true", f"{name}: flanneld would not see it"
            assert notes.get("backend-type") == "vxlan"
            for version in self.world.versions:
                data = json.loads(notes["backend-data" if version == 4 else "backend-v6-data"])
                public = notes["public-ip" if version == 4 else "public-ipv6"]
                assert data["VNI"] == 1
                subnet = node.spec.pod_cidrs[version == 6]
                self._peer(version, subnet, data["VtepMAC"], public)

    def _peer(self, version: int, subnet: str, mac: str, public: str) -> None:
        device, router = _device_name(version), subnet.split("/")[0]
        run = self.node.space.run
        run("ip", f"-{version}", "neigh", "replace", router, "lladdr", mac, "dev", device, "nud", "permanent")
        run("bridge", "fdb", "replace", mac, "dev", device, "dst", public, "self", "permanent")
        run("ip", f"-{version}", "route", "replace", subnet, "via", router, "dev", device, "onlink")

    def _device(self, version: int) -> None:
        """Reused when it is what flanneld would make (vxlanLinksIncompat), else made anew."""
        run, name = self.node.space.run, _device_name(version)
        local = self.node.address if version == 4 else self.node.address6
        there = self.node.both()[str(version)]["device"]
        if there is None or (there.vni, there.port, there.local, there.learning) != (1, 8472, local, False):
            run("ip", "link", "del", name, check=False)
            options = ("id", "1", "dstport", "8472", "local", local, "dev", "eth0", "nolearning")
            run("ip", "link", "add", name, "mtu", str(self.mtu), "type", "vxlan", *options)
        run("sysctl", "-qw", f"net/ipv6/conf/{name}/accept_ra=0")
        run("ip", f"-{version}", "addr", "replace", self._own(version), "dev", name)
        run("ip", "link", "set", name, "up")
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def _own(self, version: int) -> str:
        number = self.node.number
        return f"10.244.{number}.0/32" if version == 4 else f"fd10:244:0:{number}::/128"

    def _announce(self) -> None:
        both, notes = self.node.both(), {"backend_type": "vxlan", "kube_subnet_manager": "true"}
        for version in self.world.versions:
            data = f'{{"VNI":1,"VtepMAC":"{both[str(version)]["device"].mac}"}}'
            notes |= (
                {"backend_data": data, "public_ip": self.node.address}
                if version == 4
                else {"backend_v6_data": data, "public_ipv6": self.node.address6}
            )
        self.world.annotate(self.node.name, **notes)

    def _subnet_env(self, masquerade: bool) -> None:
        number = self.node.number
        lines = ["FLANNEL_NETWORK=10.244.0.0/16", f"FLANNEL_SUBNET=10.244.{number}.1/24"]
        if 6 in self.world.versions:
            lines += ["FLANNEL_IPV6_NETWORK=fd10:244::/48", f"FLANNEL_IPV6_SUBNET=fd10:244:0:{number}::1/64"]
        lines += [f"FLANNEL_MTU={self.mtu}", f"FLANNEL_IPMASQ={str(masquerade).lower()}"]
        self.node.subnet_file.parent.mkdir(exist_ok=True)
        self.node.subnet_file.write_text("\n".join(lines) + "\n")

    def _masquerade(self) -> None:
        for version in self.world.versions:
            pods, network, groups, tool = (
                (f"10.244.{self.node.number}.0/24", "10.244.0.0/16", "224.0.0.0/4", "iptables")
                if version == 4
                else (f"fd10:244:0:{self.node.number}::/64", "fd10:244::/48", "ff00::/8", "ip6tables")
            )
            masq, forward = '-m comment --comment "flanneld masq"', '-m comment --comment "flanneld forward"'
            script = "\n".join(
                (
                    "*nat",
                    ":FLANNEL-POSTRTG - [0:0]",
                    f"-A POSTROUTING {masq} -j FLANNEL-POSTRTG",
                    f"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN",
                    f"-A FLANNEL-POSTRTG -s {pods} -d {network} {masq} -j RETURN",
                    f"-A FLANNEL-POSTRTG -s {network} -d {pods} {masq} -j RETURN",
                    f"-A FLANNEL-POSTRTG ! -s {network} -d {pods} {masq} -j RETURN",
                    f"-A FLANNEL-POSTRTG -s {network} ! -d {groups} {masq} -j MASQUERADE --random-fully",
                    f"-A FLANNEL-POSTRTG ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully",
                    "COMMIT",
                    "*filter",
                    ":FLANNEL-FWD - [0:0]",
                    f"-A FORWARD {forward} -j FLANNEL-FWD",
                    f"-A FLANNEL-FWD -s {network} {forward} -j ACCEPT",
                    f"-A FLANNEL-FWD -d {network} {forward} -j ACCEPT",
                    "COMMIT",
                )
            )
            self.node.space.run("sh", "-c", f"{tool}-restore --noflush <<'END'\n{script}\nEND")


def _device_name(version: int) -> str:
    return "flannel.1" if version == 4 else "flannel-v6.1"


def written(node: OverlayNode) -> dict[str, Any]:
    """A node's annotations of flannel's, without their prefix."""
    notes = node.world.node(node.name).metadata.annotations
    return {key.removeprefix(PREFIX): value for key, value in notes.items() if key.startswith(PREFIX)}
