"""The ledger of addresses: who holds which, across processes that may die at any instruction.

One directory per network in the layout of Go's host-local, so that either plugin can take over from the other:

    lock                 flock(2)ed around every read and write, by both
    10.244.1.7           "<container>\\r\\n<interface>": the address is held
    last_reserved_ip.0   where the round robin stands
    .reserving           ours: a reservation being written

A reservation appears whole or not at all: it is written beside, flushed, and linked to its name (link(2) refuses a name
that is taken). Go writes the file under its final name, and a crash between leaves an empty file that belongs to nobody
and, there, leaks for good (containernetworking/plugins#498). Whoever holds the lock knows that no writer is alive, so an
empty file is such a leftover and its address is free.
"""

from __future__ import annotations

import fcntl
import os

from cni.model import address_text, parse_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

_LAST = "last_reserved_ip.0"
_DRAFT = ".reserving"


class Ledger:
    """The open ledger; as a context, locked against every other process."""

    __slots__ = ("_lock", "directory")

    def __init__(self, directory: str) -> None:
        self.directory: Final = directory
        self._lock = -1

    def __enter__(self) -> Self:
        os.makedirs(self.directory, 0o755, exist_ok=True)
        self._lock = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def holders(self) -> dict[int, tuple[str, str]]:
        """address -> (container, interface); the interface is "" in reservations that early host-locals wrote."""
        found = {}
        for name in os.listdir(self.directory):
            try:
                address = parse_address(name)
            except ValueError:
                continue
            held = self._read(name).decode("utf-8", "replace").strip()
            if held:
                container, _, ifname = held.partition("\n")
                found[address] = (container.strip(), ifname.strip())
        return found

    def last(self) -> int | None:
        """The address that was handed out last, None before the first."""
        try:
            return parse_address(self._read(_LAST).decode("ascii", "replace").strip())
        except ValueError:
            return None

    def reserve(self, address: int, container: str, ifname: str) -> None:
        """Makes the address the container's; it must be free by ``holders``."""
        final, draft = f"{self.directory}/{address_text(address)}", f"{self.directory}/{_DRAFT}"
        # The cursor moves first: killed in between, the address is skipped once, not handed out twice in a row.
        self._write(f"{draft}.last", address_text(address).encode(), flush=False)
        os.replace(f"{draft}.last", f"{self.directory}/{_LAST}")
        _unlink(draft)  # never truncated: a killed process may have left it as a second name of a live reservation
        self._write(draft, f"{container}\r\n{ifname}".encode(), flush=True)
        try:
            os.link(draft, final)
        except FileExistsError:  # an empty leftover, or ``holders`` would have told
            os.unlink(final)
            os.link(draft, final)
        os.unlink(draft)

    def held(self, container: str, ifname: str) -> list[int]:
        """The addresses that the container holds on this interface."""
        holders = self.holders()
        found = [address for address, holder in holders.items() if holder == (container, ifname)]
        return found or [address for address, holder in holders.items() if holder == (container, "")]

    def release(self, container: str, ifname: str) -> list[int]:
        """Frees what the container holds on this interface; freeing nothing is fine. The addresses freed."""
        freed = self.held(container, ifname)
        for address in freed:
            _unlink(f"{self.directory}/{address_text(address)}")
        return freed

    def _read(self, name: str) -> bytes:
        try:
            descriptor = os.open(f"{self.directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.read(descriptor, 4096)
        finally:
            os.close(descriptor)

    def _write(self, path: str, content: bytes, *, flush: bool) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, content)
            if flush:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def release(directory: str, container: str, ifname: str) -> list[int]:
    """``Ledger.release`` that makes no ledger where there never was one."""
    if not os.path.isdir(directory):
        return []
    with Ledger(directory) as ledger:
        return ledger.release(container, ifname)


def held(directory: str, container: str, ifname: str) -> list[int]:
    """``Ledger.held`` that makes no ledger where there never was one."""
    if not os.path.isdir(directory):
        return []
    with Ledger(directory) as ledger:
        return ledger.held(container, ifname)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
