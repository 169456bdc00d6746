"""Who has died: a pidfd for the main process of every running container, watched by the event loop.

A pidfd turns readable one or two milliseconds after the process has ended; runtimes say so 40 ms later. It names a process
for good, but the number it was opened by may have been given to another process meanwhile: so the pidfd is taken first and
the process' cgroup, which ends in the container's id, is looked at after. What the pidfd says is a hint: the exit code is
the runtime's to tell.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field


def belongs(pid: int, container_id: str) -> bool:
    """Whether process `pid` runs in the container's cgroup, as seen from this PID namespace."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            return container_id in file.read()
    except OSError:
        return False


def pidfd_of(pid: int, container_id: str) -> int | None:
    """A pidfd that certainly names a process of that container, or None."""
    if pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if belongs(pid, container_id):
        return descriptor
    os.close(descriptor)
    return None


@dataclass(slots=True)
class Exits:
    on_exit: Callable[[str], None]
    _descriptors: dict[str, int] = field(default_factory=dict)
    _ended: dict[str, asyncio.Event] = field(default_factory=dict)

    def watch(self, container_id: str, pid: int) -> bool:
        """Whether its exit will be noticed. False: gone already, or not visible from here."""
        if container_id in self._descriptors:
            return True
        descriptor = pidfd_of(pid, container_id)
        if descriptor is None:
            return False
        self._descriptors[container_id] = descriptor
        self._ended.setdefault(container_id, asyncio.Event())
        asyncio.get_running_loop().add_reader(descriptor, self._exited, container_id)
        return True

    def watched(self, container_id: str) -> bool:
        return container_id in self._descriptors

    def known(self, container_id: str) -> bool:
        """Watched now, or seen to end."""
        return container_id in self._ended

    async def wait(self, container_id: str, timeout: float) -> bool:
        """Whether a known container ended within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._ended[container_id].wait()
        except TimeoutError:
            return False
        return True

    def forget(self, container_id: str) -> None:
        self._release(container_id)
        self._ended.pop(container_id, None)

    def close(self) -> None:
        for container_id in list(self._descriptors):
            self.forget(container_id)

    def _exited(self, container_id: str) -> None:
        self._release(container_id)
        self._ended[container_id].set()
        self.on_exit(container_id)

    def _release(self, container_id: str) -> None:
        descriptor = self._descriptors.pop(container_id, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
