"""Memory that is not needed is given back.

A kubelet sits beside the pods it runs, and what it holds they cannot have. Three things make CPython hold more than it uses:
glibc keeps an arena for each of a process' threads, of which most wait; what is allocated while modules are loaded leaves holes;
a burst of pods leaves what it needed. So threads share two arenas, and holes are given back after the start and once a minute.
Objects that are there at the start stay to the end: the collector need not look at them again.
"""

import ctypes
import gc

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
ARENAS = 2


def _libc() -> ctypes.CDLL | None:
    """glibc, whose functions these are; None on another."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def begin() -> None:
    """Before there are threads."""
    if (library := _libc()) is not None:
        library.mallopt(_ARENA_MAX, ARENAS)


def settled() -> None:
    """Everything is loaded."""
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """A millisecond or two."""
    if (library := _libc()) is not None:
        library.malloc_trim(0)
