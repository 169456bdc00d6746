"""Where a watch on etcd stands: which revision it has seen whole, and the change that proves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apiserver.store import Batch, Change, end_of
from apiserver.store.etcd_keys import Versions
from kube.etcd_wire import Event

Read = Callable[[Event, int], Change | None]


class Position:
    """`after` is the resource version to resume from; it may lie within a transaction, whose rest is then still to come."""

    def __init__(self, after: int, versions: Versions) -> None:
        self._versions = versions
        self._after = after
        whole = end_of(after) == after
        self.revision = versions.revision(after)
        self.start = self.revision + 1 if whole else self.revision
        self.witness: Event | None = None
        self.resumed = False

    def advance(self, events: Sequence[Event], read: Read) -> Batch | None:
        """What the events, which end with a whole revision, mean to a watcher."""
        if not events:
            return None
        changes: list[Change] = []
        revision, place = 0, 0
        for event in events:
            place = place + 1 if event.kv.mod_revision == revision else 0
            revision = event.kv.mod_revision
            change = read(event, place)
            if change is not None and change.rv > self._after:
                changes.append(change)
        self.witness, self.revision, self.start = events[-1], revision, revision + 1
        return Batch(tuple(changes), self._versions.whole(revision))
