"""Carries one attachment to a bridge into the kernel and out of it.

Every step finds by name what an earlier process may have left and goes on from there: the runtime's DEL removes by name. The
pair is created with its pod end in the pod's namespace already, and that end goes with the namespace, so nothing outlives the
pod even if no DEL ever comes.

Order, as the reference plugin's: bridge, pair, (addresses are asked for), pod's addresses and routes, gateway on the bridge.
"""

from __future__ import annotations

import errno
import os
import time

from cni import plan
from cni.model import Seen, subnet_of
from cni.removal import remove
from cni.spec import (
    ALREADY_ATTACHED,
    INVALID_CONFIGURATION,
    INVALID_NAMESPACE,
    KERNEL_REFUSED,
    UNKNOWN_CONTAINER,
    CniError,
    Route,
)
from linux import rtnetlink
from linux.netlink import RefusedError
from linux.netns import enter, identity, is_namespace
from linux.rtnetlink import Address, Link, Socket, packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import ParamSpec

    from cni.call import Call
    from cni.model import Bridge, Layout

    Parameters = ParamSpec("Parameters")

_FORWARDING = {4: "/proc/sys/net/ipv4/ip_forward", 16: "/proc/sys/net/ipv6/conf/all/forwarding"}
_PATIENCE = 2.5  # seconds for the bridge port to carry frames; it takes well under a millisecond
_DUPLICATES = 5.0  # seconds for IPv6 to find out whether an address is in use already


def open_namespace(call: Call) -> int:
    """A descriptor of the container's namespace; CniError when it is none."""
    if not os.path.exists(call.netns):
        raise CniError(
            UNKNOWN_CONTAINER, f"network namespace {call.netns} of container {call.container} does not exist"
        )
    if not is_namespace(call.netns):
        raise CniError(INVALID_NAMESPACE, f"{call.netns} is not a network namespace")
    return os.open(call.netns, os.O_RDONLY | os.O_CLOEXEC)


def ensure_bridge(host: Socket, wanted: Bridge) -> Link:
    """The bridge, made when missing and up; other processes may be doing the same this instant."""
    link = host.link(wanted.name)
    if link is None:
        # The MAC is set, not left to follow the ports: a pod's neighbour entry for its gateway must outlive its peers.
        mac, vlans = plan.mac_of(os.urandom(4)), bool(wanted.vlan or wanted.trunk)
        try:
            _tolerating(errno.EEXIST, host.create_bridge, wanted.name, mac, wanted.mtu, vlans=vlans)
        except RefusedError as error:
            if not vlans or error.errno != errno.EOPNOTSUPP:
                raise
            raise CniError(
                KERNEL_REFUSED,
                "vlan and vlanTrunk need a kernel with CONFIG_BRIDGE_VLAN_FILTERING, which this one is not: remove them",
            ) from None
        _sysctl(f"net/ipv6/conf/{wanted.name}/accept_ra", "0")  # its routes are ours
        link = host.link(wanted.name)
    if link is None or link.kind != "bridge":
        kind = "gone again" if link is None else f"a {link.kind or 'physical'} link"
        raise CniError(INVALID_CONFIGURATION, f"bridge {wanted.name} is {kind}: name another bridge or remove it")
    if not link.up or (wanted.promiscuous and not link.promiscuous):
        host.change(link.index, up=True, promiscuous=wanted.promiscuous)
    return link


def create_pair(host: Socket, call: Call, wanted: Bridge, netns: int, bridge: int) -> None:
    """The pair, one end in the container's namespace; refused where the container has such an interface."""
    name = plan.host_link(call.container, call.ifname)
    _refuse_attached(call, netns)
    call.begin()
    for _ in range(2):
        try:
            host.create_veth(name, call.ifname, netns=netns, mac=wanted.mac, mtu=wanted.mtu, master=bridge)
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise
        else:
            return
        _refuse_attached(call, netns)
        # Its peer is not where the container is now: a killed ADD left it.
        if not _delete(host, name):
            break
    raise CniError(KERNEL_REFUSED, f"{name} and {call.ifname} cannot be made: somebody else makes them too")


def _refuse_attached(call: Call, netns: int) -> None:
    with enter(netns):
        pod = Socket()
    with pod:
        if pod.link(call.ifname) is not None:
            raise CniError(ALREADY_ATTACHED, f"the container has an interface {call.ifname} already: DEL comes first")


def plug_in(host: Socket, call: Call, wanted: Bridge) -> Link:
    """Makes the host's end of the pair the port that the bridge is to have, up; the port."""
    name = plan.host_link(call.container, call.ifname)
    port = host.link(name)
    if port is None:
        raise CniError(KERNEL_REFUSED, f"{name} disappeared while it was being set up")
    if wanted.vlan or wanted.trunk:
        from linux import bridge_vlans

        bridge_vlans.set_port(port.index, untagged=wanted.vlan, tagged=wanted.trunk, keep=wanted.untagged)
    host.change(
        port.index,
        up=True,
        alias=plan.alias(wanted.network, call.container, call.ifname),
        hairpin=wanted.hairpin or None,
        isolated=wanted.isolated or None,
    )
    return port


def configure(
    call: Call, wanted: Bridge, found: Layout, routes: Sequence[Route], mac: bytes, netns: int
) -> tuple[str, int]:
    """Makes the pod's end what the pod is to have: MAC (b"" leaves the kernel's), addresses, up, routes. Its MAC and MTU."""
    ipv6 = any(len(address) == 16 for address, _, _ in found.addresses)
    with enter(netns):
        pod = Socket()
        if ipv6:  # written here and now: a sysctl is of the namespace of whoever opens it
            _sysctl(f"net/ipv6/conf/{call.ifname}/disable_ipv6", "0")
            _sysctl(f"net/ipv6/conf/{call.ifname}/keep_addr_on_down", "1")
            _sysctl(f"net/ipv6/conf/{call.ifname}/enhanced_dad", "1" if wanted.dad else None)
            _sysctl(f"net/ipv6/conf/{call.ifname}/accept_dad", "1" if wanted.dad else "0")
        if not mac:  # the address may come round under another MAC: neighbours are told
            _sysctl(f"net/ipv4/conf/{call.ifname}/arp_notify", "1")
            _sysctl(f"net/ipv6/conf/{call.ifname}/ndisc_notify", "1")
    with pod:
        link = pod.link(call.ifname)
        if link is None:
            raise CniError(KERNEL_REFUSED, f"{call.ifname} disappeared from the container while it was being set up")
        if wanted.down:
            return link.mac, link.mtu
        for address, length, _ in found.addresses:
            pod.add_address(Address(address, length, link.index), _broadcast(address, length))
        pod.change(link.index, up=True, mac=mac)
        if ipv6:
            _await_addresses(pod, link)
        for each in routes:
            _tolerating(errno.EEXIST, pod.add_route, _route(each, link.index))
        return mac.hex(":") if mac else link.mac, link.mtu


def own_gateways(host: Socket, link: Link, wanted: Bridge, found: Layout) -> None:
    """The link (the bridge, or its VLAN's) has the gateways' addresses, and this namespace forwards."""
    present = host.addresses(link.index)
    added = [gateway for gateway, length in found.gateways if _own(host, link, wanted, present, gateway, length)]
    if added:
        # A bridge that we made (its MAC begins as ours do) takes the MAC of its first address, and has the same one after it was
        # deleted and made anew. Any other keeps its MAC, but from now on for good: it would follow its ports otherwise.
        if not link.mac.startswith("0a:58:"):
            host.change(link.index, mac=bytes.fromhex(link.mac.replace(":", "")))
        elif all(each.packed[:2] == b"\xfe\x80" for each in present):
            host.change(link.index, mac=plan.mac_of(added[0]))
    for size in {len(gateway) for gateway, _ in found.gateways}:
        with open(_FORWARDING[size], "rb+", buffering=0) as switch:
            if switch.read(1) == b"0":
                switch.seek(0)  # a sysctl ignores, without a word, what is written further on
                switch.write(b"1")


def vlan_gateway(host: Socket, wanted: Bridge, bridge: Link) -> Link:
    """The host's own end in the network's VLAN: a pair <bridge>.<vlan> and a port of the bridge."""
    name = f"{wanted.name}.{wanted.vlan}"
    link = host.link(name)
    if link is None:
        from linux import bridge_vlans

        port = plan.host_link(name, "")
        _tolerating(errno.EEXIST, host.create_veth, name, port, mtu=wanted.mtu)
        other = host.link(port)
        link = host.link(name)
        if link is None or other is None:
            raise CniError(
                INVALID_CONFIGURATION, f"{name} cannot be the VLAN's gateway: remove the links {name} and {port}"
            )
        host.enslave(other.index, bridge.index)
        bridge_vlans.set_port(other.index, untagged=wanted.vlan, keep=wanted.untagged)
        host.set_up(other.index)
    host.set_up(link.index)
    return link


def await_carrier(host: Socket, port: Link) -> Link:
    """The port, once it carries frames: the kernel reports a carrier from a work queue, and the bridge forwards then."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        link = host.link_at(port.index)
        if link is not None and link.operational:
            return link
        if time.monotonic() > deadline:
            raise CniError(KERNEL_REFUSED, f"{port.name} carries no frames after {_PATIENCE:g} s: is the bridge up?")
        time.sleep(0.001)


def detach(call: Call) -> None:
    """Removes the pod's link from whichever end can be found; neither being there is fine."""
    with Socket() as host:
        if _delete(host, plan.host_link(call.container, call.ifname)):
            return
    # Another plugin (Go's bridge) may have named the host's end its own way: take the pod's end then.
    if call.netns and is_namespace(call.netns) and (call.may_be_home or identity(call.netns) != identity()):
        with enter(call.netns):
            pod = Socket()
        with pod:
            link = pod.link(call.ifname)
            if link is not None and link.kind == "veth":
                _tolerating(errno.ENODEV, pod.delete_link, link.index)


def collect(network: str, valid: Iterable[tuple[str, str]]) -> None:
    """Removes the host's ends that carry this network's name and none of the valid attachments'."""
    kept = set(valid)
    with Socket() as host:
        for link in host.links():
            holder = plan.holder(network, link.alias)
            if holder is not None and holder not in kept and link.kind == "veth":
                _tolerating(errno.ENODEV, remove, host, link.index)


def observe(call: Call, wanted: Bridge, host_link: str, netns: int) -> Seen:
    """What is there of the attachment now."""
    with Socket() as host:
        bridge, port = host.link(wanted.name), host.link(host_link)
        master = host.link_at(port.master) if port is not None and port.master else None
        gateways = [each.text for each in host.addresses(bridge.index)] if bridge is not None else []
    with enter(netns):
        pod = Socket()
    with pod:
        link = pod.link(call.ifname)
        routes = pod.routes(link.index) if link is not None else []
        addresses = pod.addresses(link.index) if link is not None else []
    return Seen(
        bridge_mac=bridge.mac if bridge is not None and bridge.kind == "bridge" else None,
        gateways=gateways,
        master=None if port is None else master.name if master is not None else "",
        host_up=port is not None and port.up,
        hairpin=port is not None and port.hairpin,
        isolated=port is not None and port.isolated,
        container_up=link.up if link is not None else None,
        container_mac=link.mac if link is not None else "",
        addresses=[each.text for each in addresses],
        routes=[(_destination(each), unpacked(each.gateway) if each.gateway else "", each.table) for each in routes],
    )


def _own(host: Socket, link: Link, wanted: Bridge, present: Sequence[Address], gateway: bytes, length: int) -> bool:
    """Whether one gateway's address had to be added. An IPv4 address that the bridge has already, and an IPv6 one of an
    overlapping range, is another network's: it goes where the configuration forces it, and is complained of otherwise."""
    asked, range_ = Address(gateway, length, link.index), subnet_of(gateway, length)
    rivals = []
    for each in present:
        if each.text == asked.text:
            return False
        if len(each.packed) == len(gateway) and (
            len(gateway) == 4 or each.packed in range_ or gateway in subnet_of(each.packed, each.length)
        ):
            rivals.append(each)
    if rivals and not wanted.force:
        raise CniError(
            INVALID_CONFIGURATION,
            f"{link.name} has the address {rivals[0].text} already, and not {asked.text}: remove it, or set forceAddress",
        )
    for each in rivals:
        _tolerating(errno.EADDRNOTAVAIL, host.delete_address, each)
    if len(gateway) == 16:
        _sysctl(f"net/ipv6/conf/{link.name}/disable_ipv6", "0")
    _tolerating(errno.EEXIST, host.add_address, asked, _broadcast(gateway, length), at_once=True)
    return True


def _await_addresses(pod: Socket, link: Link) -> None:
    """Until no address is tentative any more; at once, unless duplicates are looked for."""
    deadline = time.monotonic() + _DUPLICATES
    while True:
        addresses = pod.addresses(link.index)
        failed = [each.text for each in addresses if each.failed]
        if failed:
            raise CniError(KERNEL_REFUSED, f"somebody on the network has the address {failed[0]} already")
        if not any(each.tentative for each in addresses):
            return
        if time.monotonic() > deadline:
            raise CniError(KERNEL_REFUSED, f"{link.name}'s addresses are not settled after {_DUPLICATES:g} s")
        time.sleep(0.01)


def _route(each: Route, index: int) -> rtnetlink.Route:
    destination, _, length = each.destination.partition("/")
    more = each.more
    return rtnetlink.Route(
        packed(destination),
        int(length),
        packed(each.gateway) if each.gateway else b"",
        index,
        table=more.get("table", rtnetlink.MAIN),
        priority=more.get("priority", 0),
        scope=more.get("scope"),
        mtu=more.get("mtu", 0),
        advmss=more.get("advmss", 0),
    )


def _destination(route: rtnetlink.Route) -> str:
    if route.destination:
        return f"{unpacked(route.destination)}/{route.length}"
    return plan.DEFAULTS[len(route.gateway) or 4]


def _broadcast(address: bytes, length: int) -> bytes:
    if len(address) != 4 or length > 30:
        return b""
    return subnet_of(address, length).last.to_bytes(4, "big")


def _sysctl(name: str, value: str | None) -> None:
    """Best effort, as the reference plugin's: a kernel without IPv6 has none of these."""
    if value is None:
        return
    try:
        with open(f"/proc/sys/{name}", "wb", buffering=0) as file:
            file.write(value.encode())
    except OSError:
        return


def _delete(socket: Socket, name: str) -> bool:
    """Whether there was such a link to delete."""
    link = socket.link(name)
    if link is None:
        return False
    _tolerating(errno.ENODEV, remove, socket, link.index)
    return True


def _tolerating(
    number: int, request: Callable[Parameters, None], *args: Parameters.args, **keywords: Parameters.kwargs
) -> None:
    """Makes the request; this one refusal means that somebody else has done it."""
    try:
        request(*args, **keywords)
    except RefusedError as error:
        if error.errno != number:
            raise
