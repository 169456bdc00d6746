"""A snapshot put back into etcd; see `restoring`."""

from __future__ import annotations

from collections.abc import Iterable

from apiserver.store import StoreAway, Stored, StoreFailed, snapshot
from apiserver.store.etcd import open_store
from apiserver.store.etcd_keys import Keys, ahead_key, restoring_key
from apiserver.store.restoring import fill
from kube import etcd_wire as wire
from kube.etcd import Access, Away, Etcd, Refused, Unsure


async def into_etcd(
    access: Access, prefix: str, header: snapshot.Header, objects: Iterable[Stored], event_ttl: float
) -> None:
    """Raises StoreFailed for a prefix that holds something, or an etcd that does not answer."""
    keys = Keys(prefix, "/registry")
    etcd = Etcd(access)
    try:
        await _begin(etcd, keys, header)
        async with open_store(access, prefix, restoring=True) as store:
            await fill(store, objects, event_ttl)
            await store.compact(await store.current())
        await etcd.txn([], [_delete(restoring_key(keys.prefix))], [])
    except (Away, Unsure, Refused) as error:
        raise StoreAway(f"{error}; run the restore again, it begins anew") from error
    finally:
        await etcd.close()


async def _begin(etcd: Etcd, keys: Keys, header: snapshot.Header) -> None:
    start = keys.outer_prefix("")
    end = wire.prefix_end(start)
    there = (await etcd.range(start, end, limit=1, keys_only=True)).kvs
    unfinished = (await etcd.range(restoring_key(keys.prefix))).kvs
    if there and not unfinished:
        name = there[0].key.decode(errors="replace")
        raise StoreFailed(
            f"etcd holds {name}; a restore writes over nothing: choose another --etcd-prefix, or clear it"
        )
    revision = (await etcd.range(b"\0", count_only=True)).header.revision
    ahead = str(max(0, header.restored_revision - revision)).encode()
    marks = [(restoring_key(keys.prefix), b"1"), (ahead_key(keys.prefix), ahead)]
    put = [wire.put_op(wire.put_request(key, value)) for key, value in marks]
    await etcd.txn([], [wire.delete_op(wire.delete_request(start, end)), *put], [])


def _delete(key: bytes) -> bytes:
    return wire.delete_op(wire.delete_request(key))
