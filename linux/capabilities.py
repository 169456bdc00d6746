"""What this process may do, from /proc/self/status (see capabilities(7)).

Root is not the question: a unit's CapabilityBoundingSet takes rights away from root, ambient capabilities give them to others.
"""

from enum import IntEnum
from pathlib import Path


class Capability(IntEnum):
    """Bit numbers of linux/capability.h, those that somebody asks for."""

    NET_ADMIN = 12
    NET_RAW = 13
    SYS_ADMIN = 21


def effective(capability: Capability) -> bool:
    status = Path("/proc/self/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(mask, 16) >> capability & 1)
