"""What a request asks of the history: how many moments, between which times, of which containers by which kind of name.

v1 takes a JSON body (`num_stats`, `start`, `end`), v2 a query string (`type`, `count`, `recursive`, `max_age`): cAdvisor's
ContainerInfoRequest and RequestOptions, with its defaults and its words where they are wrong.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from metrics.model import Sample, Snapshot


class Refused(ValueError):
    """What is asked is wrong (400) or not there (404). cAdvisor says 500 with the same words; its clients look at 200 only."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Question:
    most: int
    """Moments wanted, the newest; -1: all there are."""
    start: float = 0.0
    end: float = float("inf")
    by_alias: bool = False
    """The container is named by the runtime's name or id, not by its cgroup."""
    recursive: bool = False


def from_body(body: bytes) -> Question:
    if not body.strip():
        return Question(60)
    try:
        asked = orjson.loads(body)
    except ValueError as error:
        raise Refused(f"unable to decode the json value: {error}") from None
    if not isinstance(asked, dict):
        raise Refused("unable to decode the json value: the body is an object with num_stats, start, end")
    most = asked.get("num_stats") or 60
    if not isinstance(most, int) or isinstance(most, bool):
        raise Refused(f"num_stats: {most!r} is not a whole number")
    start, end = _time("start", asked.get("start")), _time("end", asked.get("end"))
    return Question(most, start or 0.0, end or float("inf"))


def _time(name: str, text: object) -> float | None:
    """Go's zero time is none, and its nanoseconds are cut to what Python reads."""
    if not text or (isinstance(text, str) and text.startswith("0001-01-01")):
        return None
    try:
        return dt.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(text))).timestamp()
    except (ValueError, OverflowError):
        raise Refused(f"{name}: {text!r} is not a time such as 2026-01-31T12:00:00Z") from None


def from_query(query: Mapping[str, str]) -> Question:
    kind = query.get("type") or "name"
    if kind not in ("name", "docker"):
        raise Refused(f"unknown 'type' \"{kind}\"")
    text = query.get("count") or "64"
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise Refused(f"failed to parse 'count' option: {text}")
    if int(text) < -1:
        raise Refused(f"invalid 'count' option: only -1 and larger values allowed, not {text}")
    age = query.get("max_age") or "0s"
    if not re.fullmatch(r"([0-9.]+(ns|us|µs|ms|s|m|h))+|0", age):
        raise Refused(f"failed to parse 'max_age' option: {age}")  # every answer's newest moment is of now
    return Question(int(text), by_alias=kind == "docker", recursive=query.get("recursive") == "true")


class Groups:
    """The groups of one snapshot, by name and by place. `/` is the root that the collector looks below."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._by_path = {sample.path: sample for sample in snapshot.samples}
        self._root = next((sample for sample in snapshot.samples if sample.kind == "root"), None)
        self._children: dict[str, list[Sample]] = {}
        for sample in sorted(snapshot.samples, key=lambda sample: sample.path):
            above = self._parent(sample)
            if above is not None and above is not sample:
                self._children.setdefault(above.path, []).append(sample)

    def named(self, name: str) -> Sample:
        found = self._by_path.get(name) or (self._root if name == "/" else None)
        if found is None:
            raise Refused(f'unknown container "{name}"', 404)
        return found

    def below(self, top: Sample) -> list[Sample]:
        """Itself and all groups below it, by path."""
        prefix = "/" if top is self._root else f"{top.path}/"
        inside = [s for s in self._by_path.values() if s is top or s.path.startswith(prefix)]
        return sorted(inside, key=lambda sample: sample.path)

    def directly_below(self, top: Sample) -> list[Sample]:
        return self._children.get(top.path, [])

    def _parent(self, sample: Sample) -> Sample | None:
        """The nearest group above that is reported."""
        path = sample.path
        while path := path.rpartition("/")[0]:
            if path in self._by_path:
                return self._by_path[path]
        return self._root

    def containers(self, runtime: str) -> list[Sample]:
        return [s for s in self._by_path.values() if _runs(s) == runtime]

    def aliased(self, name: str, runtime: str = "docker") -> Sample:
        """By the runtime's name or id, or the start of either that only one has."""
        candidates = [(names_of(sample), sample) for sample in self.containers(runtime)]
        exact = [sample for names, sample in candidates if name in names]
        found = exact or [sample for names, sample in candidates if name and any(n.startswith(name) for n in names)]
        if not found:
            raise Refused(f'unable to find Docker container "{name}"', 404)
        if len(found) > 1:
            raise Refused(f'unable to find container in "{runtime}" namespace. Container "{name}" is not unique')
        return found[0]


def _runs(sample: Sample) -> str:
    if sample.kind not in ("container", "sandbox") or sample.identity is None:
        return ""
    return sample.identity.runtime


def names_of(sample: Sample) -> Sequence[str]:
    owner = sample.identity
    return () if owner is None else (*owner.aliases, owner.name, owner.id)


def kept(times: Iterable[float], question: Question, bound: int) -> list[float]:
    """Those of `times`, oldest first, that are asked for: the newest, and `bound` at most (but one)."""
    slack = 1e-6  # times are told in microseconds: who gives one back means that moment
    inside = [when for when in times if question.start - slack <= when <= question.end + slack]
    most = max(1, bound) if question.most < 0 else min(question.most, max(1, bound))
    return inside[len(inside) - min(most, len(inside)) :]
