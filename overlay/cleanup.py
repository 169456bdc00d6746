"""--cleanup: take away everything of ours, whatever configuration made it. Needs no memory and may be repeated.

The annotations and the lease stay: they are the cluster's, and another overlay on this node goes on with them.
"""

import logging
from pathlib import Path

from kube.errors import Retry, UsageError
from linux.netlink import Conversation
from overlay import apply, drift, keys, masquerade, subnetenv
from overlay.config import Config
from overlay.registry import memory

log = logging.getLogger(__name__)


async def run(config: Config) -> None:
    """Raises UsageError when something is left."""
    done: list[str] = []
    troubles: list[str] = []
    try:
        with Conversation() as ip:
            done += [drift.words(step) for step in await apply.forget(ip)]
    except (Retry, OSError) as error:
        troubles.append(str(error))
    try:
        done += await masquerade.forget()
    except Retry as error:
        troubles.append(str(error))
    try:
        for path, remove in (
            (Path(config.subnet_file), subnetenv.remove),
            (keys.file(config.subnet_file), keys.remove),
            (memory.path(config.subnet_file), memory.remove),
            (memory.leases(config.subnet_file), memory.remove),
        ):
            if remove(path):
                done.append(f"removed {path}")
    except OSError as error:
        troubles.append(str(error))
    for line in done or ["there was nothing to remove"]:
        log.info("%s", line)
    if troubles:
        raise UsageError(f"--cleanup: {'; '.join(troubles)}; run it again once that is mended")
