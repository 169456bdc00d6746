"""The watch cache: every object, and the recent changes of every resource. All reads come from here.

It is fed only by `store.watch`, in commit order, so every reader and every watcher sees one history. A writer waits
for the cache to pass its own write before it answers: what a client was told, the next read shows.

An object is kept as the bytes that are served, in pieces where it has text that others have as well (`Sharing`: pods of one
controller have the same owners, half of each). The store's value has no resource version; `stamp` puts it at the head of the
metadata (`"metadata":{"resourceVersion":"640","name":...`), which is why `storage_bytes` writes kind, apiVersion and metadata
first: the first `"metadata":{` in the bytes is then the object's own.

The cache starts from the oldest state the store's log can still reconstruct and replays the log, so that a client whose
watch broke when the server was restarted resumes where it was.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from sys import intern
from typing import Any, Final

import orjson

from apiserver import layout
from apiserver.managed.sharing import Pieces, Sharing
from apiserver.store import Batch, Change, Compacted, Snapshot, Store, StoreLost

log = logging.getLogger(__name__)

Fields = Mapping[str, str]
Describe = Callable[[dict[str, Any]], Fields]
Key = tuple[str, str]  # namespace ("" for cluster scope), name

RING_EVENTS: Final = 4096
TOLD_AT_ONCE: Final = 200
RING_BYTES: Final = 32 << 20
_HEAD: Final = b'"metadata":{'
_STAMP: Final = b'"resourceVersion":"'


def storage_bytes(obj: Mapping[str, Any]) -> bytes:
    """The value to store: without resource version, with the keys that `stamp` relies on in front."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    head = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
    return orjson.dumps(head | {key: value for key, value in obj.items() if key not in head})


def stamp(value: bytes, rv: int) -> bytes:
    position = value.index(_HEAD) + len(_HEAD)
    return b'%b"resourceVersion":"%d",%b' % (value[:position], rv, value[position:])


def restamp(body: bytes, rv: int) -> bytes:
    """The same object at another resource version (what DELETED events carry)."""
    start = body.index(_STAMP) + len(_STAMP)
    return b"%b%d%b" % (body[:start], rv, body[body.index(b'"', start) :])


@dataclass(frozen=True, slots=True)
class Entry:
    namespace: str
    name: str
    rv: int
    pieces: Pieces
    labels: Mapping[str, str]
    fields: Fields

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def parse(self) -> dict[str, Any]:
        obj: dict[str, Any] = orjson.loads(self.body)
        return obj

    def at(self, rv: int) -> Entry:
        pieces = (restamp(self.pieces[0], rv), *self.pieces[1:])
        return Entry(self.namespace, self.name, rv, pieces, self.labels, self.fields)


@dataclass(frozen=True, slots=True)
class Event:
    """A change: `old` is None for a creation, `new` for a deletion."""

    rv: int
    new: Entry | None
    old: Entry | None

    @property
    def size(self) -> int:
        return (self.new or self.old or _NOTHING).size


_NOTHING: Final = Entry("", "", 0, (), {}, {})


Frames = dict[tuple[str, str], bytes]  # what was rendered of one event so far, for all watchers who see it alike
Offer = Callable[[Event, Frames], None]
Bucket = tuple[str, ...]
EVERYTHING: Final[Bucket] = ()


def bucket_of_namespace(namespace: str) -> Bucket:
    return ("namespace", namespace)


def bucket_of_object(namespace: str, name: str) -> Bucket:
    return ("object", namespace, name)


def bucket_of_node(node: str) -> Bucket:
    return ("node", node)


Known = tuple[Mapping[str, str], Fields]  # an object's labels and selectable fields
_NO_LABELS: Final[Mapping[str, str]] = {}


def described(obj: dict[str, Any], describe: Describe) -> Known:
    """Labels repeat over thousands of objects: one copy of each string is kept."""
    labels = obj["metadata"].get("labels")
    return {_one(key): _one(value) for key, value in labels.items()} if labels else _NO_LABELS, describe(obj)


def _one(text: str) -> str:
    return intern(text) if type(text) is str else text


@contextmanager
def _joined(offers: dict[Bucket, dict[Offer, None]], bucket: Bucket, offer: Offer) -> Iterator[None]:
    offers.setdefault(bucket, {})[offer] = None
    try:
        yield
    finally:
        del offers[bucket][offer]
        if not offers[bucket]:
            del offers[bucket]


def _concerned(event: Event, offers: Mapping[Bucket, dict[Offer, None]]) -> Iterator[dict[Offer, None]]:
    """Those of each bucket that the event falls into."""
    entries = [entry for entry in (event.old, event.new) if entry is not None]
    namespace, name = entries[0].key
    nodes = {entry.fields.get("spec.nodeName", "") for entry in entries}
    for bucket in (
        EVERYTHING,
        bucket_of_namespace(namespace),
        bucket_of_object(namespace, name),
        *(bucket_of_node(node) for node in nodes if node),
    ):
        if found := offers.get(bucket):
            yield found


class Shelf:
    """One resource: its objects sorted by namespace and name, its index by node, its recent events, its watchers."""

    def __init__(self, describe: Describe, floor: int, *, ring: int = RING_EVENTS) -> None:
        self.describe = describe
        self.floor = floor  # events after this resource version are all in `events`
        self.events: deque[Event] = deque()
        self._watchers: dict[Bucket, dict[Offer, None]] = {}
        self._subscribers: dict[Bucket, dict[Offer, None]] = {}
        self._ring = ring
        self._ring_bytes = 0
        self._objects: dict[Key, Entry] = {}
        self._sorted: list[Key] = []
        self._nodes: dict[str, set[Key]] = {}
        self._sharing = Sharing()

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, namespace: str, name: str) -> Entry | None:
        return self._objects.get((namespace, name))

    def entries(self, namespace: str | None = None) -> Iterator[Entry]:
        """In key order; all namespaces when None."""
        for key in self._keys(namespace):
            yield self._objects[key]

    def on_node(self, node: str) -> Iterator[Entry]:
        """The objects whose field spec.nodeName is `node`, in key order."""
        for key in sorted(self._nodes.get(node, ())):
            yield self._objects[key]

    def entries_at(
        self, rv: int, namespace: str | None = None, after: Key | None = None, limit: int = 0
    ) -> tuple[list[Entry], int] | None:
        """The entries as they were at `rv`, in key order: at most `limit` (0: all) of those behind the key `after`, and how
        many there are beyond them; None when the events no longer reach back. A page costs what is on it, and the events
        since `rv`."""
        if rv < self.floor:
            return None
        start, end = self._span(namespace, after)
        then: dict[Key, Entry | None] = {}
        for event in reversed(self.events):
            if event.rv <= rv:
                break
            key = (event.new or event.old or _NOTHING).key
            if (namespace is None or key[0] == namespace) and (after is None or key > after):
                then[key] = event.old
        newer = {key for key, entry in then.items() if entry is None and key in self._objects}
        gone = [key for key, entry in then.items() if entry is not None and key not in self._objects]
        count = end - start - len(newer) + len(gone)
        keys = self._sorted[start : min(end, start + limit + len(newer)) if limit else end]
        if newer:
            keys = [key for key in keys if key not in newer]
        if gone:
            keys = sorted(keys + gone)
        if limit:
            del keys[limit:]
        return [then.get(key) or self._objects[key] for key in keys], count - len(keys)

    def since(self, rv: int) -> list[Event] | None:
        """The events after `rv`; None when the ring no longer reaches back."""
        if rv < self.floor:
            return None
        found: list[Event] = []
        for event in reversed(self.events):
            if event.rv <= rv:
                break
            found.append(event)
        return found[::-1]

    def load(self, key: Key, value: bytes, rv: int) -> None:
        self._put(self._entry(key, value, rv))

    def apply(self, key: Key, value: bytes | None, rv: int, known: Known | None = None) -> Event | None:
        """What happened, when subscribers are still to be told of it (`tell`)."""
        old = self._objects.get(key)
        new = None if value is None else self._entry(key, value, rv, known)
        if new is not None:
            self._put(new)
        elif old is not None:
            self._drop(old)
        else:
            return None
        event = Event(rv, new, old)
        self._remember(event)
        if self._watchers:
            for offers in _concerned(event, self._watchers):
                for offer in tuple(offers):
                    offer(event, {})
        return event if self._subscribers else None

    @contextmanager
    def watched(self, offer: Offer, bucket: Bucket = EVERYTHING) -> Iterator[None]:
        """Calls `offer` for each event of the bucket while the context is open, before anybody else sees the change: for
        those inside the server who keep books."""
        with _joined(self._watchers, bucket, offer):
            yield

    @contextmanager
    def subscribed(self, offer: Offer, bucket: Bucket = EVERYTHING) -> Iterator[None]:
        """The same for clients: told by `tell`, soon after. A subscriber in the narrowest bucket costs nothing when others'
        objects change: a thousand kubelets watch a thousand nodes' pods."""
        with _joined(self._subscribers, bucket, offer):
            yield

    async def tell(self, event: Event) -> None:
        """Tells the subscribers, with a turn for everybody else now and then. Who joins meanwhile knows the event already:
        it begins with the state at its joining."""
        frames: Frames = {}
        told = 0
        for offers in _concerned(event, self._subscribers):
            for offer in tuple(offers):
                offer(event, frames)
                told += 1
                if told % TOLD_AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _keys(self, namespace: str | None) -> list[Key]:
        if namespace is None:
            return self._sorted
        start, end = self._span(namespace)
        return self._sorted[start:end]

    def _span(self, namespace: str | None, after: Key | None = None) -> tuple[int, int]:
        """Where in the order a namespace's keys are, those behind `after`."""
        start, end = 0, len(self._sorted)
        if namespace is not None:
            start = bisect.bisect_left(self._sorted, (namespace, ""))
            end = bisect.bisect_left(self._sorted, (namespace + "\0", ""))
        if after is not None:
            start = max(start, bisect.bisect_right(self._sorted, after))
        return start, max(start, end)

    def _entry(self, key: Key, value: bytes, rv: int, known: Known | None = None) -> Entry:
        labels, fields = known or described(orjson.loads(value), self.describe)
        return Entry(*key, rv, self._sharing.pieces(stamp(value, rv)), labels, fields)

    def _put(self, entry: Entry) -> None:
        old = self._objects.get(entry.key)
        if old is None:
            bisect.insort(self._sorted, entry.key)
        else:
            self._unindex(old)
        self._objects[entry.key] = entry
        if node := entry.fields.get("spec.nodeName"):
            self._nodes.setdefault(node, set()).add(entry.key)

    def _drop(self, entry: Entry) -> None:
        del self._objects[entry.key]
        del self._sorted[bisect.bisect_left(self._sorted, entry.key)]
        self._unindex(entry)

    def _unindex(self, entry: Entry) -> None:
        if node := entry.fields.get("spec.nodeName"):
            self._nodes[node].discard(entry.key)
            if not self._nodes[node]:
                del self._nodes[node]

    def _remember(self, event: Event) -> None:
        self.events.append(event)
        self._ring_bytes += event.size
        while len(self.events) > self._ring or self._ring_bytes > RING_BYTES:
            dropped = self.events.popleft()
            self._ring_bytes -= dropped.size
            self.floor = dropped.rv


ILLEGIBLE: Final = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)  # what reading a value raises that no server of ours wrote


def _report(key: str, error: Exception) -> None:
    """Somebody's `etcdctl put`, or another server's protobuf: one such value must not keep the others from being served."""
    log.error(
        "%s in the store is no object as this server writes them (%s: %s); it is not served",
        key,
        type(error).__name__,
        error,
    )


class Cache:
    """All shelves, by storage prefix; `rv` is the newest change seen."""

    def __init__(self, describers: Mapping[str, Describe], *, ring: int = RING_EVENTS) -> None:
        self._describers = describers
        self._ring = ring
        self._shelves = {prefix: Shelf(describe, 0, ring=ring) for prefix, describe in describers.items()}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._known: dict[str, tuple[bytes, Known]] = {}
        self.shared: Store | None = None  # the store, when other servers write to it too
        self.rv = 0
        self.told = 0  # clients have been told of everything up to here
        self.loaded = asyncio.Event()

    def shelf(self, prefix: str) -> Shelf:
        return self._shelves[prefix]

    def shelves(self) -> Iterable[tuple[str, Shelf]]:
        return self._shelves.items()

    async def run(self, store: Store) -> None:
        """Follows the store for ever."""
        self.shared = store if store.shared else None
        target = await store.current()
        try:
            # Not kept in a name: the rows would stay in memory beside what was made of them.
            self._restart(await store.load(layout.ROOT, at=await store.oldest()))
            self._progress(target)
            async for batch in store.watch(self.rv):
                events = self._apply(batch)
                self._progress(target)
                for shelf, event in events:
                    await shelf.tell(event)
                self.told = batch.rv
        except Compacted as error:  # by another server, between our question and our load
            raise StoreLost(str(error)) from error

    async def reached(self, rv: int, seconds: float | None = None) -> bool:
        """Waits until the cache has seen `rv`; False when it has not within `seconds`."""
        if self.rv >= rv:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, (rv, future), key=lambda item: item[0])
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        finally:
            if future.cancelled():  # too late, or whoever waited is gone
                self._waiting = [item for item in self._waiting if item[1] is not future]
        return True

    async def caught_up(self, seconds: float) -> bool:
        """Waits until the cache shows every write acknowledged before, by whichever server; a server that is alone with its
        store shows its own writes before it acknowledges them."""
        return self.shared is None or await self.reached(await self.shared.current(), seconds)

    def _restart(self, snapshot: Snapshot) -> None:
        for shelf in self._shelves.values():
            shelf.floor = snapshot.rv
        for stored in snapshot.entries:
            if found := self._place(stored.key):
                shelf, key = found
                try:
                    shelf.load(key, stored.value, stored.rv)
                except ILLEGIBLE as error:
                    _report(stored.key, error)
        self.rv = self.told = snapshot.rv

    @contextmanager
    def expecting(self, key: str, value: bytes, obj: dict[str, Any], describe: Describe) -> Iterator[None]:
        """A writer is about to commit `value`, which is `obj`: when it comes back, nobody has to read it again."""
        self._known[key] = value, described(obj, describe)
        try:
            yield
        finally:
            self._known.pop(key, None)

    def _apply(self, batch: Batch) -> list[tuple[Shelf, Event]]:
        """The events that clients are to be told of."""
        found = [event for change in batch.changes if (event := self._change(change))]
        self.rv = batch.rv
        return found

    def _change(self, change: Change) -> tuple[Shelf, Event] | None:
        found = self._place(change.key)
        if found is None:
            return None
        shelf, key = found
        expected = self._known.get(change.key)
        known = expected[1] if expected and expected[0] == change.value else None
        try:
            event = shelf.apply(key, change.value, change.rv, known)
        except ILLEGIBLE as error:
            _report(change.key, error)
            event = shelf.apply(key, None, change.rv)  # whatever was there has been written over
        return (shelf, event) if event else None

    def _place(self, key: str) -> tuple[Shelf, Key] | None:
        """The shelf and the object's key; None for keys of resources that are not served (a newer server's)."""
        found = layout.split(key)
        if found is None or found[0] not in self._shelves:
            return None
        return self._shelves[found[0]], found[1:]

    def _progress(self, target: int) -> None:
        if self.rv >= target:
            self.loaded.set()
        done = bisect.bisect_right(self._waiting, self.rv, key=lambda item: item[0])
        for _, future in self._waiting[:done]:
            if not future.done():
                future.set_result(None)
        del self._waiting[:done]
