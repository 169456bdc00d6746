"""One rule of a container in nftables' table: as nft takes it, and as nft lists it in JSON (libnftables-json(5)).

The same value from both sides, so that what is there can be compared with what should be. nft spells a rule back in its own
way (a range without its host bits, its mark in decimal, an expression in the form of its version), therefore only what the
rule says is compared: the packets that it takes, and what it does with them.
"""

from __future__ import annotations

from cni.model import subnet_of
from linux.rtnetlink import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from cni.codec import Json

MARK, DNAT, MASQUERADE, NOTE = "mark", "dnat", "masquerade", "continue"


class Rule:
    """``source`` and ``destination`` are ranges ("10.244.1.0/24") or "", ``port`` is 0 where none is asked for, ``mark`` the bits
    that it sets or asks for, ``target`` ("10.244.1.7:80") where dnat leads. ``pod`` is the address that it serves: a rule that
    marks does not say it, but the redirection behind it does."""

    __slots__ = (
        "action",
        "chain",
        "comment",
        "destination",
        "handle",
        "mark",
        "pod",
        "port",
        "protocol",
        "source",
        "target",
    )

    def __init__(
        self,
        chain: str,
        action: str,
        *,
        source: str = "",
        destination: str = "",
        protocol: str = "",
        port: int = 0,
        mark: int = 0,
        target: str = "",
        comment: str = "",
        handle: Json = None,
        pod: str = "",
    ) -> None:
        self.chain: Final = chain
        self.action: Final = action
        self.source: Final = source
        self.destination: Final = destination
        self.protocol: Final = protocol
        self.port: Final = port
        self.mark: Final = mark
        self.target: Final = target
        self.comment: Final = comment
        self.handle: Final = handle
        self.pod = pod

    @property
    def meaning(self) -> tuple[str | int, ...]:
        """Equal for two rules that do the same to the same packets."""
        ranges = (_range(self.source), _range(self.destination))
        return (self.chain, self.action, *ranges, self.protocol, self.port, self.mark, self.target)

    def text(self) -> str:
        """The rule without its chain and comment."""
        ip = "ip6" if ":" in f"{self.source}{self.destination}" else "ip"
        words = [f"meta mark & {self.mark:#x} == {self.mark:#x}"] if self.action == MASQUERADE else []
        words += [f"{ip} saddr {self.source}"] if self.source else []
        words += [f"{ip} daddr {self.destination}"] if self.destination else []
        words += [f"{self.protocol} dport {self.port}"] if self.port else []
        match self.action:
            case "mark":
                words.append(f"meta mark set meta mark | {self.mark:#x}")
            case "dnat":
                words.append(f"dnat to {self.target}")
            case _:
                words.append(self.action)
        return " ".join(words)


def read(said: Mapping[str, Json]) -> Rule:
    """A rule as nft lists it. One with a condition that this module never writes has no action, so it equals none of ours."""
    action, target, protocol, pod, port, mark, strange = "", "", "", "", 0, 0, False
    ranges = {"saddr": "", "daddr": ""}
    listed = said.get("expr")
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict):
            continue
        (kind, value), *_ = each.items() or [("", None)]
        match kind, value:
            case "match", {"op": "==", "left": {"payload": {"field": ("saddr" | "daddr") as field}}, "right": right}:
                ranges[str(field)] = _address(right)
            case "match", {
                "op": "==",
                "left": {"payload": {"field": "dport", "protocol": asked}},
                "right": int(number),
            }:
                protocol, port = str(asked), number
            case ("match", {"left": left, "right": right}) if "'mark'" in str(left):
                mark = _number(right)
            case "match", _:
                strange = True
            case "mangle", {"value": value}:
                action, mark = MARK, _number(value)
            case "dnat", {"addr": str(address), "port": number}:
                action, pod = DNAT, address
                target = f"[{address}]:{number}" if ":" in address else f"{address}:{number}"
            case ((("masquerade" | "continue") as verdict), _):
                action, pod = str(verdict), ranges["daddr"]
            case _:
                pass  # a counter
    return Rule(
        str(said.get("chain")),
        "" if strange else action,
        source=ranges["saddr"],
        destination=ranges["daddr"],
        protocol=protocol,
        port=port,
        mark=mark,
        target=target,
        comment=str(said.get("comment", "")),
        handle=said.get("handle"),
        pod=pod,
    )


def jumps(said: Mapping[str, Json]) -> list[str]:
    """The chains that the rule jumps to."""
    listed = said.get("expr")
    found = [each.get("jump") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [str(each.get("target")) for each in found if isinstance(each, dict)]


def _address(said: Json) -> str:
    match said:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case _:
            return str(said)


def _number(said: Json) -> int:
    """The one number in an expression such as {"|": [{"meta": ...}, 8192]}."""
    match said:
        case bool():
            return 0
        case int():
            return said
        case list():
            return max(map(_number, said), default=0)
        case dict():
            return max(map(_number, said.values()), default=0)
        case _:
            return 0


def _range(text: str) -> str:
    """The range in one spelling; what is none as it stands."""
    if not text:
        return ""
    address, _, length = text.partition("/")
    try:
        number = packed(address)
        return str(subnet_of(number, int(length or len(number) * 8)))
    except ValueError:
        return text
