"""The node's packet filter commands, and its nat table by iptables; one caller at a time in a network namespace.

Two callers that both see a shared jump missing would both make it. And who is killed leaves a command behind that may wait for
a lock still, and write after the DEL that cleans up. So each command holds the turn as long as it runs, whoever
started it: the lock belongs to an open file, and the file is handed down. What is locked is the namespace itself; its
inode is one for all who look at it, and it needs no file that could be read-only.
"""

from __future__ import annotations

import os

from cni.spec import IO_FAILURE, NOT_AVAILABLE, CniError
from linux import netns, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Final

_PATIENCE = 30  # seconds for the lock of the legacy commands: a proxy may be writing 100,000 rules


class Host:
    """Commands with this environment, in the thread's namespace; from `with` on it is this caller's turn."""

    __slots__ = ("_environment", "_turn")

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._turn = -1

    def __enter__(self) -> Host:
        import fcntl

        self._turn = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._turn, fcntl.LOCK_EX)  # it comes: each command has a deadline
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._turn)
        self._turn = -1

    def find(self, name: str) -> str | None:
        return spawn.find(name, self._environment.get("PATH", ""))

    def run(self, argv: Sequence[str], text: str = "", *, timeout: float) -> spawn.Ended:
        kept = (self._turn,) if self._turn >= 0 else ()
        return spawn.run(argv, text.encode(), timeout=timeout, environment=self._environment, kept=kept)


def is_nowhere(refusal: str) -> bool:
    """Whether nft refused to list a table because there is none, be it that the kernel has no nf_tables at all."""
    unknown = "cache initialization failed" in refusal and "not permitted" not in refusal
    return unknown or "No such file or directory" in refusal


class Tables:
    """One family's nat table in the thread's network namespace. CniError when the commands are not installed."""

    __slots__ = ("_host", "_iptables", "_restore", "family")

    def __init__(self, family: int, host: Host) -> None:
        stem = "iptables" if family == 4 else "ip6tables"
        found = [host.find(name) for name in (stem, f"{stem}-restore")]
        if found[0] is None or found[1] is None:
            raise CniError(
                NOT_AVAILABLE, f'{stem} is not on PATH: install the package iptables, or say "backend": "nftables"'
            )
        self.family: Final = family
        self._iptables: Final = found[0]
        self._restore: Final = found[1]
        self._host: Final = host

    def write(self, lines: Iterable[str]) -> str:
        """One transaction; "" or why it was refused, and then nothing of it was done."""
        text = "".join(f"{line}\n" for line in ("*nat", *lines, "COMMIT"))
        argv = [self._restore, "-w", str(_PATIENCE), "--noflush"]
        ended = self._host.run(argv, text, timeout=_PATIENCE * 4)
        return str(ended) if ended.status else ""

    def rules(self, chain: str) -> list[str] | None:
        """The chain's rules as the command prints them, without `-A CHAIN`; None when there is no such chain (or no nat table of
        this family in this kernel, where nothing can be either)."""
        ended = self._asked("-S", chain)
        if ended.status in (1, 3):
            return None
        if ended.status:
            raise CniError(IO_FAILURE, str(ended))
        head = f"-A {chain} "
        return [line[len(head) :] for line in ended.stdout.decode().splitlines() if line.startswith(head)]

    def holds(self, chain: str, rule: str) -> bool:
        return not self.write([f"-C {chain} {rule}"])

    def usable(self) -> str:
        ended = self._asked("-S", "OUTPUT")
        return str(ended) if ended.status else ""

    def _asked(self, *words: str) -> spawn.Ended:
        argv = [self._iptables, "-w", str(_PATIENCE), "-t", "nat", *words]
        return self._host.run(argv, timeout=_PATIENCE * 4)
