"""The nftables mode: one family's table `kube-proxy`, kept as the wish wants it by writing only what differs.

A pass is one transaction: the elements that the changed Services had and should not, and those that they should have and had
not; rarely a chain for a number of endpoints that no Service had before. The kernel says who else writes to the table, so it
is read only at the start, after a refusal, and when somebody did: then all of it is compared, and what differs is written.

When even that is refused, the kernel names the element: the Service that wants it is left out, and everything else goes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping

from kube.errors import Retry
from linux.iptables.backend import Unusable
from linux.iptables.rules import Family
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection, Refused
from linux.nftables.listener import Interest, Listener, Touch
from proxy.backend import Applied, Wish
from proxy.model import Policy, ServicePort
from proxy.nftables import kernel, names, probe
from proxy.nftables.clients import Clients
from proxy.nftables.layout import AFFINITY, TABLE, Map, socket_family
from proxy.nftables.plan import Layout
from proxy.nftables.shadow import Delta, Shadow

_FEW = 100  # Services whose change is planned at once; more are planned on the connection's thread
_LARGE = 1 << 16  # bytes of a transaction that the listener need not hear
_ATTEMPTS = 6
_RETRY_AFTER = 30.0  # seconds until a refused Service that stayed as it was is tried again
# The families' backends of this process: what one commits is no news to the other.
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

log = logging.getLogger(__name__)

Services = Mapping[str, tuple[ServicePort, ...]]


class NftablesBackend:
    """Satisfies proxy.backend.Backend. One pass at a time. `apart` is a second connection, for what goes on behind passes."""

    def __init__(self, family: Family, connection: Connection, layout: Layout, apart: Connection | None = None) -> None:
        self._family = family
        self._connection = connection
        self._layout = layout
        self._clients: Clients | None = None
        self._shadow: Shadow | None = None
        self._policy: Policy | None = None
        self._written = False
        self._refused: dict[str, Mapping[str, str]] = {}
        self._refused_at = 0.0
        self._connections = (connection,) if apart is None else (connection, apart)
        _connections.update(self._connections)
        if any(one.name == AFFINITY for one in layout.sets(family)):
            self._clients = Clients(family, self._connections[-1], _turn)

    @property
    def words(self) -> str:
        return f"nf_tables maps in table {'ip' if self._family is Family.V4 else 'ip6'} {TABLE} ({self._layout.name})"

    @property
    def sees_changes(self) -> bool:
        return True

    @contextlib.asynccontextmanager
    async def watching(self, touched: Callable[[], None]) -> AsyncIterator[None]:
        def told(touch: Touch) -> None:
            log.info("IPv%d: %s", self._family, touch)
            self.doubt()
            touched()

        listener = Listener([Interest(socket_family(self._family), TABLE)], told)
        async with listener:
            for connection in _connections:
                listener.own(connection.port)
            _listeners.add(listener)
            try:
                if self._clients is None:
                    yield
                else:
                    async with _beside(self._clients.run()):
                        yield
            finally:
                _listeners.discard(listener)

    def doubt(self) -> None:
        self._shadow = None

    async def apply(self, wish: Wish) -> Applied:
        try:
            if self._shadow is not None and self._policy == wish.policy and wish.changed is not None:
                applied = await self._change(self._shadow, wish, wish.changed | self._due())
                if applied is not None:
                    return applied
            return await self._whole(wish)
        except Refused as error:
            self.doubt()
            raise Retry(f"writing table {TABLE} of IPv{self._family}: {error}") from error
        except BaseException:
            self.doubt()  # cancelled half-way: what was committed is unknown
            raise

    def _due(self) -> frozenset[str]:
        """Refused Services that may be tried again."""
        due = self._refused and time.monotonic() - self._refused_at >= _RETRY_AFTER
        return frozenset(self._refused if due else ())

    async def _change(self, shadow: Shadow, wish: Wish, changed: frozenset[str]) -> Applied | None:
        """None when the kernel is not as it was left: then everything has to be compared."""
        wanted = {service: wish.services.get(service, ()) for service in changed}
        if len(wanted) > _FEW:
            delta, batch = await self._connection.aside(self._planned, shadow, wanted)
        else:
            delta, batch = self._planned(shadow, wanted)
        try:
            await self._write(batch)
        except Refused as error:
            log.info("IPv%d: the table is not as it was left: %s", self._family, error)
            self.doubt()
            return None
        for service in changed:
            self._refused.pop(service, None)
        if shadow is self._shadow:  # nobody has touched the table meanwhile
            await self._afterwards(delta, everything=False)
        return self._applied(shadow, delta, full=False)

    def _planned(self, shadow: Shadow, wanted: Services) -> tuple[Delta, Batch]:
        delta = shadow.change(wanted)
        return delta, kernel.batch(delta, self._family, self._layout)

    async def _whole(self, wish: Wish) -> Applied:
        """Read, compare, repair. Again when somebody commits between reading and writing, without those Services of which
        the kernel refuses an element."""
        changed = wish.changed if self._written and self._policy == wish.policy else None
        services = dict(wish.services)
        refused: dict[str, str] = {}
        for attempt in range(_ATTEMPTS):
            wanted = {service: ports for service, ports in services.items() if service not in refused}
            shadow = Shadow(self._layout, wish.policy)
            self._shadow, self._policy = shadow, wish.policy
            delta, batch, others = await self._connection.aside(self._compared, shadow, wanted, changed)
            try:
                await self._write_after(batch, others if attempt < _ATTEMPTS // 2 else None)
            except Refused as error:
                if error.outdated:
                    continue
                blamed = self._blamed(error, shadow)
                if not blamed or attempt == _ATTEMPTS - 1:
                    raise
                refused.update(blamed)
                continue
            self._refused = {
                service: {port.name: words for port in services.get(service, ())} for service, words in refused.items()
            }
            self._refused_at = time.monotonic()
            self._written = True
            await self._afterwards(delta, everything=True)
            return self._applied(shadow, delta, full=True)
        raise Retry(f"table {TABLE} of IPv{self._family} changes faster than it can be compared")

    def _compared(self, shadow: Shadow, services: Services, changed: frozenset[str] | None) -> tuple[Delta, Batch, int]:
        others = self._others()
        seen = kernel.read(self._connection, self._family, self._layout)
        delta = shadow.whole(services, seen, changed)
        return delta, kernel.batch(delta, self._family, self._layout), others

    def _blamed(self, error: Refused, shadow: Shadow) -> dict[str, str]:
        """Services by whose elements or chains the kernel stumbled, and what it said."""
        owners = (
            (failure, shadow.owner(failure.element.key) if failure.element else names.owner(failure.name))
            for failure in error.failures
        )
        return {owner: str(failure) for failure, owner in owners if owner is not None}

    def _others(self) -> int:
        """A number that moves when another process commits: the generation is one for the whole namespace, so what the other
        family's backend commits is taken off."""
        return self._connection.generation() - _commits()

    async def _write_after(self, batch: Batch, others: int | None) -> None:
        """Only if no other process has committed since `others`; the other family may."""
        while True:
            try:
                await self._write(batch, others)
            except Refused as error:
                if error.outdated and self._others() == others:
                    continue
                raise
            return

    async def _write(self, batch: Batch, others: int | None = None) -> None:
        if batch.size < _LARGE:
            await self._connection.write(batch, generation=None if others is None else others + _commits())
            return
        async with _turn():
            with contextlib.ExitStack() as stack:
                for listener in _listeners:
                    stack.enter_context(listener.deaf(_commits))
                await self._connection.write(batch, generation=None if others is None else others + _commits())

    async def _afterwards(self, delta: Delta, *, everything: bool) -> None:
        """What may come after the transaction: @affinity forgets who is gone, and chains nobody needs are deleted."""
        if self._clients is not None:
            if delta.rebuild:
                self._clients.drop()
            elif everything or delta.purge or delta.allowed:
                self._clients.note(delta.purge, delta.allowed, everything=everything)
            await self._clients.forget()
        try:
            for batch in kernel.idle(delta, self._family):
                await self._connection.write(batch)
        except Refused as error:
            log.info("IPv%d: chains that nobody needs stay for now: %s", self._family, error)

    def _applied(self, shadow: Shadow, delta: Delta, *, full: bool) -> Applied:
        return Applied(
            full=full,
            repaired=delta.foreign,
            written=delta.written,
            deleted=delta.deleted + len(delta.idle),
            rules={which.title: shadow.elements[which] for which in Map},
            rules_written={which.title: len(delta.put[which]) for which in Map},
            refused={name: words for ports in self._refused.values() for name, words in ports.items()},
        )

    async def forget(self) -> int:
        self.doubt()
        self._written = False
        if self._clients is not None:
            self._clients.drop()
        try:
            return await self._connection.aside(_forget, self._connection, self._family)
        except Refused as error:
            raise Retry(f"deleting table {TABLE} of IPv{self._family}: {error}") from error

    async def forget_others(self) -> int:
        return 0

    def close(self) -> None:
        if self._clients is not None:
            self._clients.close()
        for connection in self._connections:
            connection.close()


@contextlib.asynccontextmanager
async def _beside(endless: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """What the body raises comes out as it is, not in a group."""
    raised: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(endless)
        await asyncio.sleep(0)  # it has begun
        try:
            yield
        except BaseException as error:
            raised = error
        finally:
            task.cancel()
    if raised is not None:
        raise raised


def _turn() -> asyncio.Lock:
    """Who holds it may write much; the families' backends take it in turns."""
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def _commits() -> int:
    """Of all backends of this process."""
    return sum(connection.commits for connection in _connections)


def _forget(connection: Connection, family: Family) -> int:
    """Chains and sets of the table `kube-proxy`, ours or a stock proxy's; then it is gone."""
    number = socket_family(family)
    try:
        tables = connection.tables(number)
    except Refused as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # netfilter's netlink is there, nf_tables is not
            return 0
        raise
    if all(table.name != TABLE for table in tables):
        return 0
    found = len(connection.chains(number, TABLE)) + len(connection.sets(number, TABLE))
    batch = Batch(number, TABLE)
    batch.delete_table()
    connection.commit(batch)
    return found + 1


async def opened(family: Family) -> NftablesBackend:
    """Of the network namespace of this thread, in the layout that the kernel takes. Raises Unusable in words where nf_tables
    is not there."""
    try:
        connection, apart = Connection(), Connection()
    except OSError as error:
        raise Unusable(f"this kernel has no netlink for nf_tables: {error}; use mode: iptables") from error
    try:
        layout = await connection.aside(probe.chosen, connection, family)
    except BaseException:
        connection.close()
        apart.close()
        raise
    return NftablesBackend(family, connection, layout, apart)


async def forget_all(families: Iterable[Family]) -> int:
    """Delete the table `kube-proxy` of these families, whoever made it; how many objects. Raises Retry."""
    found = 0
    try:
        opened_one = Connection()
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:  # where there is no nf_tables there is no table
            return 0
        raise Retry(f"deleting table {TABLE}: {error}") from error
    with opened_one as connection:
        for family in families:
            try:
                found += await connection.aside(_forget, connection, family)
            except Refused as error:
                raise Retry(f"deleting table {TABLE} of IPv{family}: {error}") from error
    return found
