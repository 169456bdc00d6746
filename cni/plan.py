"""What a pod gets, decided in values.

    pod namespace            this namespace
    eth0  10.244.1.7/24 ==== veth<hash> --- cni0  10.244.1.1/24 --- (routes, the overlay's device)
    default via 10.244.1.1

Three names are computed instead of remembered, so that any later process finds what an earlier one left: the host's end
of the pair is a hash of (container, interface), the pod's MAC is 0a:58 and its address, the bridge's MAC 0a:58 and the
gateway's. A MAC that follows the address also spares the neighbours' caches when an address comes round again.

Addresses are handed out round robin: a freed one rests until the range has been walked once, so that replies to the dead
pod do not reach a living one.
"""

from __future__ import annotations

from _blake2 import blake2b
from itertools import chain

from cni.model import Attachment, address_text
from cni.spec import Address, Interface, Result, Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from cni.call import Call
    from cni.model import Config, Lease, Seen, Subnet


def free_address(subnet: Subnet, taken: Container[int], last: int | None) -> int | None:
    """The next address after ``last`` that nobody holds, going round once; None when all are held.

    The network's own, the gateway's and the broadcast address are nobody's to hold.
    """
    first, end = subnet.network + 2, subnet.broadcast
    start = last + 1 if last is not None and first <= last < end - 1 else first
    for address in chain(range(start, end), range(first, start)):
        if address not in taken:
            return address
    return None


def host_link(container: str, ifname: str) -> str:
    """The name of the host's end: 44 bits of hash, so that a node's worth of pods never collides by chance."""
    return "veth" + blake2b(f"{container}\0{ifname}".encode(), digest_size=8).hexdigest()[:11]


def mac_of(address: int) -> bytes:
    """A locally administered MAC that says the address."""
    return b"\x0a\x58" + address.to_bytes(4, "big")


def attachment(config: Config, lease: Lease, call: Call, address: int) -> Attachment:
    """The pod's whole wiring."""
    gateway = lease.subnet.gateway if config.gateway else 0
    routes = [Route(each.destination, each.gateway or _via(gateway)) for each in config.routes]
    if lease.network is not None and gateway:
        routes.append(Route(str(lease.network), _via(gateway)))
    if config.default_route:
        routes.append(Route("0.0.0.0/0", _via(gateway)))
    return Attachment(
        bridge=config.bridge,
        host=host_link(call.container, call.ifname),
        ifname=call.ifname,
        address=address,
        length=lease.subnet.length,
        mac=mac_of(address),
        mtu=lease.mtu,
        gateway=gateway,
        hairpin=config.hairpin,
        routes=list({each.destination: each for each in routes}.values()),
    )


def result(config: Config, call: Call, wanted: Attachment, bridge_mac: str, host_mac: str) -> Result:
    """What the runtime is told."""
    interfaces = (
        Interface(wanted.bridge, bridge_mac),
        Interface(wanted.host, host_mac),
        Interface(wanted.ifname, wanted.mac.hex(":"), call.netns),
    )
    address = Address(f"{address_text(wanted.address)}/{wanted.length}", _via(wanted.gateway), 2)
    return Result(interfaces, [address], wanted.routes, config.dns)


def differences(wanted: Attachment, seen: Seen) -> list[str]:
    """Everything by which the pod's wiring is not what its ADD made it, as sentences; empty when it is."""
    address = f"{address_text(wanted.address)}/{wanted.length}"
    gateway = f"{address_text(wanted.gateway)}/{wanted.length}"
    routes = set(seen.routes)
    found = {
        f"address {address_text(wanted.address)} is not reserved for the container": wanted.address
        not in seen.reserved,
        f"bridge {wanted.bridge} lacks its address {gateway}": bool(wanted.gateway) and gateway not in seen.gateways,
        f"host link {wanted.host} is missing": seen.master is None,
        f"host link {wanted.host} is not on bridge {wanted.bridge}": seen.master not in {None, wanted.bridge},
        f"host link {wanted.host} is down": seen.master is not None and not seen.host_up,
        f"host link {wanted.host} is not in hairpin mode": seen.master is not None
        and wanted.hairpin
        and not seen.hairpin,
        f"{wanted.ifname} is missing in the container": seen.container_up is None,
        f"{wanted.ifname} is down in the container": seen.container_up is False,
    }
    if seen.container_up is not None:
        found[f"{wanted.ifname} lacks its address {address}"] = address not in seen.addresses
        for each in wanted.routes:
            missing = (each.destination, each.gateway) not in routes
            found[f"the route to {each.destination} via {each.gateway or wanted.ifname} is missing"] = missing
    return [sentence for sentence, differs in found.items() if differs]


def _via(gateway: int) -> str:
    return address_text(gateway) if gateway else ""
