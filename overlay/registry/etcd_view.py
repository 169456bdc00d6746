"""What is in etcd, kept as it is there: one list and one watch over `<prefix>/config` and `<prefix>/subnets/`.

A watch that has fallen behind etcd's compaction is begun again with a list. An etcd that was restored from a snapshot, or made
anew, has gone back in its revisions: what a list then says counts. While etcd is away what was read last stays. A list
may be asked for at any time (before a subnet is taken); what the watch tells afterwards of the time before that list is old
and passed over.

What was read last is also kept in a file beside subnet.env, for a start while etcd is away. It lies in /run, so that a machine
that was switched off does not come back with a network of yesterday.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Never

import msgspec

from kube import etcd_wire as wire
from kube.etcd import Away, Etcd, Refused, Unsure
from kube.reconcile import Wake, forever
from overlay.documents import decoded
from overlay.registry.etcd_keys import Entry

_BACKOFF_FIRST, _BACKOFF_MOST = 0.1, 5.0
_KEEP_PAUSE = 1.0
_SELDOM = 3600.0

log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    config: bytes | None
    entries: list[Entry]


class EtcdView:
    """`entries` by name, `config` None where there is none; `lost(name)` hears of keys that are gone. `trouble`: why etcd cannot
    be read now, in words. `remembered`: the file for what was read last, None: nowhere; without
    `keeps` it is only read."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        lost: Callable[[str], None],
        remembered: Path | None = None,
        *,
        keeps: bool = True,
    ) -> None:
        self.synced = asyncio.Event()
        self.entries: dict[str, Entry] = {}
        self.config: bytes | None = None
        self.trouble = ""
        self.prefix = prefix.rstrip("/")
        self.subnets = f"{self.prefix}/subnets/"
        self._etcd = etcd
        self._lost = lost
        self._remembered = remembered
        self._keeps = keeps
        self._news = Wake()
        self._config_key = f"{self.prefix}/config".encode()
        self._listed = 0

    async def run(self, changed: Callable[[], None]) -> Never:
        def told() -> None:
            self._news.set()
            changed()

        async with asyncio.TaskGroup() as group:
            if self._remembered is not None and self._keeps:
                group.create_task(self._remember(), name="memory")
            await self._read_on(told)

    async def _read_on(self, changed: Callable[[], None]) -> Never:
        pause = _BACKOFF_FIRST
        while True:
            try:
                revision = await self.read()
                self.synced.set()
                changed()
                self._well()
                pause = _BACKOFF_FIRST
                await self._follow(revision + 1, changed)
            except (Away, Unsure) as error:
                self._troubled(f"{error}; the leases known so far count")
                if not self.synced.is_set() and self._recalled():
                    self.synced.set()
                    changed()
            except Refused as error:
                self._troubled(refusal(error, self.prefix))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACKOFF_MOST)

    async def read(self) -> int:
        """Read everything; the revision at which it was so. Raises Away, Refused."""
        known = self._listed
        answer = await self._etcd.range(*self._span())
        if answer.header.revision < self._listed:
            if self._listed != known:
                return self._listed  # another list was asked meanwhile, and answered before this one
            words = "etcd is at revision %d, and was at %d: it was restored or made anew, and what is there now counts"
            log.warning(words, answer.header.revision, known)
        before, self.entries = self.entries, {}
        for kv in answer.kvs:
            self._take(kv)
        if self.config is not None and not any(kv.key == self._config_key for kv in answer.kvs):
            self._config_gone()
        for name in before.keys() - self.entries.keys():
            self._lost(name)
        self._listed = answer.header.revision
        return self._listed

    async def _remember(self) -> Never:
        """Until cancelled, and then once more: what came within the last second counts, too."""
        try:
            await forever(self._keep, self._news, resync=_SELDOM, min_interval=_KEEP_PAUSE, name="memory")
        finally:
            await self._keep()

    async def _keep(self) -> None:
        """In one step; what cannot be written is said and no more: it is a help, not a need."""
        if self._remembered is None or not self._listed:
            return
        fresh = self._remembered.with_name(f".{self._remembered.name}.new")
        try:
            self._remembered.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(msgspec.json.encode(_Kept(self.config, list(self.entries.values()))))
            fresh.replace(self._remembered)
        except OSError as error:
            log.warning("cannot keep the leases in %s: %s", self._remembered, error.strerror)

    def _recalled(self) -> bool:
        """Whether there is something to go on with."""
        if self._remembered is None:
            return False
        try:
            with self._remembered.open("rb") as file:
                age = max(time.time() - os.fstat(file.fileno()).st_mtime, 0.0)
                kept = decoded(file.read(), _Kept)
        except FileNotFoundError:
            return False
        except (OSError, msgspec.DecodeError, UnicodeError) as error:
            log.warning("cannot read the leases in %s: %s", self._remembered, error)
            return False
        self.config, self.entries = kept.config, {entry.name: entry for entry in kept.entries}
        log.warning("going on from the %d leases of %.0f s ago (%s)", len(self.entries), age, self._remembered)
        return self.config is not None

    def wrote(self, entry: Entry) -> None:
        """We have: the watch will tell what we know already."""
        self.entries[entry.name] = entry

    def deleted(self, name: str) -> None:
        self.entries.pop(name, None)

    async def _follow(self, revision: int, changed: Callable[[], None]) -> None:
        """Until the watch ends. Returns when the past it asked for is gone: then everything is read again."""
        async with aclosing(self._etcd.watch(revision, *self._span())) as answers:
            async for answer in answers:
                if answer.compact_revision:
                    log.info("etcd: the watch on %s fell behind what is kept; reading everything again", self.prefix)
                    return
                if answer.canceled:
                    raise Away(f"etcd ended the watch: {answer.reason or 'no reason given'}")
                taken = [self._event(event) for event in answer.events]
                if any(taken):
                    changed()

    def _event(self, event: wire.Event) -> bool:
        """Whether it was news."""
        kv = event.kv
        name = self._name(kv.key)
        known = self.entries.get(name)
        if kv.mod_revision <= max(self._listed, known.modified if known else 0):
            return False
        if not event.deleted:
            self._take(kv)
        elif kv.key == self._config_key:
            self._config_gone()
        elif known is not None:
            del self.entries[name]
            self._lost(name)
        return True

    def _take(self, kv: wire.KeyValue) -> None:
        if kv.key == self._config_key:
            self.config = kv.value
        elif kv.key.startswith(self.subnets.encode()):
            name = self._name(kv.key)
            self.entries[name] = Entry(name, kv.value, kv.lease, kv.create_revision, kv.mod_revision)

    def _config_gone(self) -> None:
        log.warning("%s/config was deleted; the network stays as it was", self.prefix)

    def _span(self) -> tuple[bytes, bytes]:
        """From `config` to the last subnet."""
        return self._config_key, wire.prefix_end(self.subnets.encode())

    def _name(self, key: bytes) -> str:
        return key.decode(errors="replace").removeprefix(self.subnets)

    def _troubled(self, words: str) -> None:
        if words != self.trouble:
            log.warning("%s", words)
        self.trouble = words

    def _well(self) -> None:
        if self.trouble:
            log.info("etcd answers again")
        self.trouble = ""


def refusal(error: Refused, prefix: str) -> str:
    """etcd's no, with the remedy."""
    match error.code:
        case "PERMISSION_DENIED":
            return f"etcd: {error.message}: --etcd-username needs a role with `readwrite` on the prefix {prefix}/"
        case "INVALID_ARGUMENT" | "UNAUTHENTICATED" if "user" in error.message or "token" in error.message:
            return f"etcd: {error.message}: see --etcd-username and --etcd-password"
        case _:
            return f"etcd refused: {error}"
