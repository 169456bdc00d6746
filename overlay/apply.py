"""Carrying the plan's actions out.

Changes of links are made one by one, each with its own answer: what follows hangs on them. All else goes in datagrams of
some 200 messages over one socket, in the order of the plan, and each refusal is matched to its action: what the kernel will
not have is named, the rest is done. Each action says by itself what it means and is harmless when it has been done already,
so a pass may stop anywhere. The device's index is looked up anew after it was made.
"""

import errno
from collections.abc import Sequence

from kube.errors import Retry
from linux import link_changes, links, neighbours, routes, wireguard
from linux.iptables.rules import Family
from linux.netlink import AT_ONCE, GENERIC, Conversation, RefusedError, Request
from linux.turns import gathered
from overlay import devices, observe, plan
from overlay.model import (
    OURS,
    Action,
    AddAddress,
    AdjustDevice,
    CreateDevice,
    DeleteLink,
    DropFdb,
    DropNeighbour,
    DropPeer,
    DropRoute,
    PutFdb,
    PutNeighbour,
    PutPeer,
    PutRoute,
    RemoveAddress,
    Route,
    RouteKind,
    Tunnel,
    Wanted,
)

_KINDS = {
    RouteKind.UNICAST: routes.UNICAST,
    RouteKind.BLACKHOLE: routes.BLACKHOLE,
    RouteKind.UNREACHABLE: routes.UNREACHABLE,
    RouteKind.PROHIBIT: routes.PROHIBIT,
    RouteKind.THROW: routes.THROW,
}
_SHOWN = 3
_PEERS_AT_ONCE = 20
"""The kernel does some 0.1 ms of elliptic curves for each."""

LinkChange = DeleteLink | CreateDevice | AdjustDevice
PeerChange = PutPeer | DropPeer
Entry = AddAddress | RemoveAddress | PutNeighbour | DropNeighbour | PutFdb | DropFdb | PutRoute | DropRoute


class Incomplete(Retry):
    """Some actions were refused; the others are done. `refused` pairs them with the kernel's words."""

    def __init__(self, refused: Sequence[tuple[Action, RefusedError]]) -> None:
        self.refused = tuple(refused)
        words = "; ".join(str(error) for _, error in self.refused[:_SHOWN])
        more = len(self.refused) - _SHOWN
        super().__init__(words + (f"; and {more} more" if more > 0 else ""))


async def apply(ip: Conversation, tunnel: Tunnel, actions: Sequence[Action]) -> None:
    """Carry the actions out. Raises Incomplete, Retry (the device has gone, or cannot be made), OSError."""
    refused: list[tuple[Action, RefusedError]] = []
    device = _Device(ip, tunnel.name)
    waiting: list[Entry | PeerChange] = []
    for action in actions:
        if isinstance(action, LinkChange):
            refused += await _carry_out(ip, device, waiting)
            waiting = []
            _change_link(ip, device, action)
        else:
            waiting.append(action)
    refused += await _carry_out(ip, device, waiting)
    if refused:
        device.check()
        raise Incomplete(refused)


async def forget(ip: Conversation) -> list[Action]:
    """Remove devices, routes and what hangs on them that are ours; what was removed. Needs no memory, may run at any time."""
    everything = Tunnel("", tuple(Family))
    steps = list(plan.actions(Wanted(), await observe.kernel(ip, everything, ())))
    await apply(ip, everything, steps)
    return steps


class _Device:
    """Our device's index, asked for when it is needed, and again after the device was made."""

    def __init__(self, ip: Conversation, name: str) -> None:
        self._ip = ip
        self._name = name
        self._index = 0

    @property
    def index(self) -> int:
        """Raises Retry when there is none."""
        if not self._index:
            self._index = self.link().index
        return self._index

    def link(self) -> links.Link:
        found = links.link(self._ip, self._name) if self._name else None
        if found is None:
            raise Retry(f"{self._name or 'the device'} has gone while it was being set up")
        return found

    def forget(self) -> None:
        self._index = 0

    def check(self) -> None:
        """That refusals are not for the device having gone."""
        if self._index and self.link().index != self._index:
            raise Retry(f"{self._name} was replaced while it was being set up")


async def _carry_out(
    ip: Conversation, device: _Device, actions: Sequence[Entry | PeerChange]
) -> list[tuple[Action, RefusedError]]:
    """In runs over the socket that an action's kind belongs to; what was refused."""
    peers = [one for one in actions if isinstance(one, PeerChange)]
    entries = [one for one in actions if not isinstance(one, PeerChange)]
    # WireGuard's peers before the routes that lead to them, and nothing else of ours hangs on the order of the two.
    refused = await _change_peers(device, peers) if peers else []
    for first in range(0, len(entries), AT_ONCE):
        some = entries[first : first + AT_ONCE]
        for at, error in await gathered(ip.carry_out([_request(one, device) for one in some])):
            route = some[at]
            if error.errno == errno.EINVAL and isinstance(route, PutRoute) and _may_be_in_the_way(route.route):
                refused += await _past_others(ip, device, route)
            else:
                refused.append((route, error))
    return refused


def _may_be_in_the_way(route: Route) -> bool:
    """IPv6 refuses a gateway of which another route says that it is elsewhere."""
    return route.onlink and route.gateway is not None and route.gateway.version == 6


async def _past_others(ip: Conversation, device: _Device, action: PutRoute) -> list[tuple[Action, RefusedError]]:
    found = await gathered(ip.carry_out(routes.put_past_others(_kernel_route(action.route, device))))
    return [(action, error) for at, error in found if at == 1]


def _change_link(ip: Conversation, device: _Device, action: LinkChange) -> None:
    match action:
        case DeleteLink(number, _):
            link_changes.delete_link(ip, number)
            device.forget()
        case CreateDevice(wanted):
            devices.create(ip, wanted)
            device.forget()
        case AdjustDevice(wanted):
            devices.adjust(ip, device.link(), wanted)


async def _change_peers(device: _Device, actions: Sequence[PeerChange]) -> list[tuple[Action, RefusedError]]:
    refused: list[tuple[Action, RefusedError]] = []
    with Conversation(GENERIC) as talk:
        number = devices.wireguard_number(talk)
        for first in range(0, len(actions), _PEERS_AT_ONCE):
            some = actions[first : first + _PEERS_AT_ONCE]
            requests = [_peer_request(one, number, device.index) for one in some]
            refused += [(some[at], error) for at, error in await gathered(talk.carry_out(requests))]
    return refused


def _peer_request(action: PeerChange, number: int, index: int) -> Request:
    match action:
        case PutPeer(one):
            peer = wireguard.Peer(one.key, one.endpoint, one.allowed, one.psk, one.keepalive)
            return wireguard.put_peer(number, index, peer)
        case DropPeer(one):
            return wireguard.drop_peer(number, index, one.key)


def _request(action: Entry, device: _Device) -> Request:
    match action:
        case PutNeighbour(one):
            return neighbours.put_neighbour(device.index, neighbours.Neighbour(one.address, one.mac))
        case PutFdb(entry):
            return neighbours.put_fdb(device.index, entry.mac, entry.remote)
        case PutRoute(route):
            return routes.put_route(_kernel_route(route, device))
        case DropRoute(route):
            return routes.drop_route(_kernel_route(route, device))
        case DropFdb(entry):
            return neighbours.drop_fdb(device.index, entry.mac)
        case DropNeighbour(one):
            return neighbours.drop_neighbour(device.index, one.address)
        case AddAddress(address):
            return links.put_address(address.device or device.index, address.interface)
        case RemoveAddress(address):
            return links.drop_address(address.device or device.index, address.interface)


def _kernel_route(route: Route, device: _Device) -> routes.Route:
    ours = route.device == OURS and route.kind is RouteKind.UNICAST
    return routes.Route(
        route.destination,
        route.gateway,
        device.index if ours else route.device,
        route.onlink,
        route.protocol,
        route.metric,
        _KINDS[route.kind],
        route.plain,
    )
