"""Memory after a load: what it needed goes back to the system, what it left is not looked at again.

A load reads every object twice (as the store's row and as what is served), and glibc keeps what is freed for later. The cyclic
collector would go through hundreds of thousands of objects that stay as long as the server does.
"""

from __future__ import annotations

import ctypes
import gc


def settle() -> None:
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others give back by themselves
    if trim is not None:
        trim(0)
