"""Addresses that packets can be sent to, and the sentences about those that are none (upstream's util/net and
`ValidateEndpointIP`)."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from apiserver.validation import names
from apiserver.validation.rules import Found, Path


@lru_cache(maxsize=8192)
def _complaint(text: str) -> str:
    """Why packets from other nodes cannot reach it; empty when they can."""
    try:
        address = ip_address(text)
    except ValueError:
        return names.NOT_AN_IP
    if address.is_unspecified:
        return f"may not be unspecified ({text})"
    if address.is_loopback:
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if address.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    if address.is_multicast and (int(address) >> 8 == 0xE00000 or str(address).startswith("ff02:")):
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return ""


def usable(text: str, path: Path, found: Found) -> None:
    if complaint := _complaint(text):
        found.invalid(path, text, complaint)


@lru_cache(maxsize=8192)
def of_family(text: str, kind: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv4Address if kind == "IPv4" else IPv6Address)
    except ValueError:
        return False
