"""Masquerading and forwarding for the pods, level-triggered: the wish (`rules`), two ways to write it (`iptables`,
`nftables`), and `Masquerade`, which keeps one family's wish in the kernel.

When its rules are in, what the other way left there, an earlier start's or a stock flannel's, is removed: a node's
EnableNFTables may change, and rules of an old subnet would masquerade what they should not.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from kube.errors import Retry
from linux.iptables.backend import Unusable
from linux.iptables.rules import Family
from linux.process import CommandFailed
from overlay.masquerade import iptables, nftables
from overlay.masquerade.rules import Rules, Writer, Written

__all__ = ["Masquerade", "Rules", "Written", "differences", "forget"]

_BRIDGED = {
    Family.V4: Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    Family.V6: Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
}

log = logging.getLogger(__name__)


class Masquerade:
    """The rules of one family in the network namespace of this process. A context; `touched` is called, from the event loop,
    when somebody else changed rules of ours: then, and now and then unasked, `sync` puts them right."""

    def __init__(self, family: Family, *, nftables: bool, touched: Callable[[], None]) -> None:
        self._family = family
        self._nftables = nftables
        self._touched = touched
        self._writer: Writer | None = None
        self._leftovers = True
        self._told = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            await self._writer.close()

    async def sync(self, rules: Rules) -> Written:
        """Make the kernel hold the wish. Raises Retry."""
        try:
            writer = self._writer or await self._opened()
        except (Unusable, CommandFailed) as error:
            if not rules.masquerade and not rules.forward:
                return Written()
            raise Retry(f"rules of IPv{int(self._family)}: {error}") from error
        done = await writer.sync(rules)
        if self._leftovers and (rules.masquerade or rules.forward):
            self._leftovers = False
            for words in await self._forget_other():
                log.info("%s, left from another way of writing them", words)
        if rules.masquerade:
            self._look_at_bridges()
        return done

    async def _opened(self) -> Writer:
        made = await _opened(self._family, by_nftables=self._nftables)
        try:
            await made.watching(self._touched)
        except BaseException:
            await made.close()
            raise
        log.info("writing %s", made.words)
        self._writer = made
        return made

    async def _forget_other(self) -> list[str]:
        match self._writer:
            case iptables.IptablesWriter() as writer:
                elsewhere = await iptables.forget_all(self._family, but=writer.flavor)
                return [*elsewhere, *await nftables.forget_all(self._family)]
            case _:
                return await iptables.forget_all(self._family)

    def _look_at_bridges(self) -> None:
        """flannel does not start without br_netfilter; nothing of the overlay itself needs it."""
        if self._told or self._nftables:
            return
        self._told = True
        path = _BRIDGED[self._family]
        try:
            state = path.read_text().strip()
        except OSError:
            log.warning(
                "the module br_netfilter is not loaded: packets between two pods of this node pass by iptables, so that a"
                " Service that leads back to its own node may be silent; modprobe br_netfilter"
            )
            return
        if state == "0":
            log.warning(
                "%s is 0: packets between two pods of this node pass by iptables, so that a Service that leads back to its"
                " own node may be silent; sysctl -w net.bridge.%s=1",
                f"net.bridge.{path.name}",
                path.name,
            )


async def _opened(family: Family, *, by_nftables: bool) -> Writer:
    return await (nftables.opened(family) if by_nftables else iptables.opened(family))


async def differences(rules: Rules, *, nftables: bool) -> list[str]:
    """What is not in the kernel as wished, in words; nothing is written. Raises Retry."""
    try:
        writer = await _opened(rules.family, by_nftables=nftables)
    except (Unusable, CommandFailed) as error:
        if not rules.masquerade and not rules.forward:
            return []
        raise Retry(str(error)) from error
    try:
        return await writer.differences(rules)
    finally:
        await writer.close()


async def forget() -> list[str]:
    """Remove all that any of the ways writes, in both families, whoever wrote it; in words. May be repeated. Raises Retry,
    when all have been tried."""
    done: list[str] = []
    failed: list[Retry] = []
    for family in Family:
        for way in (iptables.forget_all, nftables.forget_all):
            try:
                done += await way(family)
            except Retry as error:
                failed.append(error)
    if failed:
        raise failed[0]
    return done
