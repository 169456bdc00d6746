"""The node's Lease: the heartbeat by which the centre knows that this node lives.
 It beats in a thread with an event loop and a connection of its own: whatever hangs in the kubelet's loop (a dead NFS
server behind an unmount, a library that blocks), the node is not declared dead for it. If this thread dies, the daemon
dies with it. (k8s.io/component-helpers/apimachinery/lease)
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from kube import labels
from kube.client import Client, Connection
from kube.errors import AlreadyExists, ApiError, NotFound, Retry
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
        self.last: datetime | None = None

    async def keep(self) -> None:
        """Renew until cancelled. An exception of the thread is ours."""
        loop = asyncio.get_running_loop()
        inner: asyncio.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = loop.create_future()

        async def body() -> None:
            stop = asyncio.Event()
            own = asyncio.get_running_loop()
            loop.call_soon_threadsafe(inner.set_result, (own, stop))
            async with Client(self._connection, user_agent="wherry-kubelet-lease", timeout=10.0) as client:
                await self._beat(client, stop)

        with ThreadPoolExecutor(1, thread_name_prefix="lease") as pool:
            thread = loop.run_in_executor(pool, lambda: asyncio.run(body()))
            try:
                await asyncio.shield(thread)
            finally:
                if not thread.done():
                    own, stop = await inner
                    own.call_soon_threadsafe(stop.set)
                    await thread

    async def _beat(self, client: Client, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                await self._renew(client)
                failures = 0
                self.last = datetime.now(UTC)
            except (ApiError, Retry) as error:
                failures += 1
                if failures in (1, QUICK_RETRIES) or failures % 30 == 0:
                    log.warning("cannot renew the lease of node %s: %s", self._node, error)
            pause = self._interval if failures == 0 or failures > QUICK_RETRIES else 0.2 * 2**failures
            try:
                async with asyncio.timeout(min(pause, self._interval)):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _renew(self, client: Client) -> None:
        body: dict[str, Any] = {
            "spec": {
                "holderIdentity": self._node,
                "leaseDurationSeconds": self._duration,
                "renewTime": micro_timestamp(datetime.now(UTC)),
            }
        }
        try:
            await client.patch(LEASES, self._node, body, labels.NODE_LEASE_NAMESPACE)
        except NotFound:
            node = await client.get(NODES, self._node)
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node.metadata.uid}
            metadata = {"name": self._node, "namespace": labels.NODE_LEASE_NAMESPACE, "ownerReferences": [owner]}
            try:
                await client.create(LEASES, {**body, "metadata": metadata}, labels.NODE_LEASE_NAMESPACE)
            except AlreadyExists:
                return
