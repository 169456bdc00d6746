"""Label sets as text, each rendered once.

A container's labels make up nine tenths of its lines and change never, so they are joined when the container is first seen
and kept for as long as the snapshots carry the same mapping (the very object: the collector makes a new one when a label
changes). A `Prefix` is what a line has between the family's name and its value; `more` is the same prefix with labels
added, kept too.

Values are escaped as the exposition format wants: backslash, quote, newline; everything else is legal in UTF-8.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from metrics.model import Identity, Sample

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_SPECIAL = re.compile(r'[\\"\n]')
_FOREIGN = re.compile(r"[^a-zA-Z0-9_]")
_MANY = 1000


def escaped(value: str) -> str:
    """Half a surrogate pair, as a file name that is no UTF-8 gives, would make the whole page unwritable: it becomes `?`."""
    value = value.encode("utf-8", "replace").decode() if not value.isascii() else value
    return _SPECIAL.sub(lambda m: _ESCAPES[m[0]], value)


def joined(pairs: Iterable[tuple[str, str]]) -> str:
    return ",".join([f'{name}="{escaped(value)}"' for name, value in pairs])


class Prefix:
    """`text` is `{a="b",c="d"} `."""

    __slots__ = ("_more", "open", "text")

    def __init__(self, labels: str) -> None:
        self.open = labels
        self.text = f"{{{labels}}} "
        self._more: dict[str, Prefix] = {}

    def more(self, labels: str) -> "Prefix":
        """`labels` are rendered ones: a device, an interface, a constant of a family."""
        found = self._more.get(labels)
        if found is None:
            if len(self._more) >= _MANY:  # a machine whose interfaces come and go for weeks
                self._more.clear()
            found = self._more[labels] = Prefix(f"{self.open},{labels}")
        return found


@dataclass(frozen=True, slots=True)
class Labels:
    """Which of a container's own labels become `container_label_*`: all where `store` is set, else those in `only` (cAdvisor's
    --store_container_labels, --whitelisted_container_labels). The variables that the collector was told to read become
    `container_env_*`."""

    store: bool = False
    only: frozenset[str] = frozenset()

    def of(self, identity: Identity) -> Iterator[tuple[str, str]]:
        """Two names that only differ in characters that label names lack are one; the first by the alphabet stays."""
        seen: set[str] = set()
        for kind, pairs in (("container_label_", identity.labels), ("container_env_", identity.env)):
            for key in sorted(pairs):
                name = kind + _FOREIGN.sub("_", key)
                if name not in seen and (kind == "container_env_" or self.store or key in self.only):
                    seen.add(name)
                    yield name, pairs[key]


class _Kept(NamedTuple):
    labels: Mapping[str, str]
    identity: Identity | None
    prefix: Prefix


class Prefixes:
    """The prefixes of a run of snapshots: `next` begins one, and forgets what the one before it did not ask for."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._old: dict[int, _Kept] = {}
        self._new: dict[int, _Kept] = {}

    def next(self) -> None:
        self._old, self._new = self._new, {}

    def of(self, sample: Sample) -> Prefix:
        key = id(sample.labels)  # what is kept keeps the mapping alive, so that no other takes its address
        kept = self._new.get(key) or self._old.get(key)
        if kept is None or kept.labels is not sample.labels or not _same(kept.identity, sample.identity):
            text = joined([*sorted(sample.labels.items()), *self._own(sample)])
            kept = _Kept(sample.labels, sample.identity, Prefix(text))
        self._new[key] = kept
        return kept.prefix

    def _own(self, sample: Sample) -> Iterator[tuple[str, str]]:
        """A pod's group has its sandbox's identity, but is no container."""
        if sample.identity is not None and sample.kind in ("container", "sandbox"):
            yield from self._labels.of(sample.identity)


def _same(one: Identity | None, other: Identity | None) -> bool:
    return one is other or one == other
