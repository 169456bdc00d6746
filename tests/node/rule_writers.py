"""Each way in which the proxy can write a family's rules, in the namespace of a world's node and without its daemon.

Whoever writes rules works in the network namespace of its thread, and may keep sockets of it and of its event loop: so a
writer has a thread and a loop of its own, inside the node, for as long as it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from linux import netns as kernel_netns
from linux.iptables import backend as commands
from linux.iptables.rules import Family
from linux.nftables.connection import Connection
from proxy.backend import Applied, Backend, Wish
from proxy.iptables import backend as iptables
from proxy.model import Policy, ServicePort
from proxy.nftables import backend as nftables
from proxy.nftables.fallback import Fallback
from tests.conftest import Netns
from tests.requirements import requires

T = TypeVar("T")


class Mode(enum.StrEnum):
    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"
    NFTABLES = "nftables"
    NFTABLES_FALLBACK = "nftables-fallback"

    def required(self, family: int) -> None:
        """Skip the test where the machine lacks what this mode writes with."""
        match self:
            case Mode.IPTABLES_NFT | Mode.IPTABLES_LEGACY:
                requires("netns", f"{self.replace('iptables', 'iptables' if family == 4 else 'ip6tables')}-restore")
            case Mode.NFTABLES | Mode.NFTABLES_FALLBACK:
                requires("netns")


class Inside:
    """An event loop on a thread that lives in a namespace."""

    def __init__(self, space: Netns) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(space.path,), name=f"inside {space.name}")
        self._thread.start()

    def _run(self, path: str) -> None:
        kernel_netns.set_namespace(path)
        self._loop.run_forever()
        self._loop.close()

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class Writer:
    """One mode in one family."""

    def __init__(self, inside: Inside, mode: Mode, family: Family) -> None:
        self.mode = mode
        self.family = family
        self._inside = inside
        self._backend = inside(_backend(mode, family))
        self._last: dict[str, tuple[ServicePort, ...]] = {}

    def write(self, ports: Iterable[ServicePort], policy: Policy) -> Applied:
        """The kernel holds exactly these Services when it returns; their names are `namespace/name:port`."""
        services: dict[str, tuple[ServicePort, ...]] = {}
        for port in ports:
            key = port.name.partition(":")[0]
            services[key] = (*services.get(key, ()), port)
        changed = frozenset(key for key in services.keys() | self._last if services.get(key) != self._last.get(key))
        wish = Wish(services, changed if self._last else None, policy)
        self._last = services
        return self._inside(self._backend.apply(wish))

    def forget(self) -> int:
        return self._inside(self._backend.forget())

    def close(self) -> None:
        self._backend.close()


async def _backend(mode: Mode, family: Family) -> Backend:
    match mode:
        case Mode.IPTABLES_NFT | Mode.IPTABLES_LEGACY:
            flavor = commands.Flavor(mode.removeprefix("iptables-"))
            return iptables.of(await commands.named(family, flavor))
        case Mode.NFTABLES:
            return await nftables.opened(family)
        case Mode.NFTABLES_FALLBACK:
            return nftables.NftablesBackend(family, Connection(), Fallback())


@contextlib.contextmanager
def writing(node: Netns, mode: Mode, family: Family) -> Iterator[Writer]:
    inside = Inside(node)
    try:
        with contextlib.closing(Writer(inside, mode, family)) as writer:
            yield writer
    finally:
        inside.close()
