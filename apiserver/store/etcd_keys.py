"""How keys, values and resource versions of ours look in etcd.

A key is the prefix (`--etcd-prefix`, /registry) and the rest of the storage key: `/registry/pods/default/web`.

etcd knows at which revision a key was written, not which write of that revision it was; our resource versions have that in their
low bits. So every value ends in seven blanks that spell the index (space = 0, tab = 1): JSON may end in blanks, so what `etcdctl
get` shows still is the object. Values without that ending (somebody's `etcdctl put`) have index 0.

A fresh etcd counts from 1 again. So that resource versions never fall when a snapshot is restored into one, the restore writes by
how much ours are ahead of etcd's revisions, at a key beside the prefix; servers read it once, when they start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from apiserver.store import INDEX_BITS, MAX_OPS, end_of, index_rv
from kube.etcd_wire import KeyValue

_DIGITS: Final = bytes.maketrans(b"01", b" \t")
_ENDINGS: Final = tuple(format(index, f"0{INDEX_BITS}b").encode().translate(_DIGITS) for index in range(MAX_OPS))
_INDEXES: Final = {ending: index for index, ending in enumerate(_ENDINGS)}


class Keys:
    """Between storage keys, which start with `root`, and etcd's, which start with `prefix` instead."""

    def __init__(self, prefix: str, root: str) -> None:
        self.prefix = prefix.rstrip("/").encode()
        self.root = root.rstrip("/")
        self._inner = self.prefix + b"/"

    def outer(self, key: str) -> bytes:
        return self.prefix + key[len(self.root) :].encode()

    def outer_prefix(self, prefix: str) -> bytes:
        """Never without the slash: another cluster's /registry2 is not ours."""
        return self.prefix + (prefix[len(self.root) :].encode() or b"/")

    def inner(self, key: bytes) -> str | None:
        """None for what is not below our prefix, or no key of ours."""
        if not key.startswith(self._inner):
            return None
        try:
            return self.root + key[len(self.prefix) :].decode()
        except UnicodeDecodeError:
            return None


def with_index(value: bytes, index: int) -> bytes:
    return value + _ENDINGS[index]


def without_index(value: bytes) -> bytes:
    return value[:-INDEX_BITS] if value[-INDEX_BITS:] in _INDEXES else value


@dataclass(frozen=True, slots=True)
class Versions:
    """Between etcd's revisions and resource versions, which are `ahead` revisions ahead."""

    ahead: int = 0

    def rv(self, revision: int, index: int = 0) -> int:
        return index_rv(revision + self.ahead, index)

    def whole(self, revision: int) -> int:
        """The version that everything up to and including this revision has been seen at."""
        return end_of(self.rv(revision))

    def revision(self, rv: int) -> int:
        """Negative or 0 for a version from before the restore; 0 stands for a key that must not exist."""
        return (rv >> INDEX_BITS) - self.ahead if rv else 0

    def of(self, kv: KeyValue) -> int:
        """Of what is stored; 0 for a key that does not exist."""
        return self.rv(kv.mod_revision, _INDEXES.get(kv.value[-INDEX_BITS:], 0)) if kv.mod_revision else 0


def ahead_key(prefix: bytes) -> bytes:
    return b"wherry_revisions_ahead" + prefix


def restoring_key(prefix: bytes) -> bytes:
    """There while a restore is under way: what is below the prefix is not whole."""
    return b"wherry_restoring" + prefix
