"""Carrying the plan's actions out, one netlink request each, and forgetting everything that is ours.

Each action says by itself what it means and is harmless when it has been done already, so a pass may stop anywhere. The
device's index is looked up anew after it was made.
"""

from collections.abc import Iterable
from ipaddress import IPv4Interface
from pathlib import Path

from kube.errors import Retry
from linux import links, neighbours, routes
from linux.iptables import backend
from linux.iptables.restore import Iptables, Refused
from linux.iptables.rules import Family
from linux.netlink import Netlink, open_netlink
from linux.process import CommandFailed
from overlay import drift, masquerade, observe, plan, subnetenv
from overlay.model import (
    DEVICE_ALIAS,
    ROUTE_PROTOCOL,
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    Device,
    DropFdb,
    DropNeighbour,
    DropRoute,
    DropStrayRoute,
    PutFdb,
    PutNeighbour,
    PutRoute,
    RemoveAddress,
    Route,
)


async def apply(ip: Netlink, name: str, actions: Iterable[Action]) -> None:
    """Carry the actions out on the device `name`; raises OSError naming what the kernel refused."""
    index = 0
    for action in actions:
        if not index and not isinstance(action, DeleteLink | CreateDevice | DropStrayRoute):
            index = await _index(ip, name)
        await _carry_out(ip, index, action)
        if isinstance(action, DeleteLink | CreateDevice):
            index = 0


async def _carry_out(ip: Netlink, index: int, action: Action) -> None:
    match action:
        case DeleteLink(number, _):
            await links.delete_link(ip, number)
        case CreateDevice(device):
            vxlan = links.Vxlan(device.vni, device.port, device.underlay, device.local)
            await links.create_vxlan(ip, device.name, vxlan, mac=device.mac, mtu=device.mtu)
        case AdjustDevice(device):
            await _adjust(ip, index, device)
        case AddAddress(address):
            await links.add_address(ip, index, IPv4Interface((address, 32)))
        case RemoveAddress(interface):
            await links.delete_address(ip, index, interface)
        case PutNeighbour(one):
            await neighbours.replace_neighbour(ip, index, neighbours.Neighbour(one.address, one.mac))
        case PutFdb(entry):
            await neighbours.replace_fdb(ip, index, neighbours.FdbEntry(entry.mac, entry.remote))
        case PutRoute(route):
            await routes.replace_route(ip, _kernel_route(route, index))
        case DropRoute(route):
            await routes.delete_route(ip, _kernel_route(route, index))
        case DropStrayRoute(stray):
            route_there = routes.Route(
                stray.destination,
                stray.gateway,
                stray.index,
                onlink=False,
                protocol=ROUTE_PROTOCOL,
                metric=stray.metric,
            )
            await routes.delete_route(ip, route_there)
        case DropFdb(entry):
            await neighbours.delete_fdb(ip, index, neighbours.FdbEntry(entry.mac, entry.remote))
        case DropNeighbour(one):
            await neighbours.delete_neighbour(ip, index, neighbours.Neighbour(one.address, one.mac))


async def _adjust(ip: Netlink, index: int, device: Device) -> None:
    """Only what differs: writing a MAC, even the same, makes the kernel forget the device's neighbours."""
    seen = await links.link_at(ip, index)
    if seen is None:
        raise Retry(f"{device.name} has gone while it was being set up")
    if seen.mac != device.mac:
        await links.change_link(ip, index, mac=device.mac)
    if seen.mtu != device.mtu:
        await links.change_link(ip, index, mtu=device.mtu)
    if seen.alias != DEVICE_ALIAS:
        await links.change_link(ip, index, alias=DEVICE_ALIAS)
    if not seen.up:
        await links.change_link(ip, index, up=True)


async def _index(ip: Netlink, name: str) -> int:
    link = await links.link(ip, name)
    if link is None:
        raise Retry(f"{name} has gone while it was being set up")
    return link.index


def _kernel_route(route: Route, index: int) -> routes.Route:
    return routes.Route(route.destination, route.gateway, index, route.onlink, route.protocol, route.metric)


async def forget(subnet_file: Path) -> list[str]:
    """Remove device, routes, rules and subnet file; what was removed, in words. Needs no memory, may run at any time."""
    done: list[str] = []
    async with open_netlink() as ip:
        steps = list(plan.removals(await observe.kernel(ip, "")))
        await apply(ip, "", steps)
    done += [drift.words(step) for step in steps]
    try:
        rules = Iptables(await backend.detect(Family.V4))
        if await masquerade.remove(rules):
            done.append("removed the FLANNEL chains")
    except backend.Unusable:
        pass  # no iptables: no rules of ours
    except (Refused, CommandFailed) as error:
        raise Retry(f"cannot remove the FLANNEL chains: {error}") from error
    if subnetenv.remove(subnet_file):
        done.append(f"removed {subnet_file}")
    return done
