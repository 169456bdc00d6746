"""The flat layout: which maps there are, and what a packet's way through them is.

kube-proxy writes a chain for every Service and gives the kernel a program of their number. Here the program is small and
nearly constant, and Services are data. `table ip kube-proxy` (and `ip6`) has kube-proxy's base chains; a new connection goes

    nat-prerouting, nat-output -> services
        1. who is not a pod and wants an address of @cluster-ips is marked (bit 14) for masquerading
        2. address . protocol . port      vmap @services-by-ip         -> goto one of the chains below
        3. to this node: protocol . port  vmap @services-by-nodeport   -> goto one of the chains below

    cluster-8        dnat to  address . protocol . port . (a die of 8)  map @endpoints
    external-8       mark, then the same: external IPs and load balancers' IPs
    nodeport-8       mark, then  protocol . port . (a die of 8)  map @nodeport-endpoints
    external-all-8   externalTrafficPolicy Local: for pods as cluster-8, for this node as external-8;
                     others  vmap @external-local  -> external-local-2
    external-local-2 no mark, and the die is for @local-endpoints: those on this node
                     (nodeport-all-8, nodeport-local-2: the same for NodePorts)

The endpoints of an address are numbered from 0 without gaps. The die has a power of two of sides: a chain for 8 serves every
address with 5 to 8 endpoints (and one that had so many and has 3 or 4), whichever Service that is. A throw that hits no
endpoint ends the rule, and the next rule throws again: sixteen times, then with smaller and smaller dice; with five endpoints
one client in ten million gets that far. So an endpoint that comes is one element, one that is replaced is one, and one that
goes is two (the last takes its number). And a packet that is between two look-ups while a transaction becomes visible hits
somebody all the same. That no verdict changes matters: the kernel checks all verdict maps of a table for loops whenever an
element with a verdict is added, 2 ms with 10,000 Services.

A Service with ClientIP affinity has chains of its own, `cluster-8-HASH-ns/svc/tcp/p80` and so on, which ask @affinity first:
which endpoint has  client . cluster IP . protocol . port  had last, by whatever door it came (@affinity-local, where only
endpoints of this node will do)? What was chosen is written down behind NAT, in the filter hooks, by `affinity-HASH-...`:
@affinity-services and @affinity-nodeports know by the connection's original destination that it shall be, and
@affinity-endpoints that it may be: a UDP sender whose flow outlives its endpoint must not be written down again. An entry renews
itself with each connection, outlives restarts of the proxy and changes of the Service, and fades after the timeout. When an
endpoint goes, @affinity is read and its entries are deleted: only a Service with affinity ever costs that.

    filter hooks -> firewall-check (before NAT): loadBalancerSourceRanges, one chain for each different list of ranges
                    service-endpoints-check, nodeport-endpoints-check: no endpoints -> reject; none here -> drop
                    cluster-ips-check: ports that no Service has on a cluster IP -> reject; addresses nobody has -> drop
                    affinity-record
    nat-postrouting -> masquerading: what is marked, and endpoints that meet themselves (@hairpin: here . here)

Chains are recognised by a stamp in the comment of each rule, `wherry:` and a hash of the whole chain, and by the number of
rules; elements by comparing all of them. A table without our layout's name in its comment, or with maps of another kind,
is replaced whole, in one transaction.

Maps that are not exactly kube-proxy's (ours count) have other names than its: the kernel refuses `add map` where a map of
that name is of another kind, and a stock proxy that is started after us could not set itself up.

Every rule is one that `nft list` can print: nft 1.0.6 aborts on a rule that looks up what another lookup found. That is why
every address has endpoints of its own, instead of the name of a list that it shares with the Service's other addresses.
"""

from __future__ import annotations

from enum import IntEnum

from linux.iptables.rules import Family
from linux.nftables.objects import DYNAMIC, MAP, TIMEOUT, VERDICT_TYPE, Set

TABLE = "kube-proxy"
LAYOUT = "wherry-proxy layout 1"  # another number where maps change so that elements cannot stay

SERVICES, MASQUERADING, REJECT = "services", "masquerading", "reject-chain"
FIREWALL_CHECK, CLUSTER_IPS_CHECK = "firewall-check", "cluster-ips-check"
AFFINITY_RECORD = "affinity-record"
SERVICE_ENDPOINTS_CHECK, NODEPORT_ENDPOINTS_CHECK = "service-endpoints-check", "nodeport-endpoints-check"

AFFINITY, AFFINITY_LOCAL = "affinity", "affinity-local"
AFFINITIES = (AFFINITY, AFFINITY_LOCAL)
MOST_CLIENTS = 1 << 18  # whom each of them remembers at most; further clients are served without


class Map(IntEnum):
    """The maps and sets that the proxy fills; the index of each in a `Content`."""

    SERVICES_BY_IP = 0
    SERVICES_BY_NODEPORT = 1
    EXTERNAL_LOCAL = 2
    NODEPORT_LOCAL = 3
    ENDPOINTS = 4
    LOCAL_ENDPOINTS = 5
    NODEPORT_ENDPOINTS = 6
    NODEPORT_LOCAL_ENDPOINTS = 7
    AFFINITY_SERVICES = 8
    AFFINITY_NODEPORTS = 9
    UNSERVED_BY_IP = 10
    UNSERVED_BY_NODEPORT = 11
    FIREWALLED_BY_IP = 12
    CLUSTER_IPS = 13
    HAIRPIN = 14
    NODEPORT_IPS = 15
    AFFINITY_ENDPOINTS = 16
    AFFINITY_LOCAL_ENDPOINTS = 17

    @property
    def title(self) -> str:
        """Its name in the kernel."""
        return self.name.lower().replace("_", "-")


SHARED = (Map.CLUSTER_IPS, Map.HAIRPIN)
"""Sets of which several Services may want the same element."""
VALUES = (Map.ENDPOINTS, Map.LOCAL_ENDPOINTS, Map.NODEPORT_ENDPOINTS, Map.NODEPORT_LOCAL_ENDPOINTS)
"""Their elements are endpoints."""
VERDICTS = (
    Map.SERVICES_BY_IP,
    Map.SERVICES_BY_NODEPORT,
    Map.EXTERNAL_LOCAL,
    Map.NODEPORT_LOCAL,
    Map.AFFINITY_SERVICES,
    Map.AFFINITY_NODEPORTS,
    Map.UNSERVED_BY_IP,
    Map.UNSERVED_BY_NODEPORT,
    Map.FIREWALLED_BY_IP,
)
"""Their elements lead into chains, and carry the Service's name as a comment."""

_IPV4, _IPV6, _PROTOCOL, _PORT, _MARK = 7, 8, 12, 13, 19  # nft's types; mark: a number in the machine's order


def width(family: Family) -> int:
    """How many registers an address fills."""
    return family.bits // 32


def socket_family(family: Family) -> int:
    return 2 if family is Family.V4 else 10  # AF_INET, AF_INET6, and so NFPROTO_IPV4, NFPROTO_IPV6


def sets(family: Family) -> tuple[Set, ...]:
    """Every set and map, those of `AFFINITIES` last."""
    size = family.bits // 8
    ip = _IPV4 if family is Family.V4 else _IPV6
    address, port = (size, ip), ((1, _PROTOCOL), (2, _PORT))
    name = (address, *port)
    endpoint = (address, (2, _PORT))
    side = (4, _MARK)
    shapes: dict[Map, tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...] | None, str]] = {
        Map.SERVICES_BY_IP: (name, (), "cluster IPs, external IPs and load balancers' IPs"),
        Map.SERVICES_BY_NODEPORT: (port, (), "NodePorts"),
        Map.EXTERNAL_LOCAL: (name, (), "externalTrafficPolicy Local, for those outside"),
        Map.NODEPORT_LOCAL: (port, (), "externalTrafficPolicy Local, for those outside"),
        Map.ENDPOINTS: ((*name, side), endpoint, "what each side of the die is"),
        Map.LOCAL_ENDPOINTS: ((*name, side), endpoint, "the same, only endpoints of this node"),
        Map.NODEPORT_ENDPOINTS: ((*port, side), endpoint, "what each side of the die is"),
        Map.NODEPORT_LOCAL_ENDPOINTS: ((*port, side), endpoint, "the same, only endpoints of this node"),
        Map.AFFINITY_SERVICES: (name, (), "with ClientIP affinity"),
        Map.AFFINITY_NODEPORTS: (port, (), "with ClientIP affinity"),
        Map.UNSERVED_BY_IP: (name, (), "reject, or drop where there is an endpoint elsewhere"),
        Map.UNSERVED_BY_NODEPORT: (port, (), "reject, or drop where there is an endpoint elsewhere"),
        Map.FIREWALLED_BY_IP: (name, (), "load balancers' IPs with loadBalancerSourceRanges"),
        Map.CLUSTER_IPS: ((address,), None, "cluster IPs"),
        Map.HAIRPIN: ((address, address), None, "endpoints of this node that meet themselves"),
        Map.NODEPORT_IPS: ((address,), None, "addresses of this node that serve NodePorts"),
        Map.AFFINITY_ENDPOINTS: ((*name, *endpoint), None, "endpoints that clients may be kept on"),
        Map.AFFINITY_LOCAL_ENDPOINTS: ((*name, *endpoint), None, "the same, only endpoints of this node"),
    }
    made = [_set(which.title, key, data, comment) for which, (key, data, comment) in shapes.items()]
    affinities = (
        Set(
            title,
            _length((address, *name)),
            _type((address, *name)),
            data_type=_type(endpoint),
            data_length=_length(endpoint),
            flags=MAP | TIMEOUT | DYNAMIC,
            fields=tuple(length for length, _ in (address, *name)),
            size=MOST_CLIENTS,
            comment="client . Service : the endpoint that it had last",
        )
        for title in AFFINITIES
    )
    return (*made, *affinities)


def _set(title: str, key: tuple[tuple[int, int], ...], data: tuple[tuple[int, int], ...] | None, comment: str) -> Set:
    """`data`: None in sets, empty where it is a verdict."""
    verdicts = data == ()
    return Set(
        title,
        _length(key),
        _type(key),
        data_type=None if data is None else VERDICT_TYPE if verdicts else _type(data),
        data_length=_length(data or ()),
        flags=0 if data is None else MAP,
        fields=tuple(length for length, _ in key),
        counts=verdicts,
        comment=comment,
    )


def _length(fields: tuple[tuple[int, int], ...]) -> int:
    """Of the registers: each field is padded to four bytes."""
    return sum((length + 3) & ~3 for length, _ in fields)


def _type(fields: tuple[tuple[int, int], ...]) -> int:
    """As nft numbers concatenations: six bits a field."""
    number = 0
    for _, kind in fields:
        number = number << 6 | kind
    return number
