"""The names of our chains, which are kube-proxy's: people and tools look for them.

    KUBE-SVC-*  all endpoints of a Service port       KUBE-EXT-*  traffic from outside the cluster, e.g. to a NodePort
    KUBE-SVL-*  its endpoints on this node            KUBE-SEP-*  one endpoint
    KUBE-FW-*   what may use a load balancer's address

The part after the dash is the first 16 letters of the base32 SHA-256 of the service port's name and protocol (and, for
an endpoint, its address).
"""

from __future__ import annotations

import hashlib
import re

from linux.iptables.rules import Table
from proxy.model import Endpoint, ServicePort

SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODEPORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
FORWARD = "KUBE-FORWARD"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
CANARY = "KUBE-PROXY-CANARY"
FIREWALL = "KUBE-FIREWALL"  # the kubelet's too

_TOP = {
    Table.NAT: {SERVICES, NODEPORTS, POSTROUTING, MARK_MASQ, CANARY},
    Table.FILTER: {SERVICES, EXTERNAL_SERVICES, NODEPORTS, FORWARD, PROXY_FIREWALL, CANARY},
    Table.MANGLE: {CANARY},
}
PREFIXES = (*sorted(set().union(*_TOP.values())), "KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")
_PER_SERVICE = re.compile(r"KUBE-(SVC|SVL|EXT|FW|SEP)-")

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]  # base64.b32encode takes thrice as long


def hashed(text: str) -> str:
    return base32(hashlib.sha256(text.encode()).digest())


def base32(digest: bytes) -> str:
    """The first 16 letters: 10 bytes."""
    number, pair = int.from_bytes(digest[:10], "big"), _PAIRS
    return (
        f"{pair[number >> 70]}{pair[number >> 60 & 1023]}{pair[number >> 50 & 1023]}{pair[number >> 40 & 1023]}"
        f"{pair[number >> 30 & 1023]}{pair[number >> 20 & 1023]}{pair[number >> 10 & 1023]}{pair[number & 1023]}"
    )


def cluster_chain(service: ServicePort) -> str:
    return f"KUBE-SVC-{hashed(service.name + service.protocol)}"


def local_chain(service: ServicePort) -> str:
    return f"KUBE-SVL-{hashed(service.name + service.protocol)}"


def external_chain(service: ServicePort) -> str:
    return f"KUBE-EXT-{hashed(service.name + service.protocol)}"


def firewall_chain(service: ServicePort) -> str:
    return f"KUBE-FW-{hashed(service.name + service.protocol)}"


def endpoint_chain(service: ServicePort, endpoint: Endpoint) -> str:
    return f"KUBE-SEP-{hashed(service.name + service.protocol + endpoint.text)}"


def is_per_service(key: tuple[Table, str]) -> bool:
    """A chain that a sync may delete when no Service needs it."""
    table, name = key
    return table is Table.NAT and _PER_SERVICE.match(name) is not None


def is_ours(key: tuple[Table, str]) -> bool:
    """A chain that clean-up deletes. KUBE-FIREWALL is not among them: the kubelet keeps it too."""
    table, name = key
    return name in _TOP.get(table, ()) or is_per_service(key)
