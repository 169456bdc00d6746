"""Whatever is done to a node's overlay by hand, some passes later the kernel is as it was wanted, and says so: chance picks the
damage, among all that iproute2 can do to our device and around it."""

import random
import shlex
from collections.abc import Callable

import pytest

from linux.iptables.rules import Family
from overlay.apply import Incomplete, apply
from overlay.model import DEVICE_ALIAS, Action, Tunnel, Wanted
from tests.conftest import Netns
from tests.node.peers_world import NAMES, UNDER, PeersWorld, entries, look, subnet, tunnel_of
from tests.requirements import requires

requires("root", "netns", "nsenter", "ip", "bridge")

PEERS = 6
PASSES = 4
"""The second finds what the kernel took along with what the first removed; more than four would be a fight."""


class Vandal:
    """Does one thing at a time; what the kernel refuses is no damage."""

    def __init__(self, world: PeersWorld, family: Family, chance: random.Random) -> None:
        self._world, self._family, self._chance = world, family, chance
        self._flag, self._name = f"-{family.value}", NAMES[family]
        self._under = [str(UNDER[family] + number) for number in (7, 8, 1000 + 1, 1000 + 2)]
        self._deeds: list[Callable[[], str]] = [
            self._device, self._device, self._route, self._route, self._route, self._neighbour, self._fdb, self._address
        ]  # fmt: skip

    def strike(self) -> str:
        words = self._chance.choice(self._deeds)()
        for line in words.split(";"):
            self._world.space.run(*shlex.split(line), check=False)
        return words

    def _peer(self) -> int:
        return self._chance.randint(0, PEERS + 1)

    def _pods(self) -> str:
        """A peer's subnet, a piece of it, or all of them."""
        found = subnet(self._family, self._peer())
        kind = self._chance.random()
        if kind < 0.6:
            return str(found)
        if kind < 0.9:
            return f"{found.network_address + self._chance.randint(0, 3)}"
        return str(found.supernet(4))

    def _device(self) -> str:
        name = self._name
        return self._chance.choice(
            [
                f"ip link del {name}",
                f"ip link set {name} down",
                f"ip link set {name} down;ip link set {name} up",
                f"ip link set {name} address 02:aa:00:00:00:01",
                f"ip link set {name} mtu 1300",
                f"ip link set {name} alias somebody",
                # Without alias and name nobody could know it again.
                f"ip link set {name} alias '{DEVICE_ALIAS}' down;ip link set {name} name stolen",
                f"ip link del {name};ip link add {name} type bridge",
                f"ip link del {name};ip link add {name} type vxlan id 9 dstport 4789 dev eth0;ip link set {name} up",
                f"ip link add stray type vxlan id 77 dstport 4790 dev eth0;ip link set stray alias '{DEVICE_ALIAS}'",
            ]
        )

    def _route(self) -> str:
        device = self._chance.choice([self._name, "eth0"])
        how = self._chance.choice(
            [
                f"via {self._chance.choice(self._under)} dev eth0",
                f"dev {device}",
                f"dev {device} proto 87",
                f"dev {device} metric {self._chance.choice([1, 5, 1024, 2000])}",
                f"via {subnet(self._family, self._peer()).network_address} dev {self._name} onlink",
                f"via {subnet(self._family, self._peer()).network_address} dev {self._name} onlink proto 87 metric 7",
            ]
        )
        kind = self._chance.choice(["", "", "", "blackhole", "unreachable", "throw"])
        verb = self._chance.choice(["add", "add", "replace", "append", "del"])
        metric = self._chance.choice(["", " metric 1"])
        where = metric if kind else f" {how}"
        return f"ip {self._flag} route {verb} {kind} {self._pods()}{where}"

    def _neighbour(self) -> str:
        address = subnet(self._family, self._peer()).network_address
        return self._chance.choice(
            [
                f"ip {self._flag} neigh del {address} dev {self._name}",
                f"ip {self._flag} neigh replace {address} lladdr 02:bb:00:00:00:01 dev {self._name} nud permanent",
                f"ip {self._flag} neigh change {address} dev {self._name} lladdr 02:bb:00:00:00:02 nud reachable",
                f"ip {self._flag} neigh flush dev {self._name} nud all",
                f"ip {self._flag} neigh add {address + 9} lladdr 02:bb:00:00:00:03 dev {self._name} nud permanent",
            ]
        )

    def _fdb(self) -> str:
        mac = entries(self._family, self._peer())[1].mac
        host = self._chance.choice(self._under)
        return self._chance.choice(
            [
                f"bridge fdb del {mac} dev {self._name} self",
                f"bridge fdb replace {mac} dev {self._name} dst {host} self permanent",
                f"bridge fdb replace {mac} dev {self._name} dst {host} port 4790 self permanent",
                f"bridge fdb replace {mac} dev {self._name} dst {host} self dynamic",
                f"bridge fdb append 00:00:00:00:00:00 dev {self._name} dst {host} self permanent",
                f"bridge fdb add 02:cc:00:00:00:01 dev {self._name} dst {host} self permanent",
            ]
        )

    def _address(self) -> str:
        own = subnet(self._family, 0).network_address
        device = self._chance.choice([self._name, "eth0", "lo"])
        address = self._chance.choice([own, own + 5, subnet(self._family, self._peer()).network_address])
        length = self._chance.choice([own.max_prefixlen, 24 if self._family is Family.V4 else 64])
        if address not in (own, own + 5) and device != self._name:
            device, length = "lo", own.max_prefixlen  # elsewhere it would be the peer that is left out
        verb = self._chance.choice(["add", "add", "del", "flush"])
        if verb == "flush":
            return f"ip {self._flag} addr flush dev {self._name}"
        return f"ip {self._flag} addr {verb} {address}/{length} dev {device}"


@pytest.mark.parametrize("family", list(Family), ids=["v4", "v6"])
def test_random_damage_is_mended(
    netns: Callable[[str], Netns],
    trial: Callable[[int, int], int],
    family: Family,
    record_property: Callable[..., None],
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    record_property("seed", seed)
    world, chance = PeersWorld(netns("fuzz")), random.Random(seed)
    wanted, tunnel = world.wanted(family, PEERS), tunnel_of(family)
    world.make_true(wanted, tunnel)
    foreign = f"ip -{family.value} route add {UNDER[family] + 77}/{32 if family is Family.V4 else 128} dev eth0"
    world.space.run(*foreign.split())
    vandal = Vandal(world, family, chance)
    told: list[str] = []
    for _ in range(trial(60, 3000)):
        told = told[-20:] + [vandal.strike() for _ in range(chance.randint(1, 4))]
        left = settled(world, wanted, tunnel)
        assert not left, f"seed {seed}: after {told}\nthese steps are left: {left}"
        assert world.json("ip", "-j", f"-{family.value}", "route", "show", str(UNDER[family] + 77)), (
            f"seed {seed}: {told}"
        )


def settled(world: PeersWorld, wanted: Wanted, tunnel: Tunnel) -> list[Action]:
    """The steps that are still to be taken after so many passes."""
    for _ in range(PASSES):
        steps = world.steps(wanted, tunnel)
        if not steps:
            return []
        try:
            world.do(lambda ip, steps=steps: apply(ip, tunnel, steps))  # type: ignore[misc]
        except Incomplete:
            continue  # named, and tried again
    return world.do(lambda ip: look(ip, wanted, tunnel))
