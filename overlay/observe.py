"""What the kernel has, as values."""

from linux import links, neighbours, routes
from linux.netlink import Netlink
from overlay.model import (
    DEVICE_ALIAS,
    ROUTE_PROTOCOL,
    Device,
    Fdb,
    Neighbour,
    Route,
    Seen,
    SeenDevice,
    StrayRoute,
)


async def kernel(ip: Netlink, name: str) -> Seen:
    """Everything of ours: the device of this name and what hangs on it, devices with our alias, routes with our number.

    With an empty name no device is the one, and all of ours are strays.
    """
    tunnels = await links.links_of_kind(ip, "vxlan")
    strays = tuple((link.index, link.name) for link in tunnels if link.alias == DEVICE_ALIAS and link.name != name)
    link = await links.link(ip, name) if name else None
    numbered = await routes.routes(ip, protocol=ROUTE_PROTOCOL)
    stray_routes = tuple(
        StrayRoute(route.destination, route.gateway, route.device, route.metric)
        for route in numbered
        if link is None or route.device != link.index
    )
    if link is None:
        return Seen(strays=strays, stray_routes=stray_routes)
    return Seen(
        device=_seen_device(link),
        strays=strays,
        stray_routes=stray_routes,
        addresses=frozenset(one.interface for one in await links.addresses(ip, link.index)),
        neighbours=frozenset(Neighbour(one.address, one.mac) for one in await neighbours.neighbours(ip, link.index)),
        fdb=frozenset(Fdb(one.mac, one.remote, one.plain) for one in await neighbours.fdb_entries(ip, link.index)),
        routes=frozenset(
            Route(one.destination, one.gateway, one.onlink, one.protocol, one.metric)
            for one in await routes.routes(ip, device=link.index)
        ),
    )


def _seen_device(link: links.Link) -> SeenDevice:
    vxlan, device = link.vxlan, None
    if vxlan is not None and vxlan.local is not None and not vxlan.learning and not vxlan.options:
        device = Device(link.name, vxlan.vni, vxlan.port, vxlan.underlay, vxlan.local, link.mtu, link.mac)
    return SeenDevice(link.index, device, link.up, link.alias == DEVICE_ALIAS)
