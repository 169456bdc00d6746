"""Nodes by number, in both families and for each backend: leases, this machine, networks, and what they make us wish for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from linux.iptables.rules import Family
from overlay import wish
from overlay.model import Address, Backend, Here, Lease, PublicKey, Range, Tunnel, Underlay, Vtep, VxlanDevice, Wanted
from overlay.netconf import BackendSettings, HostGwSettings, Network, VxlanSettings, WireGuardSettings

PODS: Mapping[Family, Range] = {Family.V4: IPv4Network("10.244.0.0/16"), Family.V6: IPv6Network("fd10:244::/48")}
VXLAN = VxlanSettings()
DIRECT = VxlanSettings(direct_routing=True)
HOST_GW = HostGwSettings()
WIREGUARD = WireGuardSettings()
BACKENDS: Mapping[str, BackendSettings] = {
    "vxlan": VXLAN,
    "vxlan+direct": DIRECT,
    "host-gw": HOST_GW,
    "wireguard": WIREGUARD,
}
UNDERLAY = 72
"""Index of the underlay's interface."""


def network(settings: BackendSettings = VXLAN, families: Sequence[Family] = (Family.V4,)) -> Network:
    return Network(
        ipv4=IPv4Network(str(PODS[Family.V4])) if Family.V4 in families else None,
        ipv6=IPv6Network(str(PODS[Family.V6])) if Family.V6 in families else None,
        backend=settings,
    )


def host(number: int, family: Family = Family.V4) -> Address:
    return IPv4Address(f"10.200.0.{number}") if family is Family.V4 else IPv6Address(f"fd00:200::{number:x}")


def subnet(number: int, family: Family = Family.V4) -> Range:
    return IPv4Network(f"10.244.{number}.0/24") if family is Family.V4 else IPv6Network(f"fd10:244:0:{number:x}::/64")


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def key(number: int) -> str:
    return f"key{number}"


def lease(
    number: int,
    family: Family = Family.V4,
    settings: BackendSettings = VXLAN,
    *,
    data: int | None = None,
    at: int | None = None,
    since: float = 0.0,
) -> Lease:
    """Of node<number>, with the MAC or key of another number and the address of another, where they are given."""
    made = number if data is None else data
    kind, said = {
        VxlanSettings: (Backend.VXLAN, Vtep(1, mac(made))),
        HostGwSettings: (Backend.HOST_GW, None),
        WireGuardSettings: (Backend.WIREGUARD, PublicKey(key(made))),
    }[type(settings)]
    return Lease(f"node{number}", subnet(number, family), host(number if at is None else at, family), kind, said, since)


def here(family: Family = Family.V4, *, direct: Sequence[int] = (), blackhole: bool = False) -> Here:
    """Node 1. `direct`: the numbers of the hosts that a link of ours reaches."""
    return Here(
        Underlay(UNDERLAY, "eth1", host(1, family), 1500),
        {host(number, family): UNDERLAY for number in direct},
        private_key="private",
        blackhole=blackhole,
    )


def wished(
    peers: Sequence[Lease],
    settings: BackendSettings = VXLAN,
    family: Family = Family.V4,
    *,
    direct: Sequence[int] = (2, 3, 4, 5),
    blackhole: bool = False,
    mtu: int = 1500,
) -> wish.Wish:
    """What node 1 wishes in one family."""
    net = network(settings, (family,))
    (tunnel,) = wish.tunnels(net)
    place = here(family, direct=direct, blackhole=blackhole)
    place = replace(place, underlay=replace(place.underlay, mtu=mtu))
    return wish.wish(tunnel, {family: lease(1, family, settings)}, peers, net, {family: place})


def wanted(peers: Sequence[Lease], settings: BackendSettings = VXLAN, family: Family = Family.V4) -> Wanted:
    return wished(peers, settings, family).wanted


def tunnel(settings: BackendSettings = VXLAN, family: Family = Family.V4) -> Tunnel:
    return wish.tunnels(network(settings, (family,)))[0]


def vxlan_device(wish: Wanted) -> VxlanDevice:
    assert isinstance(wish.device, VxlanDevice)
    return wish.device
