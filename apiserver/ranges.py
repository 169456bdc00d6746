"""Where Services' addresses and ports come from, and which ones a Service has."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

Obj = dict[str, Any]
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
NONE: Final = "None"


@dataclass(frozen=True, slots=True)
class Ranges:
    addresses: Network
    first_port: int
    last_port: int

    @property
    def family(self) -> str:
        return f"IPv{self.addresses.version}"

    @property
    def first_address(self) -> Address:
        """Always Service kubernetes'."""
        return self.addresses[1]

    def holds(self, address: Address) -> bool:
        """The network's own address and (IPv4) its broadcast address are not given out."""
        inside = address in self.addresses and address != self.addresses.network_address
        return inside and not (address.version == 4 and address == self.addresses.broadcast_address)

    def contains(self, text: str) -> bool:
        """`holds`, for what a Service may say."""
        try:
            return self.holds(ip_address(text))
        except ValueError:
            return False


def addresses_of(service: Obj) -> set[str]:
    spec = service.get("spec", {})
    return {one for one in (spec.get("clusterIP"), *(spec.get("clusterIPs") or ())) if one and one != NONE}


def ports_of(service: Obj) -> set[int]:
    spec = service.get("spec", {})
    found = {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}
    return found | {spec["healthCheckNodePort"]} if spec.get("healthCheckNodePort") else found
