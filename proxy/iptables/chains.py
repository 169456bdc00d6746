"""The names of our chains, which are kube-proxy's: people and tools look for them.

    KUBE-SVC-*  all endpoints of a Service port       KUBE-EXT-*  traffic from outside the cluster, e.g. to a NodePort
    KUBE-SVL-*  its endpoints on this node            KUBE-SEP-*  one endpoint

The part after the dash is the first 16 letters of the base32 SHA-256 of the service port's name and protocol (and, for
an endpoint, its address).
"""

from __future__ import annotations

import base64
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

_TOP = {
    Table.NAT: {SERVICES, NODEPORTS, POSTROUTING, MARK_MASQ, CANARY},
    Table.FILTER: {SERVICES, EXTERNAL_SERVICES, NODEPORTS, FORWARD, PROXY_FIREWALL, CANARY},
    Table.MANGLE: {CANARY},
}
_PER_SERVICE = re.compile(r"KUBE-(SVC|SVL|EXT|FW|SEP)-")


def hashed(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode()  # 10 bytes are 16 letters


def cluster_chain(service: ServicePort) -> str:
    return f"KUBE-SVC-{hashed(service.name + service.protocol)}"


def local_chain(service: ServicePort) -> str:
    return f"KUBE-SVL-{hashed(service.name + service.protocol)}"


def external_chain(service: ServicePort) -> str:
    return f"KUBE-EXT-{hashed(service.name + service.protocol)}"


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
