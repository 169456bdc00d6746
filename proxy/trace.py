"""`wherry proxy trace`: what happens to a packet on this node, told from the rules that are in the kernel now.

The tracers give every way in which it may end; here they become sentences. Ways that differ by chance only (which endpoint
the dice choose) are told together, with their shares. What no rule decides, the routes do: a packet for an address without
a route never leaves, and the node's own packets need one even before the rules may rewrite them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from linux.packets import Address, Ending, Node, Packet, Step, follow
from linux.route_lookup import Way
from proxy.kernel_rules import At, KernelRules, service_named

MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where some of the packets go. `share` of all, between 0 and 1. `fate`: delivered, here (to the node itself), refused,
    dropped, or stranded (no route leads there). `endpoint`: whether a rule chose the address. `device`: through which
    interface it leaves. `said`: the words of the rule that decided."""

    fate: str
    address: Address
    port: int
    share: float
    endpoint: bool
    masqueraded: bool
    device: str
    said: str
    steps: tuple[Step, ...]
    doubts: tuple[str, ...]

    @property
    def arrives(self) -> bool:
        return self.fate in ("delivered", "here")


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of a packet's way. `service`: the Service port that decided, empty where none did; `found` is where
    its name comes from when rules do not say it. `sources`: the interfaces whose rules it met, the proxies' among them."""

    packet: Packet
    outcomes: tuple[Outcome, ...]
    service: str
    found: str
    sources: tuple[str, ...]
    proxies: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def arrives(self) -> bool:
        return bool(self.outcomes) and all(outcome.arrives for outcome in self.outcomes)


Ways = Callable[[Address], Way | None]


def told(
    rules: KernelRules, packet: Packet, node: Node, ways: Ways, known: Mapping[At, str], notes: Iterable[str] = ()
) -> Story:
    """`ways` gives the route to an address. `known`: Service ports by what is sent to them, as the API says; may be empty."""
    if packet.local and ways(packet.destination) is None:
        words = "the node has no route to it, and the kernel looks for one before any rule may rewrite the destination"
        lost = Outcome("stranded", packet.destination, packet.port, 1.0, False, False, "", words, (), ())
        return _story(rules, packet, (lost,), "", known, node, notes)
    endings = follow(rules.bases(node), packet, node)
    outcomes = tuple(sorted(_gathered(_outcome(ending, ways) for ending in endings), key=_order))
    names = {name for ending in endings for name in _names(ending)}
    return _story(rules, packet, outcomes, min(names, default=""), known, node, notes)


def _story(
    rules: KernelRules,
    packet: Packet,
    outcomes: tuple[Outcome, ...],
    named: str,
    known: Mapping[At, str],
    node: Node,
    more: Iterable[str],
) -> Story:
    at = At(packet.destination, packet.protocol, packet.port)
    by_api = known.get(at, "")
    if not by_api and node.holds(packet.destination):
        by_api = known.get(At(None, packet.protocol, packet.port), "")
    notes = [*more, *rules.untold]
    if by_api and named and named != by_api:
        notes.append(f"the API says that this address and port belong to {by_api}; the rules here say {named}")
    if by_api and not named:
        notes.append(f"the API says that this address and port belong to {by_api}, but no rule here knows them")
    if not rules.proxies:
        notes.append("no proxy has written rules here: neither KUBE-SERVICES nor a table kube-proxy exists")
    notes += sorted({doubt for outcome in outcomes for doubt in outcome.doubts})
    found = "" if named or not by_api else "the API"
    sources = tuple(source.words for source in rules.sources)
    return Story(packet, outcomes, named, found, sources, rules.proxies, tuple(notes))


def _names(ending: Ending) -> Iterator[str]:
    for words in (*(step.said for step in ending.steps), ending.why):
        if name := service_named(words):
            yield name


def _outcome(ending: Ending, ways: Ways) -> Outcome:
    way = ways(ending.destination)
    match ending.verdict:
        case "REJECT":
            fate = "refused"
        case "DROP":
            fate = "dropped"
        case _ if ending.delivered_here:
            fate = "here"
        case _:
            fate = "delivered" if way is not None else "stranded"
    return Outcome(
        fate,
        ending.destination,
        ending.port,
        ending.share,
        ending.rewritten,
        ending.masqueraded,
        way.device if way else "",
        ending.why,
        ending.steps,
        ending.doubts,
    )


def _gathered(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Outcomes that differ by their way only become one; the first way stands for all."""
    found: dict[tuple[object, ...], Outcome] = {}
    for outcome in sorted(outcomes, key=lambda each: str(each.steps)):
        key = (outcome.fate, outcome.address, outcome.port, outcome.masqueraded, outcome.doubts)
        known = found.get(key)
        share = outcome.share + (known.share if known else 0.0)
        found[key] = Outcome(
            outcome.fate,
            outcome.address,
            outcome.port,
            share,
            outcome.endpoint,
            outcome.masqueraded,
            outcome.device,
            (known or outcome).said,
            (known or outcome).steps,
            outcome.doubts,
        )
    return list(found.values())


def _order(outcome: Outcome) -> tuple[int, int, int]:
    return int(outcome.address), outcome.port, int(outcome.masqueraded)


# --- words ---------------------------------------------------------------------------------------------------------


def at(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def lines(story: Story, most: int = MOST_SHOWN) -> Iterator[str]:
    """The story in sentences."""
    packet = story.packet
    come = (
        "sent by this node itself"
        if packet.local
        else f"arriving through {packet.in_interface or 'no known interface'}"
    )
    yield f"{packet.protocol.upper()} from {packet.source} to {at(packet.destination, packet.port)}, {come}"
    yield f"rules of: {', '.join(story.sources) or 'nobody: there are none in this network namespace'}"
    yield ""
    if story.service:
        kind = next((kind for kind in _kinds(story) if kind), "")
        yield f"Service {story.service} decides{f', by its {kind}' if kind else ''}."
    elif story.found:
        yield "No rule names a Service."
    else:
        yield "No Service has this address and port here."
    for outcome in story.outcomes[:most]:
        yield f"  {_sentence(outcome, packet)}"
    if len(story.outcomes) > most:
        yield f"  and {len(story.outcomes) - most} more (-o json lists all)"
    yield ""
    yield from _chains(story.outcomes)
    for note in story.notes:
        yield f"note: {note}"


def _kinds(story: Story) -> Iterator[str]:
    """What of the Service was met, as upstream's comments say it: `namespace/name:port cluster IP`."""
    for outcome in story.outcomes:
        for step in outcome.steps:
            kind = step.said.removeprefix(story.service).strip()
            if step.said.startswith(story.service) and kind in _KINDS:
                yield _KINDS[kind]
            elif step.chain == "KUBE-NODEPORTS" and any(each.said == story.service for each in outcome.steps):
                yield "node port"


_KINDS = {"cluster IP": "cluster IP", "external IP": "external IP", "loadbalancer IP": "load balancer IP"}


def _sentence(outcome: Outcome, packet: Packet) -> str:
    share = "" if outcome.share > 0.9999 else f"{outcome.share * 100:5.1f} %  "
    where = at(outcome.address, outcome.port)
    said = f" ({outcome.said})" if outcome.said else ""
    match outcome.fate:
        case "refused":
            return f"{share}refused at once (REJECT){said}"
        case "dropped":
            return f"{share}dropped without an answer (DROP){said}"
        case "stranded" if not outcome.steps:
            return f"{share}never sent: {outcome.said}"
        case "stranded":
            return f"{share}to {where}, which no route of this node leads to"
        case "here":
            verb = f"to {where} on this node itself" if outcome.endpoint else "delivered to this node itself"
        case _:
            verb = (
                f"to {where} through {outcome.device}"
                if outcome.endpoint
                else f"unchanged to {where} through {outcome.device}"
            )
    seen = "with this node's address as the source" if outcome.masqueraded else f"with its source {packet.source} kept"
    return f"{share}{verb}, {seen}"


def _chains(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Through which chains, each line as far as all ways share it, then where they part."""
    ways = [outcome.steps for outcome in outcomes if outcome.steps]
    if not ways:
        return
    common = 0
    while all(len(way) > common for way in ways) and len({way[common] for way in ways}) == 1:
        common += 1
    yield "way:"
    table = ""
    for step in ways[0][:common]:
        yield f"  {_step(step, table)}"
        table = step.table
    if any(way[common:] for way in ways):
        yield f"  then {len(ways)} ways, the first of them:"
        for step in ways[0][common:]:
            yield f"  {_step(step, table)}"
            table = step.table


def _step(step: Step, table: str) -> str:
    where = step.table if step.table != table else ""
    return f"{where:<8} {step.chain:<28} {step.said}".rstrip()


def document(story: Story) -> dict[str, Any]:
    """For -o json."""
    packet = story.packet
    return {
        "packet": {
            "from": str(packet.source),
            "to": at(packet.destination, packet.port),
            "protocol": packet.protocol,
            "local": packet.local,
            "interface": None if packet.local else packet.in_interface,
        },
        "service": story.service or None,
        "rulesOf": list(story.sources),
        "arrives": story.arrives,
        "outcomes": [
            {
                "fate": outcome.fate,
                "address": at(outcome.address, outcome.port),
                "share": round(outcome.share, 6),
                "endpoint": outcome.endpoint,
                "masqueraded": outcome.masqueraded,
                "through": outcome.device or None,
                "said": outcome.said or None,
                "chains": [
                    {"table": step.table, "chain": step.chain, "said": step.said or None} for step in outcome.steps
                ],
            }
            for outcome in story.outcomes
        ],
        "notes": list(story.notes),
    }
