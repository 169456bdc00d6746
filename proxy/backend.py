"""What writes rules: one Protocol over iptables and nftables.

A pass hands a backend the whole wish and says which Services changed since the last wish that it carried out; the backend
renders those and writes what differs. After a doubt (its start, a refusal, somebody else's hand in our rules) it reads the
kernel, compares everything and repairs. It never needs the past to be right, only to be quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from proxy.model import Policy, ServicePort


@dataclass(frozen=True, slots=True)
class Wish:
    """`services`: the ports of every Service by `namespace/name`; a live mapping, not to be kept. `changed`: the keys that
    differ (or are gone) since the last wish that was carried out whole; None means all."""

    services: Mapping[str, tuple[ServicePort, ...]]
    changed: frozenset[str] | None
    policy: Policy


@dataclass(frozen=True, slots=True)
class Applied:
    """`full`: the kernel was read and compared. `repaired`: words for what of ours somebody else had changed, empty if nothing.
    `written`, `deleted`: chains or elements. `rules`, `rules_written`: rules (elements) by table: in all, and in this pass.
    `refused`: why, by service port name: the kernel would not take these, and everything else is in place."""

    full: bool
    repaired: tuple[str, ...] = ()
    written: int = 0
    deleted: int = 0
    rules: Mapping[str, int] = field(default_factory=dict)
    rules_written: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """The rules of one family in the network namespace of this process. One pass at a time."""

    @property
    def words(self) -> str:
        """What is written and with what, as one phrase for the log."""
        ...

    @property
    def sees_changes(self) -> bool:
        """Whether `watching` tells of foreign changes; where not, the pass doubts once a sync period."""
        ...

    def watching(self, touched: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """While inside, `touched` is called when somebody else changed rules of ours, and the next pass repairs them."""
        ...

    def doubt(self) -> None:
        """Read and compare everything in the next pass."""
        ...

    async def apply(self, wish: Wish) -> Applied:
        """Make the kernel hold the wish. Raises Retry when it refuses; what was committed stays and is right as far as it
        goes."""
        ...

    async def forget(self) -> int:
        """Delete everything of ours and nothing else; how many chains or objects there were. Raises Retry."""
        ...

    async def forget_others(self) -> int:
        """Delete what proxies of this mode left where this backend does not write (iptables has two interfaces in the kernel,
        and packets meet the rules of both); how many chains. Raises Retry."""
        ...

    def close(self) -> None:
        """Let go of sockets and threads; no pass comes after it, and the rules stay."""
        ...
