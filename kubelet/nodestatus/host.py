"""What the kubelet expects of its machine before it starts, and what it sets for its own process.

Nothing of the machine itself is changed: upstream sets some kernel parameters unless `protectKernelDefaults`, this kubelet
leaves them as they are and, with that key, refuses to start where they are not what it needs.
"""

import logging
import os
import resource
from pathlib import Path

from kube.errors import UsageError
from kubelet.config import Config

log = logging.getLogger(__name__)

KERNEL = {
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.keys.root_maxkeys": "1000000",
    "kernel.keys.root_maxbytes": "25000000",
}
"""pkg/kubelet/cm/container_manager_linux.go, setupKernelTunables."""
EVERYTHING_FROM = 4  # --v


def check(config: Config, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> None:
    """Raises UsageError."""
    if config.fail_swap_on and (swaps := _swaps(proc)):
        raise UsageError(
            f"swap is on ({', '.join(swaps)}), and pods' memory limits would not hold: turn it off (swapoff -a), or write "
            "failSwapOn: false (--fail-swap-on=false)"
        )
    if config.fail_cgroup_v1 and not os.path.exists(f"{cgroups}/cgroup.controllers"):
        raise UsageError(
            "failCgroupV1: this machine has cgroup v1; boot with systemd.unified_cgroup_hierarchy=1, or remove the key"
        )
    if config.protect_kernel_defaults:
        _check_kernel(proc)


def _swaps(proc: str) -> list[str]:
    try:
        lines = Path(proc, "swaps").read_text().splitlines()[1:]
    except OSError:
        return []
    # tmpfs behind a noswap mount and zram are swap too; upstream makes no difference
    return [line.split()[0] for line in lines if line.strip()]


def _check_kernel(proc: str) -> None:
    for name, wanted in KERNEL.items():
        path = Path(proc, "sys", *name.split("."))
        try:
            found = path.read_text().strip()
        except OSError as error:
            raise UsageError(f"protectKernelDefaults: {name} cannot be read: {error.strerror}") from error
        if found != wanted:
            raise UsageError(
                f"protectKernelDefaults: {name} is {found}, {wanted} is needed: sysctl -w {name}={wanted}, or remove the key"
            )


def settle(config: Config) -> None:
    """The process's own limits, OOM score and log level. What the kernel does not permit is logged."""
    if config.logging.verbosity >= EVERYTHING_FROM:
        logging.getLogger().setLevel(logging.DEBUG)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, config.max_open_files)
    for ceiling in dict.fromkeys((most, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(config.max_open_files, ceiling), ceiling))
            break
        except (OSError, ValueError):
            log.debug("maxOpenFiles: no more than %d open files are permitted", hard)
    else:
        log.warning("maxOpenFiles: the limit stays at %d", soft)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(config.oom_score_adj))
    except OSError as error:
        log.debug("oomScoreAdj %d is not permitted: %s", config.oom_score_adj, error.strerror)
