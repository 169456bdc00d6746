"""A node's own view of the machine's files, where its container runtime is its own too.

    the machine    /              /run            /var/lib/cni (made when missing)     <state>/node1/...
    node1          the same files /run: node1's   /var/lib/cni: node1's                the same files

Containerd, its shims and the kubelet of a node live in one mount namespace, so that what one of them mounts (a container's
root, a pod's tmpfs) the other sees, and the machine does not. It follows the machine's mounts (`slave`), sends none back,
and passes its own on to containers that ask for it (`shared`). Only two directories differ from the machine's, because
containerd and libcni write there whatever they are told: /run, and /var/lib/cni.

The namespace has a name, a mount of itself on `<state>/namespaces/<node>/mnt`: it outlives containerd, a restarted one
finds its containers' mounts again, and `down` finds it in the kernel's mount table. With its last process and that name gone,
the kernel takes every mount in it away. Beside it is a UTS namespace, so that pods with the node's network have its name too.
"""

import asyncio
import contextlib
import errno
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from linux import mounts, process

CNI_CACHE = "/var/lib/cni"


def spaces(state: str, node: str) -> str:
    """The directory in which a node's namespaces have their names: `mnt`, `uts`."""
    return f"{state}/namespaces/{node}"


def view(name: str, home: str) -> tuple[str, ...]:
    """The shell lines that make fresh namespaces those of the node `name`, whose files are below `home`."""
    run, cache = shlex.quote(f"{home}/run"), shlex.quote(f"{home}/cni/lib")
    return (
        "mount --make-rshared /",
        # /etc/resolv.conf points there where systemd-resolved runs.
        f"if [ -d /run/systemd/resolve ]; then mount --bind /run/systemd/resolve {run}/systemd/resolve; fi",
        f"mount --rbind {run} /run",
        # A peer of the directory it came from would show each container's mounts twice.
        "mount --make-rprivate /run",
        "mount --make-rshared /run",
        f"mount --bind {cache} {CNI_CACHE}",
        # crun takes a version 2 tree beside version 1 for the one to use, and finds its controllers missing.
        "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi",
        f"echo {name} > /proc/sys/kernel/hostname",
    )


async def build(views: Mapping[str, Sequence[str]]) -> None:
    """Make the namespaces, by the directory of their names, with their lines run in them. Raises CommandFailed."""
    if not views:
        return
    folder = os.path.dirname(next(iter(views)))
    os.makedirs(folder, exist_ok=True)
    os.makedirs(CNI_CACHE, exist_ok=True)
    # The kernel takes such names on private mounts only: one that spreads could end up inside itself.
    script = f"mount --bind {shlex.quote(folder)} {shlex.quote(folder)} && mount --make-private {shlex.quote(folder)}"
    await process.run(["sh", "-ec", script])
    commands = []
    for path, lines in views.items():
        os.makedirs(path, exist_ok=True)
        for file in ("mnt", "uts"):
            Path(path, file).touch()
        names = (f"--mount={path}/mnt", f"--uts={path}/uts")
        commands.append(["unshare", *names, "--propagation=slave", "sh", "-ec", "\n".join(lines)])
    try:
        async with asyncio.TaskGroup() as group:
            for command in commands:
                group.create_task(_younger(command))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed  # each names its command; one is enough


async def _younger(command: Sequence[str]) -> None:
    """Run what names a new mount namespace. The kernel lets a namespace be mounted only in one with a smaller number (no
    two inside each other), and since 6.18 each CPU numbers from a stock of its own: made on another CPU than ours was,
    one can be younger and have a smaller number. On ours it has a greater one, and ours was made on one of these."""
    cpus = sorted(os.sched_getaffinity(0))
    for cpu in cpus:
        try:
            await process.run(["taskset", "--cpu-list", str(cpu), *command])
        except process.CommandFailed as error:
            if os.strerror(errno.EINVAL) not in error.stderr or cpu == cpus[-1]:
                raise
        else:
            return


def unmake(state: str) -> None:
    """Forget the names; what is mounted inside goes with the last process."""
    for mount in mounts.below(f"{state}/namespaces"):
        mounts.unmount(mount.point, lazy=True)


def forget_cache() -> None:
    """Remove what `build` made outside of the lab, when nobody keeps anything there. Only while no lab is up: a directory
    can be removed under the feet of those who mount on it."""
    with contextlib.suppress(OSError):
        os.rmdir(CNI_CACHE)
