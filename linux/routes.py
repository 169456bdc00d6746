"""IPv4 routes of the main table, and the question which way an address lies.

The protocol number says who set a route (rtnetlink(7): 2 the kernel, 3 `ip route`, 4 an administrator, ...; the system's
names are in /etc/iproute2/rt_protos). A daemon with a number of its own finds its routes again on any device.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from linux.netlink import Netlink, absent, attempting, dump

MAIN = 254
_ONLINK = 4  # RTNH_F_ONLINK
_UNICAST = 1
_LOCAL = 2
_ANY_SCOPE = 255  # RT_SCOPE_NOWHERE; in a deletion it matches every scope


@dataclass(frozen=True, slots=True)
class Route:
    """`onlink`: take the gateway as a neighbour on `device` although no address of the device covers it."""

    destination: IPv4Network
    gateway: IPv4Address | None
    device: int
    onlink: bool
    protocol: int
    metric: int = 0

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via} dev {self.device}{' onlink' if self.onlink else ''}"


@dataclass(frozen=True, slots=True)
class Path:
    """Which way the kernel would send: `local` when the address is this machine's own."""

    device: int
    source: IPv4Address | None
    gateway: IPv4Address | None
    local: bool


async def routes(ip: Netlink, *, device: int | None = None, protocol: int | None = None) -> list[Route]:
    """Unicast routes of the main table, by device or by who set them; the kernel filters."""
    selection = {key: value for key, value in (("oif", device), ("proto", protocol)) if value is not None}
    ask = dump(f"list the routes {selection}", lambda: ip.route("dump", family=2, table=MAIN, **selection))
    return [
        Route(
            destination=IPv4Network(f"{message.get('dst') or '0.0.0.0'}/{message['dst_len']}"),
            gateway=IPv4Address(message.get("gateway")) if message.get("gateway") else None,
            device=int(message.get("oif") or 0),
            onlink=bool(message["flags"] & _ONLINK),
            protocol=int(message["proto"]),
            metric=int(message.get("priority") or 0),
        )
        for message in await ask
        if message["type"] == _UNICAST
        and message.get("table") in (None, MAIN)
        and message["table"] in (0, MAIN)
        and (device is None or message.get("oif") == device)
        and (protocol is None or message["proto"] == protocol)
    ]


async def replace_route(ip: Netlink, route: Route) -> None:
    """Set a route, in the place of any with the same destination and metric."""
    with attempting(f"set the route {route}"):
        await ip.route(
            "replace",
            dst=str(route.destination),
            oif=route.device,
            proto=route.protocol,
            table=MAIN,
            flags=_ONLINK if route.onlink else 0,
            scope=0 if route.gateway else 253,
            **_optional(route),
        )


async def delete_route(ip: Netlink, route: Route) -> None:
    with absent(errno.ESRCH, errno.ENODEV), attempting(f"delete the route {route}"):
        await ip.route(
            "del",
            dst=str(route.destination),
            oif=route.device,
            proto=route.protocol,
            table=MAIN,
            scope=_ANY_SCOPE,
            **_optional(route),
        )


async def path_to(ip: Netlink, address: IPv4Address) -> Path | None:
    """The kernel's route to an address; None when there is none."""
    with absent(errno.ENETUNREACH, errno.EHOSTUNREACH), attempting(f"look up the route to {address}"):
        message = (await ip.route("get", dst=str(address)))[0]
        source, gateway = message.get("prefsrc"), message.get("gateway")
        return Path(
            device=int(message.get("oif") or 0),
            source=IPv4Address(source) if source else None,
            gateway=IPv4Address(gateway) if gateway else None,
            local=message["type"] == _LOCAL,
        )
    return None


def _optional(route: Route) -> dict[str, object]:
    found: dict[str, object] = {}
    if route.gateway:
        found["gateway"] = str(route.gateway)
    if route.metric:
        found["priority"] = route.metric
    return found
