"""Which API servers there are, so that Service kubernetes leads to all of them and to none that has gone.

Servers on one etcd each keep a key `/registry/masterleases/ADDRESS` that expires when nobody renews it; every server writes the
endpoints from the keys it sees. A server with a store of its own is alone. The same pass puts back what must not be missing
(the namespaces, the Service), should somebody have deleted it.
Upstream: pkg/controlplane/reconcilers (lease), pkg/controlplane/controller/{kubernetesservice,systemnamespaces}.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from apiserver import bootstrap
from apiserver.bootstrap import Cluster
from apiserver.cache import Cache, Describe, storage_bytes
from apiserver.errors import StatusError
from apiserver.pipeline import Writer
from apiserver.registry import Registry
from apiserver.store import Op, Store, StoreFailed
from kube.errors import Retry
from kube.reconcile import Wake, forever

ROOT: Final = "/registry/masterleases/"
DESCRIBERS: Final[dict[str, Describe]] = {ROOT: lambda _: {}}
EVERY_SECONDS: Final = 10.0
LEASE_SECONDS: Final = 15.0


async def keeping(store: Store, registry: Registry, writer: Writer, cluster: Cluster, shared: bool) -> None:
    """For ever. Raises StoreLost."""

    async def sync() -> None:
        try:
            if shared and cluster.address:
                await store.txn([renewal(cluster.address)])
            await bootstrap.stand(registry, writer, cluster, addresses(writer.cache, cluster))
        except (StatusError, StoreFailed) as error:
            raise Retry(f"Service kubernetes and its endpoints: {error}") from error

    await forever(sync, Wake(), resync=EVERY_SECONDS, name="presence")


def addresses(cache: Cache, cluster: Cluster) -> list[str]:
    """Ours and those of the others whose lease has not run out."""
    found = {entry.name for entry in cache.shelf(ROOT).entries()} | ({cluster.address} if cluster.address else set())
    return sorted(found, key=lambda one: ipaddress.ip_address(one).packed)


def renewal(address: str) -> Op:
    lease = {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {"name": address},
        "subsets": [{"addresses": [{"ip": address}]}],
    }
    return Op(ROOT + address, storage_bytes(lease), None, LEASE_SECONDS)
