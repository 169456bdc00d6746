"""Which events are written, and as what: pure, with client-go's rules (tools/record/events_cache.go).

    1 similar   ten different messages of one reason about one object within ten minutes: the following ones become one event,
                "(combined from similar events): MESSAGE"
    2 the same  is counted up on the object that exists: a PATCH of count and lastTimestamp, whenever it was written first
    3 spam      each object has 25 events, and one more every five minutes; what is held back is counted all the same, and
                the next one written tells the whole count

Memory is bounded: of each of the three the 4,096 most lately used are kept.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from kube.meta import ObjectMeta, Typed

SIMILAR = 10
SIMILAR_WITHIN = 600.0
BURST = 25.0
REFILL_SECONDS = 300.0
REMEMBERED = 4096
COMBINED = "(combined from similar events): "

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Reference:
    """What an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str = field(default="", compare=False)
    field_path: str = ""

    @classmethod
    def of(cls, obj: Typed, *, kind: str = "", api_version: str = "v1", field_path: str = "") -> "Reference":
        """Members of a list come without kind and version: then `kind` and `api_version` say it."""
        meta: ObjectMeta = obj.metadata
        return cls(
            obj.api_version or api_version,
            obj.kind or kind or type(obj).__name__,
            meta.namespace,
            meta.name,
            meta.uid,
            meta.resource_version,
            field_path,
        )


@dataclass(frozen=True, slots=True)
class Occurrence:
    about: Reference
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class Record:
    """One Event object: `name` is empty until it is written."""

    first: str
    name: str = ""
    count: int = 0


@dataclass(slots=True)
class _Similar:
    messages: set[str] = field(default_factory=set)
    last: float = 0.0


class _Lately(Generic[K, V]):
    """A mapping that forgets what was used longest ago."""

    def __init__(self) -> None:
        self._known: dict[K, V] = {}

    def get(self, key: K, default: V) -> V:
        value = self._known.pop(key, default)
        self._known[key] = value
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return value

    def put(self, key: K, value: V) -> None:
        self._known[key] = value

    def __len__(self) -> int:
        return len(self._known)


class Correlator:
    def __init__(self) -> None:
        self._similar: _Lately[Occurrence, _Similar] = _Lately()
        self._records: _Lately[Occurrence, Record] = _Lately()
        self._budgets: _Lately[Reference, tuple[float, float]] = _Lately()

    def observe(self, one: Occurrence, now: float, stamp: str) -> tuple[Occurrence, Record] | None:
        """What to write and the record it belongs to; None when it is held back. `now` in seconds, `stamp` as in the API."""
        key, shown = self._aggregate(one, now)
        record = self._records.get(key, Record(stamp))
        record.count += 1
        return (shown, record) if self._allowed(one.about, now) else None

    def _aggregate(self, one: Occurrence, now: float) -> tuple[Occurrence, Occurrence]:
        """The key it is counted under, and how it is shown."""
        group = Occurrence(replace(one.about, field_path=""), one.type, one.reason, "")
        similar = self._similar.get(group, _Similar(last=now))
        if now - similar.last > SIMILAR_WITHIN:
            similar.messages.clear()
        similar.last = now
        similar.messages.add(one.message)
        if len(similar.messages) < SIMILAR:
            return one, one
        similar.messages.pop()  # it says that there are many, not which: it need not grow
        return group, replace(one, message=COMBINED + one.message)

    def _allowed(self, about: Reference, now: float) -> bool:
        key = replace(about, field_path="")
        tokens, last = self._budgets.get(key, (BURST, now))
        tokens = min(BURST, tokens + (now - last) / REFILL_SECONDS)
        self._budgets.put(key, (tokens - 1.0 if tokens >= 1.0 else tokens, now))
        return tokens >= 1.0
