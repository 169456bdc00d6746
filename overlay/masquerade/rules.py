"""What --ip-masq and --iptables-forward-rules ask of one family, as rules that are nobody's words yet. Pure.

    after routing (nat)
        mark 0x4000/0x4000                  return       kube-proxy masquerades those itself
        from our pods to the network        return       pod to pod: the source is kept
        from the network to our pods        return
        from elsewhere to our pods          return       NodePort traffic that has reached its node
        from the network to elsewhere       masquerade   (multicast aside) the world cannot answer a pod's address
        from elsewhere to the network       masquerade   so that the answer comes back through this node
    forwarding (filter)
        from or to the network              accept       even where the policy is DROP, as dockerd sets it

They are flannel's, in flannel's order. (flannel's nftables rules have, in the fourth, "not from our pods to the network", which
leaves nothing for the sixth, and compare the mark without its mask; these are its iptables rules.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network
from typing import NamedTuple, Protocol

from linux.iptables.rules import Family
from overlay.model import Range

KUBE_MARK = 0x4000
_MULTICAST = {Family.V4: ip_network("224.0.0.0/4"), Family.V6: ip_network("ff00::/8")}


@dataclass(frozen=True, slots=True)
class Rules:
    """The wish. `networks`: all pods; `subnet`: this node's. Without `masquerade` and `forward` nothing shall be there."""

    family: Family
    networks: tuple[Range, ...]
    subnet: Range
    masquerade: bool = True
    forward: bool = True
    random_fully: bool = True


class Verdict(StrEnum):
    RETURN = "RETURN"
    MASQUERADE = "MASQUERADE"
    ACCEPT = "ACCEPT"


class Match(NamedTuple):
    """An address lies in the range, or (`inverted`) does not."""

    range: Range
    inverted: bool = False


class Line(NamedTuple):
    """One rule. `marked`: the packet bears kube-proxy's mark."""

    verdict: Verdict
    source: Match | None = None
    destination: Match | None = None
    marked: bool = False


def postrouting(rules: Rules) -> tuple[Line, ...]:
    if not rules.masquerade:
        return ()
    pods = Match(rules.subnet)
    multicast = Match(_MULTICAST[rules.family], inverted=True)
    inside = [(Match(net), Match(net, inverted=True)) for net in rules.networks]
    lines = [Line(Verdict.RETURN, marked=True)]
    for net, _ in inside:
        lines += [Line(Verdict.RETURN, pods, net), Line(Verdict.RETURN, net, pods)]
    lines += [Line(Verdict.RETURN, outside, pods) for _, outside in inside]
    lines += [Line(Verdict.MASQUERADE, net, multicast) for net, _ in inside]
    lines += [Line(Verdict.MASQUERADE, outside, net) for net, outside in inside]
    return tuple(lines)


def forwarding(rules: Rules) -> tuple[Line, ...]:
    if not rules.forward:
        return ()
    nets = [Match(net) for net in rules.networks]
    return tuple(line for net in nets for line in (Line(Verdict.ACCEPT, net), Line(Verdict.ACCEPT, destination=net)))


class Written(NamedTuple):
    """In words: what somebody else had changed of a wish that was there already, and what was written for a new one."""

    repaired: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


class Writer(Protocol):
    """One of the kernel's two packet filters. `words`: what is written, for the log."""

    words: str

    async def watching(self, touched: Callable[[], None]) -> None:
        """From now until `close`, `touched` is called when somebody else changed rules of ours."""
        ...

    async def sync(self, rules: Rules) -> Written:
        """Make the kernel hold the wish. Raises Retry."""
        ...

    async def differences(self, rules: Rules) -> list[str]:
        """What `sync` would write, in words; nothing is. Raises Retry."""
        ...

    async def forget(self) -> list[str]:
        """Remove what bears our names; in words. Raises Retry."""
        ...

    async def close(self) -> None:
        """The rules stay."""
        ...
