"""Names of chains and sets that belong to one Service port; upstream's, as people know them."""

from __future__ import annotations

import base64
import hashlib

from proxy.model import Endpoint, ServicePort

_LONGEST = 240  # of a name with a prefix; the kernel takes 255


def base_name(port: ServicePort) -> str:
    """HASH-namespace/service/protocol/port."""
    return _hashed(_whole_name(port))


def endpoint_name(port: ServicePort, endpoint: Endpoint) -> str:
    """HASH-namespace/service/protocol/port__ip/port, the colons of IPv6 as dots."""
    ip = str(endpoint.ip).replace(":", ".")
    return _hashed(f"{_whole_name(port)}__{ip}/{endpoint.port}")


def owner(name: str) -> str | None:
    """The `namespace/name` of the Service whose chain or set this is; None for others'."""
    head, _, rest = name.partition("/")
    service = rest.split("/")[0]
    namespace = head.split("-")
    for place, part in enumerate(namespace):
        if len(part) == _HASH and part.isupper() and service:
            return f"{'-'.join(namespace[place + 1 :])}/{service}"
    return None


_HASH = 8


def _whole_name(port: ServicePort) -> str:
    service, _, name = port.name.partition(":")
    return f"{service}/{port.protocol}/{name}"


def _hashed(name: str) -> str:
    hashed = base64.b32encode(hashlib.sha256(name.encode()).digest())[:_HASH].decode()
    whole = f"{hashed}-{name}"
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 3]}..."
