"""The node's Lease: the heartbeat by which the centre knows that this node lives.

It beats in a thread with an event loop and a connection of its own: whatever hangs in the kubelet's loop (a dead NFS
server behind an unmount, a library that blocks), the node is not declared dead for it. If this thread dies, the daemon
dies with it. (k8s.io/component-helpers/apimachinery/lease)
"""

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from kube import labels
from kube.client import Client, Connection
from kube.errors import AlreadyExists, ApiError, Conflict, NotFound, Retry
from kube.meta import micro_timestamp
from kube.resources import LEASES, NODES

log = logging.getLogger(__name__)

QUICK_RETRIES = 5


class Heartbeat:
    def __init__(self, connection: Connection, node: str, duration: int) -> None:
        self._connection = connection
        self._node = node
        self._duration = duration
        self._interval = duration * 0.25
        self._lease: dict[str, Any] | None = None
        self._inner: tuple[asyncio.AbstractEventLoop, Client] | None = None
        self.last: datetime | None = None

    def switch(self, connection: Connection) -> None:
        """Go on with another certificate."""
        self._connection = connection
        if self._inner is not None:
            loop, client = self._inner
            loop.call_soon_threadsafe(client.switch, connection)

    async def keep(self) -> None:
        """Renew until cancelled: at once, also while the centre does not answer. An exception of the thread is ours."""
        loop = asyncio.get_running_loop()
        inner: asyncio.Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = loop.create_future()

        async def beating(own: asyncio.AbstractEventLoop) -> None:
            async with Client(self._connection, user_agent="wherry-kubelet-lease", timeout=10.0) as client:
                self._inner = own, client
                try:
                    await self._beat(client)
                finally:
                    self._inner = None

        async def body() -> None:
            own = asyncio.get_running_loop()
            task = own.create_task(beating(own))
            loop.call_soon_threadsafe(inner.set_result, (own, task))
            with contextlib.suppress(asyncio.CancelledError):
                await task

        with ThreadPoolExecutor(1, thread_name_prefix="lease") as pool:
            thread = loop.run_in_executor(pool, lambda: asyncio.run(body()))
            try:
                await asyncio.shield(thread)
            finally:
                if not thread.done():
                    own, task = await inner
                    own.call_soon_threadsafe(task.cancel)
                    await thread

    async def _beat(self, client: Client) -> None:
        failures = 0
        while True:
            try:
                await self._renew(client)
                failures = 0
                self.last = datetime.now(UTC)
            except (ApiError, Retry) as error:
                failures += 1
                if failures in (1, QUICK_RETRIES) or failures % 30 == 0:
                    log.warning("cannot renew the lease of node %s: %s", self._node, error)
            pause = self._interval if failures == 0 or failures > QUICK_RETRIES else 0.2 * 2**failures
            await asyncio.sleep(min(pause, self._interval))

    async def _renew(self, client: Client) -> None:
        """Nobody else writes it as a rule: the version of our own last write is tried first, then a fresh look."""
        base, self._lease = self._lease, None
        if base is not None:
            with contextlib.suppress(Conflict, NotFound):
                self._lease = await self._put(client, base)
                return
        try:
            found = await self._ask(client, "GET")
        except NotFound:
            await self._create(client)
        else:
            self._lease = await self._put(client, found)

    async def _put(self, client: Client, base: dict[str, Any]) -> dict[str, Any]:
        """The whole object as the API gave it, so that nothing in it is lost."""
        body = {**base, "spec": {**base.get("spec", {}), **self._spec()}}
        if not base["metadata"].get("ownerReferences"):
            body["metadata"] = {**base["metadata"], "ownerReferences": await self._owners(client)}
        return await self._ask(client, "PUT", body)

    async def _ask(self, client: Client, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The whole Lease. Retry when a proxy or a load balancer answers in the API's place."""
        path = LEASES.path(labels.NODE_LEASE_NAMESPACE, self._node)
        found = await client.object(method, path, body=body)
        if not all(isinstance(found.get(part, {}), dict) for part in ("metadata", "spec")) or "metadata" not in found:
            raise Retry(f"{method} {path}: the answer is no Lease: it begins {str(found)[:60]!r}")
        return found

    async def _create(self, client: Client) -> None:
        metadata = {
            "name": self._node,
            "namespace": labels.NODE_LEASE_NAMESPACE,
            "ownerReferences": await self._owners(client),
        }
        try:
            await client.create(LEASES, {"metadata": metadata, "spec": self._spec()}, labels.NODE_LEASE_NAMESPACE)
        except AlreadyExists:
            return

    async def _owners(self, client: Client) -> list[dict[str, Any]]:
        node = await client.get(NODES, self._node)
        return [{"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node.metadata.uid}]

    def _spec(self) -> dict[str, Any]:
        return {
            "holderIdentity": self._node,
            "leaseDurationSeconds": self._duration,
            "renewTime": micro_timestamp(datetime.now(UTC)),
        }
