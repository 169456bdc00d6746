"""Which endpoints are chosen: readiness, policies and hints, in the words of a table.

An endpoint is written `NAME[*][STATE] [zones] [nodes]`: `*` runs on this node; `-` is unready, `~` serves while it
terminates, `!` terminates and no longer serves; `z:` and `n:` are its hints. This node is node1 in zone a.
"""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from proxy.endpoints import Candidate, Place, usable
from proxy.model import Endpoint, Reach, Usable

NONE = "-"
HERE = Place("node1", "a")


def candidate(text: str) -> Candidate:
    head, *hints = text.split()
    name = head.rstrip("*-~!")
    state = head[-1] if head[-1] in "-~!" else ""
    zones = tuple(word[2:] for word in hints if word.startswith("z:"))
    nodes = tuple(word[2:] for word in hints if word.startswith("n:"))
    end = Endpoint.at(IPv4Address(f"10.0.0.{ord(name) - 64}"), 80, local="*" in head)
    return Candidate(
        end, ready=not state, serving=state != "!", terminating=state in ("~", "!"), zones=zones, nodes=nodes
    )


def letters(ends: tuple[Endpoint, ...]) -> str:
    return "".join(chr(int(end.ip) % 256 + 64) for end in ends) or NONE


def chosen(text: str, policies: str, place: Place = HERE) -> Usable:
    """`policies`: internal and external, `C` or `L`; no second letter: nobody outside can reach it."""
    internal, *external = (Reach.LOCAL if letter == "L" else Reach.CLUSTER for letter in policies)
    return usable(
        [candidate(each) for each in text.split(",") if each.strip()],
        internal=internal,
        external=external[0] if external else Reach.CLUSTER,
        externally_reachable=bool(external),
        place=place,
        flows_stay=True,
    )


POLICIES = [
    # endpoints, policies -> cluster, local, any
    ("", "C", NONE, NONE, False),
    ("", "L", NONE, NONE, False),
    ("", "LL", NONE, NONE, False),
    ("A, B*", "C", "AB", NONE, True),
    ("A, B*", "L", NONE, "B", True),
    ("A, B*", "CC", "AB", NONE, True),
    ("A, B*", "CL", "AB", "B", True),
    ("A, B*", "LC", "AB", "B", True),
    ("A, B*", "LL", "AB", "B", True),
    ("A, B", "L", NONE, NONE, True),
    ("A, B", "CL", "AB", NONE, True),
    ("A*, B*", "CL", "AB", "AB", True),
    ("A-, B*-", "CL", NONE, NONE, False),
    ("A-, B*-", "L", NONE, NONE, False),
    # those that terminate serve only where nobody is ready, seen from each policy by itself
    ("A, B~", "C", "A", NONE, True),
    ("A~, B~", "C", "AB", NONE, True),
    ("A~, B!", "C", "A", NONE, True),
    ("A!, B!", "C", NONE, NONE, False),
    ("A, B*~", "CL", "A", "B", True),
    ("A~, B*", "CL", "B", "B", True),
    ("A~, B*~", "CL", "AB", "B", True),
    ("A~, B*!", "CL", "A", NONE, True),
    ("A~, B", "L", NONE, NONE, True),
    ("A~", "L", NONE, NONE, True),
    ("A*~", "L", NONE, "A", True),
    ("A*-, B*~", "L", NONE, "B", True),
]

HINTS = [
    # endpoints, policies -> cluster, local
    # zones
    ("A z:a, B z:b, C z:c", "C", "A", NONE),
    ("A z:a, B z:b, C z:a", "C", "AC", NONE),
    ("A z:a z:b, B z:b", "C", "A", NONE),
    ("A z:b, B z:b, C z:c", "C", "ABC", NONE),  # nobody is meant for this zone
    ("A z:a, B, C z:c", "C", "ABC", NONE),  # one has no hint: all are void
    ("A z:a, B-, C z:c", "C", "A", NONE),  # but not if that one is not ready
    ("A- z:a, B z:b", "C", "B", NONE),  # the one for us is not ready
    ("A~ z:a, B z:b", "C", "B", NONE),
    ("A~ z:a, B~ z:b", "C", "AB", NONE),  # hints are for those that are ready
    ("A, B", "C", "AB", NONE),
    # nodes
    ("A n:node1, B n:node2", "C", "A", NONE),
    ("A n:node1 n:node2, B n:node2", "C", "A", NONE),
    ("A n:node2, B n:node3", "C", "AB", NONE),
    ("A n:node1, B", "C", "AB", NONE),
    ("A n:node1, B-", "C", "A", NONE),
    ("A- n:node1, B n:node2", "C", "B", NONE),
    ("A~ n:node1, B~ n:node2", "C", "AB", NONE),
    # nodes before zones
    ("A z:a n:node1, B z:a n:node2, C z:b n:node3", "C", "A", NONE),
    ("A z:a n:node2, B z:a n:node2, C z:b n:node3", "C", "AB", NONE),
    ("A z:b n:node2, B z:c n:node3", "C", "AB", NONE),
    ("A z:a n:node1, B z:a, C z:b", "C", "AB", NONE),  # a node hint is missing: zones decide
    ("A z:b n:node1, B z:a n:node2", "C", "A", NONE),
    # with other policies
    ("A* z:b, B* z:a, C z:a", "L", NONE, "AB"),
    ("A* z:b, B z:a, C* z:b", "CL", "B", "AC"),
    ("A* z:b, B z:a", "CC", "B", NONE),
    ("A* z:b, B z:a", "LC", "B", "A"),
    ("A* n:node2, B n:node1", "LL", "B", "A"),
    ("A* z:b, B z:b", "CL", "AB", "A"),
    ("A*~ z:a, B z:a", "CL", "B", "A"),
]


@pytest.mark.parametrize(("ends", "policies", "cluster", "local", "anyone"), POLICIES)
def test_policies_and_conditions(ends: str, policies: str, cluster: str, local: str, anyone: bool) -> None:
    found = chosen(ends, policies)
    assert (letters(found.cluster), letters(found.local), found.any) == (cluster, local, anyone)


@pytest.mark.parametrize(("ends", "policies", "cluster", "local"), HINTS)
def test_hints(ends: str, policies: str, cluster: str, local: str) -> None:
    found = chosen(ends, policies)
    assert (letters(found.cluster), letters(found.local)) == (cluster, local)


@pytest.mark.parametrize(
    ("ends", "cluster"),
    [
        ("A z:a, B z:b", "AB"),
        ("A n:node1, B n:node2", "A"),
        ("A n:node1 z:a, B n:node2 z:b", "A"),
        ("A n:node2 z:a", "A"),
    ],
)
def test_a_node_without_a_zone(ends: str, cluster: str) -> None:
    assert letters(chosen(ends, "C", Place("node1")).cluster) == cluster


def test_flows_may_stay_with_all_that_serve() -> None:
    found = chosen("A* z:b, B z:a, C-, D~, E!", "C")
    assert (letters(found.cluster), letters(found.serving)) == ("B", "ABCD")
    one = chosen("A, B", "C")
    assert one.serving is one.cluster


def test_all_is_both_lists_in_order_and_each_once() -> None:
    assert letters(chosen("A, B*~, C", "CL").all) == "ABC"
    assert letters(chosen("A*, B", "CL").all) == "AB"
    assert letters(chosen("A*, B", "L").all) == "A"
