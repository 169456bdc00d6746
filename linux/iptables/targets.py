"""What iptables' targets do to a packet, where they are not chains or plain verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from linux.iptables.matches import Rule, masked
from linux.packets import Address, Unknown, Walk

# They tell somebody, count, or change what no rule here asks for.
_PASSING = frozenset(
    [
        "LOG",
        "NFLOG",
        "TRACE",
        "AUDIT",
        "TCPMSS",
        "CHECKSUM",
        "CLASSIFY",
        "DSCP",
        "TOS",
        "TTL",
        "HL",
        "SET",
        "CONNMARK",
        "SECMARK",
        "CONNSECMARK",
    ]
)


def changed(rule: Rule, walk: Walk) -> tuple[str, Walk]:
    """(verdict or nothing, the packet after it). Raises Unknown."""
    match rule.target:
        case "":
            return "", walk
        case "MARK":
            return "", walk.marked(_marked(walk.packet.mark, rule.arguments))
        case "CONNMARK" if "--restore-mark" in rule.arguments:
            return "", walk.marked(0)  # a new connection has none
        case "MASQUERADE" | "SNAT":
            return "ACCEPT", walk._replace(masqueraded=True, why=rule.comment or walk.why)
        case "DNAT":
            address, port = endpoint(rule.arguments["--to-destination"], walk.packet.port)
            return "ACCEPT", walk.sent_to(address, port)._replace(why=rule.comment or walk.why)
        case "REDIRECT":
            return "ACCEPT", _redirected(rule, walk)
        case target if target in _PASSING:
            return "", walk
        case target:
            raise Unknown(f"target {target} is neither a chain there nor known here")


def endpoint(text: str, port: int) -> tuple[Address, int]:
    """`ip`, `ip:port` or `[ip]:port`; ranges are not known here."""
    host, sign, number = text.rpartition(":")
    if not sign or (host.count(":") > 1 and not host.startswith("[")) or text.endswith("]"):
        host, number = text, str(port)
    try:
        return ip_address(host.strip("[]")), int(number)
    except ValueError:
        raise Unknown(f"target DNAT --to-destination {text} is more than one address and port") from None


def _redirected(rule: Rule, walk: Walk) -> Walk:
    ports = rule.arguments.get("--to-ports", str(walk.packet.port))
    if not ports.isdigit():
        raise Unknown(f"target REDIRECT --to-ports {ports} is more than one port")
    if not walk.packet.local:
        raise Unknown(
            "target REDIRECT sends it to an address of the interface it came through, which is not known here"
        )
    loopback = ip_address("127.0.0.1" if walk.packet.destination.version == 4 else "::1")
    return walk.sent_to(loopback, int(ports))


def _marked(mark: int, arguments: Mapping[str, str]) -> int:
    for option, words in arguments.items():
        value, mask = masked(words)
        match option:
            case "--or-mark":
                return mark | value
            case "--xor-mark":
                return mark ^ value
            case "--and-mark":
                return mark & value
            case "--set-mark":
                return (mark & ~(mask | value) & 0xFFFFFFFF) | value
            case "--set-xmark":
                return (mark & ~mask & 0xFFFFFFFF) ^ value
            case _:
                raise Unknown(f"target MARK {option} is not known here")
    return mark
