"""What is left of a rule behind an expression that the machine does not know: the verdicts that it may still give.

The rest is run twice side by side, once with registers full of zeros and once full of ones. What both have alike where an
expression reads does not come from the unknown, and a test of it is a real one. Any other test is taken for met, and a map
that is asked for the unknown may answer with each verdict that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from linux.nftables.elements import BREAK, CONTINUE, Verdict, unpacked_data
from linux.nftables.expressions import Expression
from linux.nftables.machine import Outcome, State, step
from linux.nftables.ruleset import SetContent
from linux.nftables.wire import as_number
from linux.packets import Node, Unknown, Walk
from linux.wire import as_text

_SIZE = 64  # bytes of all registers
_DICE = ("numgen", "hash")


def possible(
    expressions: Sequence[Expression], walk: Walk, sets: Mapping[str, SetContent], node: Node
) -> Iterator[Outcome]:
    """CONTINUE where the rule's end is reached. Nothing where what is known rules out that it matches."""
    one, two = _apart(walk)
    for expression in expressions:
        asked = _asked(expression, sets)
        if asked is not None and one.load(*asked) != two.load(*asked):
            verdicts = _verdicts(expression, sets)
            yield from ((each, one) for each in verdicts if each.code not in (CONTINUE, BREAK))
            if verdicts and all(each.code != CONTINUE for each in verdicts):
                return
            if 3 in expression.attributes:
                one, two = _apart(one.walk)
            continue
        try:
            (verdict, first), (_, second) = (next(step(expression, state, sets, node)) for state in (one, two))
        except Unknown:
            one, two = _apart(one.walk)
            continue
        if first.walk != second.walk:
            first = second = first.with_walk(one.walk.doubting(f"what {expression.name} writes is not known here"))
        if verdict.code == BREAK:
            return
        if verdict.code != CONTINUE:
            yield verdict, first
            return
        one, two = _apart(first.walk) if expression.name in _DICE else (first, second)
    yield Verdict(CONTINUE), one


def _apart(walk: Walk) -> tuple[State, State]:
    return State(walk), State(walk, b"\xff" * _SIZE)


def _asked(expression: Expression, sets: Mapping[str, SetContent]) -> tuple[int, int] | None:
    """(register, bytes) that a test looks at."""
    found = expression.attributes
    match expression.name:
        case "cmp" | "range":
            return as_number(found[1]), len(unpacked_data(found[3]))
        case "lookup":
            content = sets.get(as_text(found[1]))
            return (as_number(found[2]), content.about.key_length) if content is not None else None
        case _:
            return None


def _verdicts(expression: Expression, sets: Mapping[str, SetContent]) -> frozenset[Verdict]:
    """Those of a verdict map."""
    if expression.name != "lookup" or 3 not in expression.attributes:
        return frozenset()
    held = (each.element.data for each in sets[as_text(expression.attributes[1])])
    return frozenset(each for each in held if isinstance(each, Verdict))
