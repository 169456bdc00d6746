"""`wherry store`: the API server's store from the outside.

    wherry store snapshot FILE        everything in the store, while the server runs, into one file
    wherry store restore FILE         a snapshot into an empty store; the server must not run
    wherry store ls [/registry/...]   the keys below a prefix
    wherry store get KEY              one object as it is stored

Which store: the server's own flags (`--config FILE`, `--data-dir`, `--etcd-servers`, ...).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from apiserver import config as configuration
from apiserver import layout
from apiserver.config import Config
from apiserver.store import Stored, StoreFailed, opening, snapshot
from apiserver.store.restoring import into_sqlite, sqlite_objects
from kube.errors import Retry, UsageError

_VERBS: Final = ("snapshot", "restore", "ls", "get")
_NEEDS: Final = {"snapshot": "FILE", "restore": "FILE", "get": "KEY"}


def store(argv: Sequence[str]) -> int:
    """Raises UsageError."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    verb, *rest = argv
    if verb not in _VERBS:
        raise UsageError(f"{verb}: unknown; there are {', '.join(_VERBS)}")
    word = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    if verb in _NEEDS and not word:
        raise UsageError(f"{verb} needs a {_NEEDS[verb]}: wherry store {verb} {_NEEDS[verb]} [the server's flags]")
    config = configuration.load(rest)
    try:
        return asyncio.run(_run(verb, word, config))
    except (snapshot.Unreadable, OSError, StoreFailed, Retry, BaseExceptionGroup) as error:
        wrong = _wrong(error, word)
        if wrong is None:
            raise
        raise wrong from error


def _wrong(error: BaseException, word: str) -> UsageError | None:
    """What happened, as one line; None for a bug. The store's own tasks wrap failures in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case snapshot.Unreadable():
            return UsageError(f"{word}: {error}")
        case OSError():
            return UsageError(f"{word}: {error.strerror}")
        case StoreFailed() | Retry() | UsageError():
            return UsageError(str(error))
        case _:
            return None


async def _run(verb: str, word: str, config: Config) -> int:
    match verb:
        case "snapshot":
            return await _snapshot(Path(word), config)
        case "restore":
            return await _restore(Path(word), config)
        case "get":
            return await _get(word, config)
        case _:
            return await _list(word or layout.ROOT, config)


async def _snapshot(path: Path, config: Config) -> int:
    async with _objects(config, layout.ROOT) as (rv, objects):
        taken = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        header = snapshot.Header(rv, taken, "etcd" if config.etcd_servers else "sqlite")
        count = snapshot.write(path, header, objects)
    print(f"{path}: {count} objects at resource version {rv}, {path.stat().st_size} bytes")
    return 0


async def _restore(path: Path, config: Config) -> int:
    header, count = snapshot.check(path)
    objects = snapshot.read(path)
    if config.etcd_servers:
        from apiserver.store.etcd_restoring import into_etcd

        await into_etcd(opening.access(config), opening.prefix(config), header, objects, config.event_ttl)
    else:
        await into_sqlite(opening.database(config), header, objects, config.event_ttl)
    print(f"{count} objects of {header.taken} restored into {opening.described(config)}; start the server")
    return 0


async def _list(prefix: str, config: Config) -> int:
    below = prefix if prefix.endswith("/") else f"{prefix}/"
    async with _objects(config, prefix) as (_, objects):
        keys = [stored.key for stored in objects if stored.key == prefix or stored.key.startswith(below)]
    sys.stdout.writelines(f"{key}\n" for key in keys)
    return 0 if keys else 1


async def _get(key: str, config: Config) -> int:
    async with _objects(config, key) as (_, objects):
        found = next((stored for stored in objects if stored.key == key), None)
    if found is None:
        print(f"there is no {key}; `wherry store ls` shows what there is", file=sys.stderr)
        return 1
    try:
        shown = orjson.dumps(orjson.loads(found.value), option=orjson.OPT_INDENT_2)
    except orjson.JSONDecodeError:
        shown = found.value
    print(f"# resource version {found.rv}", file=sys.stderr)
    sys.stdout.flush()
    sys.stdout.buffer.write(shown + b"\n")
    return 0


@asynccontextmanager
async def _objects(config: Config, prefix: str) -> AsyncIterator[tuple[int, Iterator[Stored]]]:
    """(rv, objects) of one moment; the server may run."""
    if config.etcd_servers:
        async with opening.configured(config) as there:
            found = await there.load(prefix)
            yield found.rv, iter(found.entries)
    else:
        with sqlite_objects(opening.database(config), prefix) as found_here:
            yield found_here
