"""Rules by type, compiled into one walk over an object.

Upstream has a function a type, each calling those of the types below it. Here each module lists what it knows of a type:

    "core.v1.ContainerPort": Rule(required=("containerPort",), fields={"protocol": one_of("SCTP", "TCP", "UDP")}),

and the schema table says where that type occurs: `walker` compiles, once a type, the few fields that have rules below
them, so that a walk visits nothing else. A rule of a container thus holds in pods, templates and jobs alike, and its
path is right by construction. Paths are linked pairs, spelt out only when something is wrong.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from apiserver import errors, schema
from apiserver.errors import Cause
from apiserver.schema import Shape
from apiserver.seen import Seen
from apiserver.validation.names import NEGATIVE

Json = dict[str, Any]
Path = Any  # (path of the parent, key or index); () at the top
TOP: Final[Path] = ()
_FEW: Final = 2
_SERIAL: Final = frozenset({"io.k8s.api.core.v1.PodSpec"})  # large, and many are alike
_EMPTY: Final[tuple[Any, ...]] = ("", [], None)


def spelt(path: Path) -> str:
    """`spec.containers[0].resources.limits[cpu]`; a part that begins with `[` is a key in brackets already."""
    text = ""
    while path:
        path, part = path
        shown = f"[{part}]" if type(part) is int else part
        text = f"{shown}{text}" if shown.startswith("[") else f".{shown}{text}"
    return text.removeprefix(".")


class Found:
    """What is wrong, as it is found. `claims` are volumes that pods get without naming them: those of a StatefulSet."""

    __slots__ = ("causes", "claims")

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.claims: frozenset[str] = frozenset()

    def required(self, path: Path, detail: str = "") -> None:
        self.causes.append(errors.required(spelt(path), detail))

    def invalid(self, path: Path, value: object, detail: str) -> None:
        self.causes.append(errors.cause(spelt(path), errors.INVALID, value, detail))

    def unsupported(self, path: Path, value: object, values: Iterable[str]) -> None:
        self.causes.append(errors.not_supported(spelt(path), value, values))

    def forbidden(self, path: Path, detail: str) -> None:
        self.causes.append(errors.cause(spelt(path), errors.FORBIDDEN, detail=detail))

    def duplicate(self, path: Path, value: object) -> None:
        self.causes.append(errors.cause(spelt(path), errors.DUPLICATE, value))

    def missing(self, path: Path, value: object) -> None:
        """The value names something that is not there."""
        self.causes.append(errors.cause(spelt(path), errors.NOT_FOUND, value))

    def too_long(self, path: Path, limit: int) -> None:
        self.causes.append(errors.too_long(spelt(path), limit))

    def too_many(self, path: Path, count: int, limit: int) -> None:
        items = "item" if limit == 1 else "items"
        detail = f"must have at most {limit} {items}"
        self.causes.append(errors.cause(spelt(path), errors.TOO_MANY, count, detail))


Check = Callable[[Any, Path, Found], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one type: `required` fields are there and not empty, `fields` pass their check where they are there,
    and `checks` see the whole object. `final` types are judged by their checks alone: nothing below them is walked."""

    fields: Mapping[str, Check] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    final: bool = False


Rules = Mapping[str, Rule]
_API: Final = "io.k8s.api."
_TABLE: Final[dict[str, Rule]] = {}


def register(rules: Rules) -> None:
    """Names are those of OpenAPI, `io.k8s.api.` left out."""
    for name, rule in rules.items():
        known = name if name.startswith("io.") else _API + name
        if known in _TABLE:
            raise AssertionError(f"two rules for {known}")
        _TABLE[known] = rule


def registered() -> Mapping[str, Rule]:
    return _TABLE


@dataclass(frozen=True, slots=True)
class Walk:
    """What one type's walk consists of: `steps` by field, the fields that must be there (`structs` may stay away), and the
    checks of the whole; `check` is all of it as one function."""

    steps: dict[str, Check]
    required: tuple[str, ...]
    checks: tuple[Check, ...]
    structs: frozenset[str]
    check: Check

    def changed(self, new: Json, old: Json, found: Found) -> None:
        """The walk at the top of an object that was valid: what is as it was then is not looked at again."""
        for key, step in self.steps.items():
            value = new.get(key)
            if value is not None and value != old.get(key):
                step(value, (TOP, key), found)
        for key in self.required:
            if old.get(key) and not new.get(key):
                _absent(key, self.steps, self.structs, TOP, found)
        for check in self.checks:
            check(new, TOP, found)


def _absent(key: str, steps: dict[str, Check], structs: frozenset[str], path: Path, found: Found) -> None:
    """A struct that is not there is one with nothing in it, as in Go: what is missing is what should be inside."""
    if key in structs:
        steps[key]({}, (path, key), found)
    else:
        found.required((path, key))


@cache
def walker(name: str) -> Walk | None:
    """The walk over a type, shared by all that hold it; None where nothing is to be said of it, or of anything below.
    The one type that holds itself, the schema of a definition, is final."""
    rule = _TABLE.get(name, Rule())
    steps: dict[str, Check] = {}
    structs: set[str] = set()
    for key, known in schema.named(name).fields.items():
        below = None
        if "." in known.type and not rule.final:
            below = _nested(known.type, known.shape)
        if below and known.shape is Shape.ONE:
            structs.add(key)
        own = rule.fields.get(key)
        if own and below:
            steps[key] = both(own, below)
        elif own or below:
            steps[key] = own or below  # type: ignore[assignment]
    if unknown := (rule.fields.keys() | set(rule.required)) - schema.named(name).fields.keys():
        raise AssertionError(f"{name} has no fields {sorted(unknown)}")
    if not (steps or rule.required or rule.checks):
        return None
    fixed = frozenset(structs)
    whole = _whole(steps, rule, fixed)
    return Walk(steps, rule.required, rule.checks, fixed, _recalled(whole) if name in _SERIAL else whole)


def _recalled(check: Check) -> Check:
    """Without the walk for what an earlier walk had nothing to say of. Claims are something to know beside the value."""
    seen = Seen()

    def look(value: Any, path: Path, found: Found) -> None:
        if found.claims:
            check(value, path, found)
            return
        key, known = seen.look(value)
        if known:
            return
        before = len(found.causes)
        check(value, path, found)
        if len(found.causes) == before:
            seen.keep(key)

    return look


def _whole(steps: dict[str, Check], rule: Rule, structs: frozenset[str]) -> Check:
    """One function for a type, as short as what it has to do: most types have one or two things said of them."""
    parts: list[Check] = []
    if steps:
        parts.append(_stepping(steps))
    if rule.required:
        parts.append(_requiring(rule.required, steps, structs))
    parts.extend(rule.checks)
    return parts[0] if len(parts) == 1 else both(*parts)


def _stepping(steps: dict[str, Check]) -> Check:
    few = tuple(steps.items())

    def look(obj: Any, path: Path, found: Found) -> None:
        for key, step in few:
            value = obj.get(key)
            if value is not None:
                step(value, (path, key), found)

    def search(obj: Any, path: Path, found: Found) -> None:
        for key, value in obj.items():
            step = steps.get(key)
            if step is not None:
                step(value, (path, key), found)

    if len(few) == 1:
        return _only(*few[0])
    return look if len(few) <= _FEW else search


def _only(key: str, step: Check) -> Check:
    def look(obj: Any, path: Path, found: Found) -> None:
        value = obj.get(key)
        if value is not None:
            step(value, (path, key), found)

    return look


def _requiring(required: tuple[str, ...], steps: dict[str, Check], structs: frozenset[str]) -> Check:
    def check(obj: Any, path: Path, found: Found) -> None:
        for key in required:
            if key not in obj or obj[key] in _EMPTY:
                _absent(key, steps, structs, path, found)

    return check


def _nested(name: str, shape: Shape) -> Check | None:
    kind = schema.load().types.get(name)
    below = walker(name) if kind is not None and kind.fields else None
    if below is None:
        return None
    match shape:
        case Shape.ONE:
            return below.check
        case Shape.LIST:
            return each(below.check)
        case Shape.MAP:
            return each_value(below.check)


def both(*checks: Check) -> Check:
    if len(checks) == 2:
        one, other = checks

        def pair(value: Any, path: Path, found: Found) -> None:
            one(value, path, found)
            other(value, path, found)

        return pair

    def check(value: Any, path: Path, found: Found) -> None:
        for one in checks:
            one(value, path, found)

    return check


def each(one: Check) -> Check:
    def check(values: Any, path: Path, found: Found) -> None:
        for index, value in enumerate(values):
            one(value, (path, index), found)

    return check


def each_value(one: Check) -> Check:
    def check(values: Any, path: Path, found: Found) -> None:
        for key, value in values.items():
            one(value, (path, f"[{key}]"), found)

    return check


def one_of(*values: str) -> Check:
    allowed = frozenset(values)

    def check(value: Any, path: Path, found: Found) -> None:
        if value not in allowed:
            found.unsupported(path, value, values)

    return check


def written(rule: Callable[[str], Iterable[str]]) -> Check:
    """A text that `rule` (of `names`) has nothing to say against; an empty one is the same as none."""

    def check(value: Any, path: Path, found: Found) -> None:
        if value:
            for text in rule(value):
                found.invalid(path, value, text)

    return check


def at_least(low: int, detail: str = "") -> Check:
    text = detail or (NEGATIVE if low == 0 else "must be greater than 0" if low == 1 else f"must be at least {low}")

    def check(value: Any, path: Path, found: Found) -> None:
        if value < low:
            found.invalid(path, value, text)

    return check


def between(low: int, high: int) -> Check:
    text = f"must be between {low} and {high}, inclusive"

    def check(value: Any, path: Path, found: Found) -> None:
        if not low <= value <= high:
            found.invalid(path, value, text)

    return check


def at_most(limit: int) -> Check:
    """So many items, no more."""

    def check(value: Any, path: Path, found: Found) -> None:
        if len(value) > limit:
            found.too_many(path, len(value), limit)

    return check


def no_longer(limit: int) -> Check:
    def check(value: Any, path: Path, found: Found) -> None:
        if len(value.encode()) > limit:
            found.too_long(path, limit)

    return check


def unique(*keys: str) -> Check:
    """No two elements agree in these fields; elements that have none of them do not count. Named by the one field, or
    as a whole."""

    def check(values: Any, path: Path, found: Found) -> None:
        if len(values) < 2:
            return
        seen: set[tuple[Any, ...]] = set()
        for index, one in enumerate(values):
            key = tuple(one.get(name) for name in keys)
            if key in seen and any(key):
                if len(keys) == 1:
                    found.duplicate(((path, index), keys[0]), key[0])
                else:
                    found.duplicate((path, index), dict(zip(keys, key, strict=True)))
            seen.add(key)

    return check


def distinct(values: Any, path: Path, found: Found) -> None:
    """A list of plain values without repetition."""
    seen: set[Any] = set()
    for index, one in enumerate(values):
        if one in seen:
            found.duplicate((path, index), one)
        seen.add(one)


def exactly_one(noun: str, *keys: str) -> Check:
    """One of these fields is there and no other: `must specify a {noun} type`, as upstream words unions."""

    known = frozenset(keys)

    def check(obj: Any, path: Path, found: Found) -> None:
        if len(known & obj.keys()) == 1:
            return
        given = [key for key in keys if key in obj]
        if not given:
            found.required(path, f"must specify a {noun} type")
        for key in given[1:]:
            found.forbidden((path, key), f"may not specify more than 1 {noun} type")

    return check
