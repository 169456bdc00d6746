"""Deleting a link without waiting for what the kernel does when the link is gone.

RTM_DELLINK takes a link and its peer out of their namespaces in half a millisecond, and then waits some fifteen (an
rcu_barrier, in netdev_run_todo) until their memory can be freed. Nobody sees the link in that time: its name is free, and
nothing answers to its address. So the resident agent asks in a thread and looks whether the link is still there. A process
of its own would gain nothing by it: it cannot end before its threads have.
"""

from __future__ import annotations

import errno

from linux.netlink import RefusedError
from linux.netns import identity, identity_of
from linux.rtnetlink import Socket

_LOOK = 0.0003  # seconds between two looks
_MOST = 64  # threads that wait in the kernel; further deletions wait for themselves


class _Aside:
    """Deletions under way in threads of their own."""

    def __init__(self) -> None:
        import threading

        self._room = threading.BoundedSemaphore(_MOST)

    def remove(self, host: Socket, index: int) -> None:
        import threading
        import time

        # A number is a link of one namespace, and another link of the next: the second socket must be of the same.
        if identity_of(host.fileno()) != identity() or not self._room.acquire(blocking=False):
            host.delete_link(index)
            return
        failures: list[RefusedError] = []
        over = threading.Event()
        socket = Socket()

        def delete() -> None:
            try:
                with socket:
                    socket.delete_link(index)
            except RefusedError as error:
                failures.append(error)
            finally:
                self._room.release()
                over.set()

        threading.Thread(target=delete, name=f"cni-remove-{index}", daemon=True).start()
        while not over.is_set() and host.link_at(index) is not None:
            time.sleep(_LOOK)
        if failures and failures[0].errno != errno.ENODEV:
            raise failures[0]


_aside: _Aside | None = None


def aside() -> None:
    """From now on this process's deletions return when the link is gone, not when the kernel has forgotten it."""
    global _aside  # noqa: PLW0603 - of the process: the agent says it once, at its start
    _aside = _Aside()


def remove(host: Socket, index: int) -> None:
    """Deletes the link of the socket's namespace; a veth takes its peer along. Its being gone already is a RefusedError with
    ENODEV, or none."""
    if _aside is None:
        host.delete_link(index)
    else:
        _aside.remove(host, index)
