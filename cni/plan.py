"""What a pod gets, decided in values.

    pod namespace            this namespace
    eth0  10.244.1.7/24 ==== veth<hash> --- cni0  10.244.1.1/24 --- (routes, the overlay's device)
    default via 10.244.1.1

Three names are computed instead of remembered, so that any later process finds what an earlier one left: the host's end
of the pair is a hash of (container, interface), the pod's MAC is 0a:58 and its address, the bridge's MAC 0a:58 and its first
gateway's. A MAC that follows the address also spares the neighbours' caches when an address comes round again.
"""

from __future__ import annotations

from _blake2 import blake2b

from cni.model import Layout, parse_interface, subnet_of
from cni.spec import INVALID_CONFIGURATION, Address, CniError, Interface, Result, Route
from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cni.call import Call
    from cni.model import Bridge, Seen

DEFAULTS = {4: "0.0.0.0/0", 16: "::/0"}
_LONGEST_ALIAS = 255


def host_link(container: str, ifname: str) -> str:
    """The name of the host's end: 44 bits of hash, so that a node's worth of pods never collides by chance."""
    return "veth" + blake2b(f"{container}\0{ifname}".encode(), digest_size=8).hexdigest()[:11]


def alias(network: str, container: str = "", ifname: str = "") -> str:
    """What is written on the host's end, so that GC knows whose it is; "" where it does not fit."""
    said = f"wherry cni {network} {container} {ifname}" if container else f"wherry cni {network} "
    return said if len(said) <= _LONGEST_ALIAS else ""


def holder(network: str, said: str) -> tuple[str, str] | None:
    """The (container, interface) that the alias of a host's end names, None where it is not of this network."""
    head = alias(network)
    words = said[len(head) :].split(" ") if head and said.startswith(head) else []
    return (words[0], words[1]) if len(words) == 2 else None


def mac_of(address: bytes) -> bytes:
    """A locally administered MAC that says the address, or the last four bytes of IPv6's."""
    return b"\x0a\x58" + address[-4:]


def layout(wanted: Bridge, given: Result) -> Layout:
    """What the addresses that IPAM gave come to on this bridge."""
    addresses = []
    gateways: list[tuple[bytes, int]] = []
    routes = list(given.routes)
    for each in given.addresses:
        address, length = parse_interface(each.address)
        subnet = subnet_of(address, length)
        gateway = packed(each.gateway) if each.gateway else b""
        if not gateway and wanted.gateway:
            gateway = subnet.packed(subnet.network + 1)
        if wanted.default_route:
            default = DEFAULTS[len(address)]
            if not any(route.destination == default and route.gateway for route in routes):
                routes = [route for route in routes if route.destination != default]
                routes.append(Route(default, unpacked(gateway)))
        if wanted.gateway and (gateway, length) not in gateways:
            gateways.append((gateway, length))
        addresses.append((address, length, gateway))
    return Layout(addresses, gateways, routes)


def ways(found: Layout) -> list[Route]:
    """The routes as the pod's kernel is told them: one that names no gateway goes by its family's, where there is one."""
    by_family = {len(address): gateway for address, _, gateway in found.addresses if gateway}
    told = []
    for each in found.routes:
        family = len(packed(each.destination.partition("/")[0]))
        gateway = each.gateway or (unpacked(by_family[family]) if family in by_family else "")
        told.append(Route(each.destination, gateway, each.more))
    return told


def result(wanted: Bridge, found: Layout, interfaces: Sequence[Interface], given: Result) -> Result:
    """What the runtime is told; the container's interface is the third."""
    addresses = [
        Address(f"{unpacked(address)}/{length}", unpacked(gateway) if gateway else "", 2)
        for address, length, gateway in found.addresses
    ]
    return Result(interfaces, addresses, found.routes, wanted.dns or given.dns)


def attached(call: Call, previous: Result, wanted: Bridge) -> tuple[Interface | None, Interface | None, Interface]:
    """(bridge, host's end, container's end) as the ADD's result names them."""
    inner = [each for each in previous.interfaces if each.sandbox and each.name == call.ifname]
    outer = [each for each in previous.interfaces if not each.sandbox]
    if not inner:
        raise CniError(INVALID_CONFIGURATION, f"prevResult names no interface {call.ifname} in the container")
    if inner[0].sandbox != call.netns:
        raise CniError(INVALID_CONFIGURATION, f"prevResult is of {inner[0].sandbox}, not of {call.netns}")
    bridge = next((each for each in outer if each.name == wanted.name), None)
    host = next((each for each in outer if each.name == host_link(call.container, call.ifname)), None)
    return bridge, host or next((each for each in outer if each is not bridge), None), inner[0]


def differences(call: Call, wanted: Bridge, previous: Result, seen: Seen) -> list[str]:
    """Everything by which the pod's wiring is not what its ADD made it, as sentences; empty when it is."""
    bridge, host, inner = attached(call, previous, wanted)
    name = host.name if host is not None else host_link(call.container, call.ifname)
    there = seen.master is not None
    found = {
        f"bridge {wanted.name} is missing": seen.bridge_mac is None,
        f"bridge {wanted.name} has another MAC than {bridge.mac if bridge else ''}": bool(bridge and bridge.mac)
        and seen.bridge_mac not in {None, bridge.mac if bridge else ""},
        f"host link {name} is missing": not there,
        f"host link {name} is not on bridge {wanted.name}": seen.master not in {None, wanted.name},
        f"host link {name} is down": there and not seen.host_up,
        f"host link {name} is not in hairpin mode": there and wanted.hairpin and not seen.hairpin,
        f"host link {name} is not isolated": there and wanted.isolated and not seen.isolated,
        f"{call.ifname} is missing in the container": seen.container_up is None,
        f"{call.ifname} is down in the container": seen.container_up is False and not wanted.down,
        f"{call.ifname} has another MAC than {inner.mac}": bool(inner.mac and seen.container_mac)
        and inner.mac.lower() != seen.container_mac,
    }
    given = layout(wanted, Result((), previous.of_container(), previous.routes))
    for gateway, length in given.gateways if not wanted.vlan else ():
        text = f"{unpacked(gateway)}/{length}"
        found[f"bridge {wanted.name} lacks its address {text}"] = text not in seen.gateways
    if seen.container_up is not None:
        for address, length, _ in given.addresses:
            text = f"{unpacked(address)}/{length}"
            found[f"{call.ifname} lacks its address {text}"] = text not in seen.addresses
        for each in ways(given):
            entry = (each.destination, each.gateway, each.more.get("table", 254))
            found[f"the route to {each.destination} via {each.gateway or call.ifname} is missing"] = (
                entry not in seen.routes
            )
    return [sentence for sentence, differs in found.items() if differs]
