"""Label and field selectors: the two query languages of list and watch.

Label grammar: k8s.io/apimachinery/pkg/labels (`a=b`, `a==b`, `a!=b`, `a in (x,y)`, `a notin (x)`, `a`, `!a`); a missing
key satisfies `!=`, `notin` and `!a`. Field grammar: `path=value`, `path==value`, `path!=value`, commas are and.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from kube.meta import LabelSelector

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]

_NAME = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_NAME})\s*(==|!=|=|>|<)\s*({_VALUE})")
_EXISTS = re.compile(rf"(!?)\s*({_NAME})")
_COMMA = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                bound = next(iter(self.values), "")
                if value is None or not _integer(value) or not _integer(bound):
                    return False
                return int(value) > int(bound) if self.operator == "Gt" else int(value) < int(bound)


@dataclass(frozen=True, slots=True)
class Selector:
    """A conjunction; the empty one selects everything, `NOTHING` nothing."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        return not self.nothing and all(r.matches(labels or {}) for r in self.requirements)

    @property
    def empty(self) -> bool:
        return not self.nothing and not self.requirements


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Terms (path, wanted equality, value)."""

    terms: tuple[tuple[str, bool, str], ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        return all((fields.get(path, "") == value) is equal for path, equal, value in self.terms)

    def required(self, path: str) -> str | None:
        """The one value that `path` must have, if the selector says so: lets a reader use an index."""
        return next((value for p, equal, value in self.terms if equal and p == path), None)


def _integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20  # about what fits into 64 bits


@lru_cache(maxsize=1024)
def parse_labels(text: str) -> Selector:
    """The selector that `text` spells; raises ValueError naming the offending part."""
    parts = _COMMA.split(text) if text.strip() else []
    return Selector(tuple(_label_requirement(part.strip()) for part in parts))


def _label_requirement(part: str) -> Requirement:
    if match := _SET.fullmatch(part):
        key, word, inner = match.groups()
        values = frozenset(v.strip() for v in inner.split(","))
        for value in values:
            if not re.fullmatch(_VALUE, value) or len(value) > 63:
                raise ValueError(f"unable to parse requirement: invalid label value {value!r} in {part!r}")
        return Requirement(key, "In" if word == "in" else "NotIn", values)
    if match := _EQUAL.fullmatch(part):
        key, sign, value = match.groups()
        if sign in "<>" and not _integer(value):
            raise ValueError(f"unable to parse requirement: {part!r}: for '>' and '<' the value must be an integer")
        operators: dict[str, Operator] = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}
        return Requirement(key, operators[sign], frozenset({value}))
    if match := _EXISTS.fullmatch(part):
        no, key = match.groups()
        return Requirement(key, "DoesNotExist" if no else "Exists")
    raise ValueError(f"unable to parse requirement: {part!r} is not `key=value`, `key in (a,b)`, `key` or `!key`")


@lru_cache(maxsize=1024)
def parse_fields(text: str) -> FieldSelector:
    """The selector that `text` spells; raises ValueError naming the offending part."""
    terms: list[tuple[str, bool, str]] = []
    for part in re.split(r"(?<!\\),", text):
        if not part:
            continue
        match = re.fullmatch(r"([^=!]+?)(==|!=|=)(.*)", part, re.DOTALL)
        if not match:
            raise ValueError(f"invalid selector: {text!r}; can't understand {part!r}")
        path, sign, value = match.groups()
        terms.append((path, sign != "!=", re.sub(r"\\([\\,=])", r"\1", value)))
    return FieldSelector(tuple(terms))


def from_label_selector(selector: LabelSelector | None) -> Selector:
    """What an object's own selector selects: none at all selects nothing, an empty one everything."""
    if selector is None:
        return NOTHING
    requirements = [Requirement(k, "In", frozenset({v})) for k, v in selector.match_labels.items()]
    requirements += [Requirement(e.key, e.operator, frozenset(e.values)) for e in selector.match_expressions]
    return Selector(tuple(requirements))


def from_map(labels: Mapping[str, str]) -> Selector:
    """A Service's selector: plain equality; the empty map selects nothing there, so callers ask first."""
    return Selector(tuple(Requirement(k, "In", frozenset({v})) for k, v in labels.items()))
