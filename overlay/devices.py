"""Our devices, made and set right; each change is a question and an answer of its own.

A device that is set up for the first time is told first to give itself no IPv6 address, to believe no router of the tunnel, and
to keep its addresses when it goes down: nothing on it is anybody's but ours.
"""

import errno

from kube.errors import Retry
from linux import link_changes, links, sysctl, wireguard
from linux.netlink import GENERIC, Conversation, RefusedError
from overlay.model import DEVICE_ALIAS, Device, VxlanDevice, WireGuardDevice

_PER_DEVICE = (("accept_ra", "0"), ("keep_addr_on_down", "1"))
"""Of net.ipv6.conf."""


def create(ip: Conversation, device: Device) -> None:
    match device:
        case VxlanDevice():
            vxlan = links.Vxlan(
                device.vni, device.port, device.underlay, device.local, learning=device.learning, gbp=device.gbp
            )
            try:
                link_changes.create_vxlan(ip, device.name, vxlan, mac=device.mac, mtu=device.mtu)
            except RefusedError as error:
                raise Retry(f"{error}{_in_the_way(ip, device)}") from error
        case WireGuardDevice():
            try:
                link_changes.create_wireguard(ip, device.name, mtu=device.mtu)
            except RefusedError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                raise Retry(
                    f"{error}: this kernel has no WireGuard (module wireguard); load it, or use the Backend type vxlan"
                ) from error


def _in_the_way(ip: Conversation, device: VxlanDevice) -> str:
    """In words: a device that has our VNI and port, but neither our name nor our alias. It is not ours to delete."""
    for link in links.links(ip, "vxlan"):
        there = links.vxlan(link.data)
        if (there.vni, there.port) == (device.vni, device.port) and link.name != device.name:
            return (
                f"; {link.name} has this VNI and port: delete it (ip link del {link.name}), or set another Backend.VNI"
            )
    return ""


def adjust(ip: Conversation, link: links.Link, device: Device) -> None:
    """Only what differs: writing a MAC, even the same, makes the kernel forget the device's neighbours."""
    if isinstance(device, VxlanDevice):
        if link.mac != device.mac:
            link_changes.change_link(ip, link.index, mac=device.mac)
    else:
        _set_keys(link, device)
    if link.mtu != device.mtu:
        link_changes.change_link(ip, link.index, mtu=device.mtu)
    if link.alias != DEVICE_ALIAS:
        _prepare_for_ipv6(ip, link)
        link_changes.change_link(ip, link.index, alias=DEVICE_ALIAS)
    if not link.up:
        link_changes.change_link(ip, link.index, up=True)


def _prepare_for_ipv6(ip: Conversation, link: links.Link) -> None:
    """See above. A kernel without IPv6, or a device too small for it, has nothing to be told."""
    try:
        link_changes.change_link(ip, link.index, link_local=False)
        for key, value in _PER_DEVICE:
            sysctl.ensure(f"net.ipv6.conf.{link.name.replace('.', '/')}.{key}", value)
    except RefusedError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):  # a container's /proc/sys; the overlay works without
            raise


def _set_keys(link: links.Link, device: WireGuardDevice) -> None:
    with Conversation(GENERIC) as talk:
        number = wireguard_number(talk)
        there = wireguard.read(talk, number, link.index)
        if (there.private_key, there.port) != (device.private_key, device.port):
            talk.order(wireguard.set_device(number, link.index, private_key=device.private_key, port=device.port))


def wireguard_number(talk: Conversation) -> int:
    number = wireguard.family(talk)
    if number is None:
        raise Retry("generic netlink knows no WireGuard any more: the module was unloaded")
    return number
