"""WireGuard: packets between nodes encrypted, in UDP.

    route     10.244.0.0/16 dev flannel-wg                               one for the whole network
    peer      <B's public key>, endpoint <B's public IP>:51820, allowed 10.244.2.0/24

The device finds the peer by the packet's destination among the allowed addresses, and takes from a peer only packets that come
from there: so a node cannot send in another's name. Our own pods' route on the bridge is narrower than the network's.

`Mode` says how two families travel. `separate`: two devices, each over its own family, on two ports. Otherwise one device
carries both, and its packets go over IPv4 (`ipv4`), IPv6 (`ipv6`), or what promises more (`auto`, as flannel chooses): IPv4
where the peer's is public, else IPv6 where the peer's and ours are, else IPv4.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network

from linux.iptables.rules import Family
from overlay.model import (
    METRIC,
    Address,
    Here,
    Lease,
    LocalAddress,
    PublicKey,
    Range,
    Route,
    Wanted,
    WireGuardDevice,
    WireGuardPeer,
    host,
)
from overlay.netconf import WireGuardSettings

OVERHEAD = 80
"""Bytes: IPv6 header 40, UDP 8, WireGuard 32; flannel takes them off over IPv4 too."""
_PRIVATE = {
    Family.V4: tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))),
    Family.V6: tuple(map(ip_network, ("fc00::/7", "fe80::/10"))),
}


def names(settings: WireGuardSettings, families: Iterable[Family]) -> dict[str, tuple[Family, ...]]:
    """Our devices, and the families each carries."""
    if settings.mode == "separate":
        return {f"flannel-wg{'-v6' if family is Family.V6 else ''}": (family,) for family in families}
    return {"flannel-wg": tuple(families)}


def mtu(settings: WireGuardSettings, here: Here) -> int:
    return (settings.mtu or here.underlay.mtu) - OVERHEAD


def refusal(peer: Lease) -> str | None:
    """Why the peer cannot be reached; None when it can."""
    if not isinstance(peer.data, PublicKey):
        return f"node {peer.node} announces no WireGuard key"
    return None


def wanted(
    name: str,
    own: Mapping[Family, Lease],
    peers: Sequence[Lease],
    here: Mapping[Family, Here],
    pods: Mapping[Family, Range],
    settings: WireGuardSettings,
) -> Wanted:
    """Of the families that the device `name` carries: those of `own`. Each peer is one that `refusal` lets pass."""
    port = settings.port_v6 if settings.mode == "separate" and Family.V6 in own else settings.port
    inside = min(mtu(settings, here[family]) for family in own)
    device = WireGuardDevice(name, port, inside, next(iter(here.values())).private_key)
    by_key: dict[str, dict[Family, Lease]] = {}
    for peer in peers:
        assert isinstance(peer.data, PublicKey)
        by_key.setdefault(peer.data.key, {})[peer.family] = peer
    return Wanted(
        device,
        addresses=tuple(LocalAddress(host(lease.gateway)) for lease in own.values()),
        peers=tuple(
            WireGuardPeer(
                key,
                (_endpoint(leases, here, settings), port),
                frozenset(lease.subnet for lease in leases.values()),
                settings.psk,
                settings.keepalive,
            )
            for key, leases in by_key.items()
        ),
        routes=tuple(Route(pods[family], None, metric=METRIC[family]) for family in own),
    )


def _endpoint(leases: Mapping[Family, Lease], here: Mapping[Family, Here], settings: WireGuardSettings) -> Address:
    """Where packets to a peer go. A peer that has only one family is reached over that one."""
    if len(leases) == 1:
        return next(iter(leases.values())).public_ip
    four, six = leases[Family.V4].public_ip, leases[Family.V6].public_ip
    if settings.mode != "auto":
        return six if settings.mode == "ipv6" else four
    both_public = not _private(six) and Family.V6 in here and not _private(here[Family.V6].underlay.address)
    return six if _private(four) and both_public else four


def _private(address: Address) -> bool:
    return any(address in each for each in _PRIVATE[Family(address.version)])
