"""What people, daemons and accidents do to an overlay: each row breaks one thing on node1, behind its daemon's back."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.node.overlay_world import OverlayNode, World


@dataclass(frozen=True)
class Target:
    """node1's tunnel of one family, and what it knows of its peers."""

    world: World
    version: int
    freezes: list[object] = field(default_factory=list)

    @property
    def node(self) -> OverlayNode:
        return self.world.nodes[0]

    @property
    def device(self) -> str:
        return "flannel.1" if self.version == 4 else "flannel-v6.1"

    def gateway(self, number: int) -> str:
        return f"10.244.{number}.0" if self.version == 4 else f"fd10:244:0:{number}::"

    def subnet(self, number: int) -> str:
        return f"{self.gateway(number)}/{24 if self.version == 4 else 64}"

    def host(self, address: str) -> str:
        return f"{address}/{32 if self.version == 4 else 128}"

    def underlay(self, number: int) -> str:
        node = self.world.nodes[number - 1]
        return node.address if self.version == 4 else node.address6

    def mac(self, number: int) -> str:
        """The VTEP's."""
        return str(self.world.nodes[number - 1].both()[str(self.version)]["device"].mac)

    @property
    def iptables(self) -> str:
        return "iptables" if self.version == 4 else "ip6tables"

    def ip(self, *words: str) -> None:
        self.node.space.run("ip", f"-{self.version}", *words)

    def link(self, *words: str) -> None:
        self.node.space.run("ip", "link", "set", self.device, *words)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The daemon is stopped: it would mend between two commands what only both together break."""
        daemon = self.node.daemon
        assert daemon
        self.freezes.append(daemon)
        daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.freezes.pop()
            if not self.freezes:
                daemon.send_signal(signal.SIGCONT)

    def fdb(self, *words: str) -> None:
        self.node.space.run("bridge", "fdb", *words)

    def replace(self, *options: str) -> None:
        """Another VXLAN device in place of ours, as a script of somebody's would make it."""
        with self.frozen():
            self.ip("link", "del", self.device)
            self.ip("link", "add", self.device, "type", "vxlan", *options, "local", self.underlay(1), "dev", "eth0")
            self.link("up")


@dataclass(frozen=True)
class Damage:
    """`object` is the label under which its repair is counted."""

    do: Callable[[Target], None]
    object: str
    versions: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.do.__name__


DAMAGES: list[Damage] = []


def breaks(object_: str, *versions: int) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Enter a function into the table."""

    def enter(do: Callable[[Target], None]) -> Callable[[Target], None]:
        DAMAGES.append(Damage(do, object_, versions or (4, 6)))
        return do

    return enter


@breaks("device")
def device_deleted(t: Target) -> None:
    t.ip("link", "del", t.device)


@breaks("device")
def device_deleted_and_subnet_env_too(t: Target) -> None:
    with t.frozen():
        t.node.subnet_file.unlink(missing_ok=True)
        t.ip("link", "del", t.device)


@breaks("device")
def device_down(t: Target) -> None:
    t.link("down")


@breaks("device")
def device_mac_changed(t: Target) -> None:
    t.link("address", "02:77:77:77:77:77")


@breaks("device")
def device_mtu_lowered(t: Target) -> None:
    t.link("mtu", "1300")


@breaks("device")
def device_renamed(t: Target) -> None:
    with t.frozen():
        t.link("down")
        t.link("name", "mine")
        t.node.space.run("ip", "link", "set", "mine", "up")


@breaks("device")
def device_alias_removed(t: Target) -> None:
    t.link("alias", "")


@breaks("device", 4)
def second_device_with_our_alias(t: Target) -> None:
    with t.frozen():
        t.ip("link", "add", "twin", "type", "vxlan", "id", "99", "dstport", "4790", "dev", "eth0")
        t.ip("link", "set", "twin", "alias", "wherry overlay", "up")


@breaks("device")
def device_with_another_vni(t: Target) -> None:
    t.replace("id", "7", "dstport", "8472", "nolearning")


@breaks("device")
def device_on_another_port(t: Target) -> None:
    t.replace("id", "1", "dstport", "4789", "nolearning")


@breaks("device")
def device_that_learns(t: Target) -> None:
    t.replace("id", "1", "dstport", "8472", "learning")


@breaks("device", 4)
def device_of_another_kind(t: Target) -> None:
    with t.frozen():
        t.ip("link", "del", t.device)
        t.ip("link", "add", t.device, "type", "bridge")


@breaks("address")
def address_removed(t: Target) -> None:
    t.ip("addr", "flush", "dev", t.device)


@breaks("address")
def address_added(t: Target) -> None:
    t.ip("addr", "add", "10.9.9.9/24" if t.version == 4 else "fd09::9/64", "dev", t.device)


@breaks("address")
def own_address_on_another_device_too(t: Target) -> None:
    t.ip("addr", "add", t.host(t.gateway(1)), "dev", "eth0")


@breaks("address")
def peers_pod_address_on_another_device(t: Target) -> None:
    t.ip("addr", "add", t.host(t.world.nodes[1].pod_of(t.version)), "dev", "lo")


@breaks("neighbour")
def neighbours_flushed(t: Target) -> None:
    t.ip("neigh", "flush", "dev", t.device, "nud", "permanent")


@breaks("neighbour")
def neighbour_deleted(t: Target) -> None:
    t.ip("neigh", "del", t.gateway(2), "dev", t.device)


@breaks("neighbour")
def neighbour_with_a_wrong_mac(t: Target) -> None:
    t.ip("neigh", "replace", t.gateway(2), "lladdr", "02:99:99:99:99:99", "dev", t.device, "nud", "permanent")


@breaks("neighbour")
def neighbour_no_longer_permanent(t: Target) -> None:
    t.ip("neigh", "replace", t.gateway(2), "lladdr", t.mac(2), "dev", t.device, "nud", "reachable")


@breaks("neighbour")
def neighbour_added(t: Target) -> None:
    t.ip("neigh", "add", t.gateway(9), "lladdr", "02:99:99:99:99:99", "dev", t.device, "nud", "permanent")


@breaks("fdb")
def fdb_flushed(t: Target) -> None:
    with t.frozen():
        for number in (2, 3):
            t.fdb("del", t.mac(number), "dev", t.device)


@breaks("fdb")
def fdb_swapped_to_another_peer(t: Target) -> None:
    t.fdb("replace", t.mac(2), "dev", t.device, "dst", t.underlay(3), "self", "permanent")


@breaks("fdb")
def fdb_given_another_port(t: Target) -> None:
    t.fdb("replace", t.mac(2), "dev", t.device, "dst", t.underlay(2), "port", "4789", "self", "permanent")


@breaks("fdb")
def fdb_doubled_for_unknown_macs(t: Target) -> None:
    with t.frozen():
        for number in (2, 3):
            t.fdb("append", "00:00:00:00:00:00", "dev", t.device, "dst", t.underlay(number), "self", "permanent")


@breaks("route")
def routes_flushed(t: Target) -> None:
    t.ip("route", "flush", "dev", t.device)


@breaks("route")
def route_to_nowhere(t: Target) -> None:
    with t.frozen():
        t.ip("route", "del", t.subnet(2))
        t.ip("route", "add", "unreachable", t.subnet(2))


@breaks("route")
def narrower_route_to_nowhere(t: Target) -> None:
    t.ip("route", "add", "blackhole", t.host(t.world.nodes[1].pod_of(t.version)))


@breaks("route")
def route_via_another_peer(t: Target) -> None:
    with t.frozen():
        t.ip("route", "del", t.subnet(2))
        t.ip("route", "add", t.subnet(2), "via", t.gateway(3), "dev", t.device, "onlink")


@breaks("route")
def better_route_beside(t: Target) -> None:
    """IPv4's first of equal metrics wins, IPv6's least metric."""
    how = ("prepend",) if t.version == 4 else ("add",)
    t.ip(
        "route",
        *how,
        t.subnet(2),
        "via",
        t.gateway(3),
        "dev",
        t.device,
        "onlink",
        *(("metric", "1") if t.version == 6 else ()),
    )


@breaks("route")
def better_route_on_another_device(t: Target) -> None:
    via = ("via", t.underlay(3), "dev", "eth0")
    if t.version == 4:
        with t.frozen():
            t.ip("route", "del", t.subnet(2))
            t.ip("route", "add", t.subnet(2), *via)
            t.ip("route", "append", t.subnet(2), "via", t.gateway(2), "dev", t.device, "onlink", "proto", "87")
    else:
        t.ip("route", "add", t.subnet(2), *via, "metric", "1")


@breaks("route")
def route_of_ours_on_another_device(t: Target) -> None:
    t.ip("route", "add", "10.99.0.0/24" if t.version == 4 else "fd99::/64", "dev", "eth0", "proto", "87")


@breaks("route")
def route_of_a_peer_that_is_no_more(t: Target) -> None:
    t.ip("route", "add", t.subnet(9), "via", t.gateway(9), "dev", t.device, "onlink")


@breaks("rules")
def nat_flushed(t: Target) -> None:
    t.node.space.run(t.iptables, "-t", "nat", "-F")


@breaks("rules")
def chain_flushed(t: Target) -> None:
    t.node.space.run(t.iptables, "-t", "nat", "-F", "FLANNEL-POSTRTG")


@breaks("rules")
def forwarding_rules_flushed(t: Target) -> None:
    t.node.space.run(t.iptables, "-F", "FLANNEL-FWD")


@breaks("rules")
def rule_inserted(t: Target) -> None:
    t.node.space.run(t.iptables, "-t", "nat", "-I", "FLANNEL-POSTRTG", "-j", "MASQUERADE")


@breaks("rules")
def rules_out_of_order(t: Target) -> None:
    with t.frozen():
        rules = t.node.space.run(t.iptables, "-t", "nat", "-S", "FLANNEL-POSTRTG").splitlines()
        last = len(rules) - 1  # the first line is the chain's own
        moved = rules[-2].replace("-A FLANNEL-POSTRTG", "-I FLANNEL-POSTRTG 1", 1)
        t.node.space.run(t.iptables, "-t", "nat", "-D", "FLANNEL-POSTRTG", str(last - 1))
        t.node.space.run("sh", "-c", f"{t.iptables} -t nat {moved}")


@breaks("rules")
def jump_deleted(t: Target) -> None:
    comment = ("-m", "comment", "--comment", "flanneld forward")
    t.node.space.run(t.iptables, "-D", "FORWARD", *comment, "-j", "FLANNEL-FWD")


@breaks("sysctl")
def forwarding_switched_off(t: Target) -> None:
    name = "net.ipv4.ip_forward" if t.version == 4 else "net.ipv6.conf.all.forwarding"
    t.node.space.run("sysctl", "-qw", f"{name}=0")


@breaks("sysctl")
def the_devices_own_switch_turned(t: Target) -> None:
    """IPv4: what comes in over it is not forwarded. IPv6: its addresses and routes go, and it takes no others."""
    parameter = "forwarding=0" if t.version == 4 else "disable_ipv6=1"
    t.node.space.run("sysctl", "-qw", f"net/ipv{t.version}/conf/{t.device}/{parameter}")


@breaks("lease", 4)
def own_lease_annotated_wrongly(t: Target) -> None:
    t.world.annotate("node1", public_ip="10.200.0.99", backend_data='{"VNI":1,"VtepMAC":"02:98:98:98:98:98"}')


@breaks("lease", 4)
def own_lease_annotations_removed(t: Target) -> None:
    t.world.annotate("node1", public_ip=None, backend_data=None, backend_type=None, kube_subnet_manager=None)


@breaks("lease", 6)
def own_lease_annotated_wrongly_for_ipv6(t: Target) -> None:
    t.world.annotate("node1", public_ipv6="fd00:200::99", backend_v6_data='{"VNI":1,"VtepMAC":"nonsense"}')
