"""The ledger of addresses: who holds which, across processes that may die at any instruction.

One directory per network in the layout of Go's host-local, so that either plugin can take over from the other:

    lock                 flock(2)ed around every read and write, by both
    10.244.1.7, fd00::7  "<container>\\r\\n<interface>": the address is held
    last_reserved_ip.0   where the round robin of the first set of ranges stands
    .resting             ours: what was freed lately, so that late replies to a dead pod reach nobody
    .reserving.*         ours: a reservation being written

A reservation appears whole or not at all: it is written beside, flushed, and linked to its name (link(2) refuses a name
that is taken). Go writes the file under its final name, and a crash between leaves an empty file that belongs to nobody
and, there, leaks for good (containernetworking/plugins#498). Whoever holds the lock knows that no writer is alive, so an
empty file (or one of zeros, which a power cut leaves) is such a leftover and its address is free.

The shelf of a directory (cni.shelf) shares one lock among a process's threads and remembers what the files said: the
resident agent opens none of them again. The files decide all the same: an address is taken by link(2), and given back
after its file was read once more. Addresses are packed bytes here, 4 or 16, which are what sorts, compares and travels.
"""

from __future__ import annotations

import os
import time

from cni.shelf import Shelf, parse_holder, shelf, unlink
from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Final, Self

REST = 60.0
"""Seconds for which a freed address is handed out only where no other is left: by then UDP's conntrack entries of the dead pod,
and its peers' retries, are over."""

_LAST = "last_reserved_ip"
_RESTING = ".resting"
_LONGEST_RESTING = 16384  # bytes, or what its living lines take; then it is written anew without the others
_LINE = 120  # bytes, at least twice a line's
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Ledger:
    """The open ledger; as a context, locked against every other process and, but for flushes, every other thread."""

    __slots__ = ("_shelf", "directory")

    def __init__(self, directory: str) -> None:
        self.directory: Final = directory
        self._shelf: Final[Shelf] = shelf(directory)

    def __enter__(self) -> Self:
        self._shelf.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shelf.close()

    def holders(self) -> Mapping[bytes, tuple[str, str]]:
        """address -> (container, interface); the interface is "" in reservations that early host-locals wrote."""
        return self._shelf.holders

    def last(self, index: int = 0) -> bytes | None:
        """The address that was handed out last from this set of ranges, None before the first."""
        try:
            return packed(self._shelf.read(f"{_LAST}.{index}").decode("ascii", "replace").strip())
        except ValueError:
            return None

    def first_free(self, candidates: Iterable[bytes]) -> bytes | None:
        """The first candidate that nobody holds and that does not rest; the one that rests longest where all do."""
        held, resting = self._shelf.holders, self._resting()
        longest: bytes | None = None
        for address in candidates:
            if address in held:
                continue
            if address not in resting:
                return address
            if longest is None or resting[address] < resting[longest]:
                longest = address
        return longest

    def reserve(self, address: bytes, container: str, ifname: str, index: int = 0) -> None:
        """Makes the address the container's; FileExistsError when somebody holds it. Other threads may use the ledger while
        this one waits for the disk: they see the address as held already."""
        name = unpacked(address)
        # The cursor moves first: killed in between, the address is skipped once, not handed out twice in a row.
        self._shelf.overwrite(f"{_LAST}.{index}", name.encode())
        self._shelf.reserve(address, name, (container, ifname))

    def held(self, container: str, ifname: str) -> list[bytes]:
        """The addresses that the container holds on this interface."""
        return self._held(container, ifname) or (self._held(container, ifname) if self._shelf.reread() else [])

    def _held(self, container: str, ifname: str) -> list[bytes]:
        found: list[bytes] = []
        early: list[bytes] = []
        for address, holder in self._shelf.holders.items():
            if holder[0] == container and holder[1] in {ifname, ""}:
                (found if holder[1] else early).append(address)
        return found or early

    def release(self, container: str, ifname: str) -> list[bytes]:
        """Frees what the container holds on this interface; freeing nothing is fine. The addresses freed."""
        return self._free(dict.fromkeys(self.held(container, ifname), (container, ifname)))

    def collect(self, valid: Iterable[tuple[str, str]]) -> list[bytes]:
        """Frees what is held by nobody of `valid`, (container, interface) each; what crashed writers left empty goes too."""
        kept = set(valid)
        kept |= {(container, "") for container, _ in kept}
        self._shelf.reread()
        self._shelf.sweep()
        return self._free({address: holder for address, holder in self._shelf.holders.items() if holder not in kept})

    def _free(self, leaving: Mapping[bytes, tuple[str, str]]) -> list[bytes]:
        freed = []
        for address, (container, ifname) in leaving.items():
            name = unpacked(address)
            there = parse_holder(self._shelf.read(name))
            if there in {(container, ifname), (container, "")}:
                unlink(f"{self.directory}/{name}")
                freed.append(address)
            self._shelf.forget(address)
        if freed:
            self._rest(freed)
        return freed

    def _resting(self) -> dict[bytes, float]:
        """address -> when it was freed, by the clock that no one sets; another boot's are nobody's connections any more."""
        shelf = self._shelf
        inode, size = shelf.extent(_RESTING)
        if shelf.rested[0] != inode or shelf.rested[1] > size:  # somebody wrote it anew
            shelf.resting.clear()
            shelf.rested = (inode, 0)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if shelf.rested[1] < size:
            boot = _boot_id()
            for line in shelf.read(_RESTING, shelf.rested[1], size - shelf.rested[1]).split(b"\n"):
                words = line.split()
                try:
                    if len(words) == 3 and words[1] == boot and float(words[0]) <= now:
                        shelf.resting[packed(words[2].decode("ascii", "replace"))] = float(words[0])
                except ValueError:
                    continue  # a torn line
            shelf.rested = (inode, size)
        for address in [address for address, when in shelf.resting.items() if when <= now - REST]:
            del shelf.resting[address]
        return shelf.resting

    def _rest(self, addresses: Iterable[bytes]) -> None:
        """A courtesy: where there is no room for it, the address is free all the same."""
        boot, now = _boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            if (size := self._shelf.extent(_RESTING)[1]) > _LONGEST_RESTING and size > _LINE * len(self._resting()):
                known = {**self._resting(), **dict.fromkeys(addresses, now)}
                self._shelf.replace(_RESTING, b"".join(_resting_line(each, when, boot) for each, when in known.items()))
            else:
                self._shelf.append(_RESTING, b"".join(_resting_line(each, now, boot) for each in addresses))
        except OSError:
            return


def release(directory: str, container: str, ifname: str) -> list[bytes]:
    """``Ledger.release`` that makes no ledger where there never was one."""
    if not os.path.isdir(directory):
        return []
    with Ledger(directory) as ledger:
        return ledger.release(container, ifname)


def held(directory: str, container: str, ifname: str) -> list[bytes]:
    """``Ledger.held`` that makes no ledger where there never was one."""
    if not os.path.isdir(directory):
        return []
    with Ledger(directory) as ledger:
        return ledger.held(container, ifname)


def collect(directory: str, valid: Iterable[tuple[str, str]]) -> list[bytes]:
    """``Ledger.collect`` that makes no ledger where there never was one."""
    if not os.path.isdir(directory):
        return []
    with Ledger(directory) as ledger:
        return ledger.collect(valid)


def _resting_line(address: bytes, when: float, boot: bytes) -> bytes:
    return b"%.6f %s %s\n" % (when, boot, unpacked(address).encode())


def _boot_id() -> bytes:
    global _boot  # noqa: PLW0603 - it cannot change under a process
    if not _boot:
        with open(_BOOT_ID, "rb", buffering=0) as file:
            _boot = file.read(8)
    return _boot


_boot = b""
