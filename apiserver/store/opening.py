"""The store that the configuration names: etcd where it gives endpoints, else SQLite below the data directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from apiserver.config import Config
from apiserver.store import Store, StoreFailed
from apiserver.store.sqlite import open_store as open_sqlite
from kube.errors import Retry, UsageError

if TYPE_CHECKING:
    from kube.etcd import Access


@asynccontextmanager
async def configured(config: Config) -> AsyncIterator[Store]:
    """Raises UsageError, and Retry for an etcd that does not answer yet."""
    async with AsyncExitStack() as stack:
        yield await (_etcd(config, stack) if config.etcd_servers else _sqlite(config, stack))


async def _sqlite(config: Config, stack: AsyncExitStack) -> Store:
    if config.etcd_cafile or config.etcd_certfile or config.etcd_keyfile:
        raise UsageError("--etcd-cafile, --etcd-certfile, --etcd-keyfile: there is no --etcd-servers for them")
    try:
        return await stack.enter_async_context(open_sqlite(database(config)))
    except (StoreFailed, OSError) as error:
        raise UsageError(f"--data-dir {config.data_dir}: {error}") from error


def database(config: Config) -> Path:
    return Path(config.data_dir) / "state.db"


async def _etcd(config: Config, stack: AsyncExitStack) -> Store:
    where = access(config)
    from apiserver.store.etcd import open_store as open_etcd

    try:
        return await stack.enter_async_context(
            open_etcd(where, prefix(config), compact_every=config.etcd_compaction_interval or None)
        )
    except StoreFailed as error:
        raise Retry(f"--etcd-servers {','.join(config.etcd_servers)}: {error}") from error


def access(config: Config) -> Access:
    """Raises UsageError where grpcio is not installed."""
    try:
        from kube.etcd import Access
    except ImportError as error:
        raise UsageError(f"--etcd-servers needs grpcio ({error}); pip install 'wherry[etcd]'") from error
    return Access(config.etcd_servers, config.etcd_cafile, config.etcd_certfile, config.etcd_keyfile)


def prefix(config: Config) -> str:
    """Raises UsageError."""
    if not config.etcd_prefix.strip("/"):
        raise UsageError("--etcd-prefix: all keys are below it, it cannot be empty; /registry is upstream's")
    return "/" + config.etcd_prefix.strip("/")


def described(config: Config) -> str:
    """Where the store is, for the log."""
    return ",".join(config.etcd_servers) + config.etcd_prefix if config.etcd_servers else config.data_dir
