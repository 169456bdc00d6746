"""The kernel of the plan's tests against the real one: random actions on both; they refuse the same and hold the same."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_interface
from random import Random

import pytest

from kube.errors import Retry
from linux import netns as kernel_netns
from linux.iptables.rules import Family
from linux.netlink import Conversation
from overlay import observe, plan
from overlay.apply import apply
from overlay.drift import words
from overlay.model import (
    METRIC,
    OURS,
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    DropFdb,
    DropNeighbour,
    DropRoute,
    Fdb,
    LocalAddress,
    Neighbour,
    PutFdb,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Route,
    RouteKind,
    Seen,
    host,
)
from tests.conftest import Netns
from tests.requirements import requires
from tests.unit.overlay import kernel, nodes
from tests.unit.overlay.nodes import BACKENDS, VXLAN

requires("root", "netns", "ip")

_ELSEWHERE = 77
"""Index of an interface that is not the underlay's."""


def wired(space: Netns, family: Family) -> None:
    """Two interfaces on which all hosts of the underlay are neighbours."""
    for index, name in ((nodes.UNDERLAY, "eth1"), (_ELSEWHERE, "eth7")):
        space.run("ip", "link", "add", name, "index", str(index), "type", "veth", "peer", "name", f"{name}p")
        address = f"{nodes.host(1, family)}/{24 if family is Family.V4 else 64}"
        space.run("ip", "addr", "add", address, "dev", name, *(("nodad",) if family is Family.V6 else ()))
        for one in (name, f"{name}p"):
            space.run("ip", "link", "set", one, "up")


def pool(family: Family) -> list[Action]:
    """Actions that the plan takes, and what others do."""
    wish = nodes.wanted([nodes.lease(number, family) for number in (2, 3)], family=family)
    device = nodes.vxlan_device(wish)
    metric = METRIC[family]
    gateways = [nodes.subnet(number, family).network_address for number in (1, 2, 3)]
    width = 24 if family is Family.V4 else 64
    addresses = [
        LocalAddress(each, where)
        for one in gateways
        for each in (host(one), ip_interface(f"{one}/{width}"))
        for where in (OURS, _ELSEWHERE)
    ]
    routes = [
        *wish.routes,
        *(replace(route, protocol=3) for route in wish.routes),
        *(Route(route.destination, nodes.host(9, family), _ELSEWHERE, metric=metric) for route in wish.routes),
        *(Route(route.destination, nodes.host(8, family), nodes.UNDERLAY, metric=metric) for route in wish.routes),
        *(Route(route.destination, None, metric=metric, kind=RouteKind.BLACKHOLE) for route in wish.routes),
        *(Route(route.destination, nodes.host(9, family), _ELSEWHERE, metric=50, protocol=4) for route in wish.routes),
    ]
    neighbours = [*wish.neighbours, Neighbour(gateways[1], nodes.mac(9))]
    fdb = [*wish.fdb, Fdb(nodes.mac(2), nodes.host(9, family)), Fdb(nodes.mac(9), nodes.host(3, family))]
    plain: list[Action] = [CreateDevice(device), DeleteLink(0, device.name)]
    plain += [AdjustDevice(each) for each in (device, replace(device, mtu=1400), replace(device, mac=nodes.mac(0xFE)))]
    for address in addresses:
        plain += [AddAddress(address), RemoveAddress(address)]
    for route in routes:
        plain += [PutRoute(route), DropRoute(route)]
    for neighbour in neighbours:
        plain += [PutNeighbour(neighbour)] * 3 + [DropNeighbour(neighbour)]
    for entry in fdb:
        plain += [PutFdb(entry)] * 3 + [DropFdb(entry)]
    return plain


def meant(action: Action, seen: Seen) -> Action:
    """A link is deleted by the index that it has here."""
    index = seen.device.index if seen.device else 0
    return DeleteLink(index, action.name) if isinstance(action, DeleteLink) else action


def unsaid(seen: Seen, action: Action) -> bool:
    """What the fake does not know: which of two equal routes is the first; and what no plan does: anything on a device that is
    not there."""
    if seen.device is None and not isinstance(action, CreateDevice) and on_ours(action):
        return True
    match action:
        case PutRoute(route):
            return sum((one.destination, one.metric) == (route.destination, route.metric) for one in seen.routes) > 1
        case DropRoute(route):
            return sum(one.destination == route.destination for one in seen.routes) > 1
        case CreateDevice():
            return seen.device is not None
        case _:
            return False


def on_ours(action: Action) -> bool:
    match action:
        case AddAddress(address) | RemoveAddress(address):
            return address.device == OURS
        case PutRoute(route) | DropRoute(route):
            return route.device == OURS and route.kind is RouteKind.UNICAST
        case _:
            return True


def indexless(seen: Seen) -> Seen:
    return replace(seen, device=replace(seen.device, index=0) if seen.device else None)


def differences(one: Seen, other: Seen) -> Sequence[str]:
    names = ("device", "addresses", "neighbours", "fdb", "routes")
    return [
        f"{name}: {getattr(one, name)}\n    {getattr(other, name)}"
        for name in names
        if getattr(one, name) != getattr(other, name)
    ]


@pytest.mark.parametrize("family", Family)
def test_the_plans_kernel_is_like_the_real_one(
    netns: Callable[[str], Netns], family: Family, trial: Callable[[int, int], int]
) -> None:
    space = netns("fake")
    wired(space, family)
    kernel_netns.call(space.path, lambda: asyncio.run(walk(family, trial(500, 20_000))))


async def walk(family: Family, length: int) -> None:
    tunnel, random, actions, told = nodes.tunnel(nodes.VXLAN, family), Random(int(family)), pool(family), list[str]()
    with Conversation() as ip:
        fake = real = await observe.kernel(ip, tunnel, (nodes.PODS[family],))
        while len(told) < length:
            action = random.choice(actions)
            if unsaid(fake, action):
                continue
            try:
                after, refusal = kernel.after(fake, meant(action, fake)), ""
            except kernel.Refused as error:
                after, refusal = fake, str(error)
            except AssertionError:
                continue  # a step that no plan takes
            against = ""
            try:
                await apply(ip, tunnel, [meant(action, real)])
            except (Retry, OSError) as error:
                against = str(error)
            told.append(f"{words(action)}: {against or 'done'}")
            story = "\n".join(told[-12:])
            assert bool(against) == bool(refusal), f"fake: {refusal or 'done'}; real: {against or 'done'}\n{story}"
            fake, real = after, await observe.kernel(ip, tunnel, (nodes.PODS[family],))
            wrong = differences(indexless(fake), indexless(real))
            assert not wrong, f"{wrong}\n(fake first, then real)\n{story}"


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", ["vxlan", "vxlan+direct", "host-gw"])
def test_the_plan_reaches_its_end_in_the_real_one(
    netns: Callable[[str], Netns], backend: str, family: Family, trial: Callable[[int, int], int]
) -> None:
    space = netns("real")
    wired(space, family)
    kernel_netns.call(space.path, lambda: asyncio.run(mended(backend, family, trial(15, 500))))


async def mended(backend: str, family: Family, rounds: int) -> None:
    """Each round does a dozen random things, and then what the plan says until it has no more to say: three passes at most."""
    settings, random, actions = BACKENDS[backend], Random(f"{backend}{int(family)}"), pool(family)
    tunnel = nodes.tunnel(settings, family)
    with Conversation() as ip:
        for _ in range(rounds):
            for action in random.choices(actions, k=12):
                seen = await observe.kernel(ip, nodes.tunnel(VXLAN, family), (nodes.PODS[family],))
                with contextlib.suppress(Retry, OSError):
                    await apply(ip, nodes.tunnel(VXLAN, family), [meant(action, seen)])
            seen = await observe.kernel(ip, tunnel, (nodes.PODS[family],))
            # The wish leaves out in whose subnet another interface has an address that leads somewhere.
            held = [one.interface.ip for one in seen.addresses if one.device != OURS and not one.leads_nowhere]
            peers = [
                peer
                for peer in (nodes.lease(n, family, settings) for n in random.sample([2, 3, 4], random.randint(0, 3)))
                if not any(ip in peer.subnet for ip in held)
            ]
            near = [2, 3, 4] if backend == "host-gw" else random.sample([2, 3, 4], random.randint(0, 3))
            wanted = nodes.wished(peers, settings, family, direct=near, blackhole=random.random() < 0.5).wanted
            told = list[str]()
            for _ in range(3):
                seen = await observe.kernel(ip, tunnel, (nodes.PODS[family],))
                steps = list(plan.actions(wanted, seen))
                if not steps:
                    break
                told += [words(step) for step in steps] + ["--"]
                await apply(ip, tunnel, steps)
            seen = await observe.kernel(ip, tunnel, (nodes.PODS[family],))
            assert not list(plan.actions(wanted, seen)), "\n".join(told)
            for peer in peers:
                assert kernel.way(seen, peer.subnet) == peer.public_ip, "\n".join(told)
