"""Network namespaces: named ones under /run/netns, and stepping into any of them.

A namespace lives as long as a process is in it or something is mounted from it. Giving it a name is therefore one bind
mount of ``/proc/<task>/ns/net`` onto a file in /run/netns, and forgetting it is an unmount and an unlink. Names are
iproute2's: ``ip netns`` lists ours and we list its.

Linux keeps the namespace per *thread*. ``create`` unshares in a short-lived thread of its own, so the caller never
moves. ``enter`` moves the calling thread and moves it back, so the code inside must stay on that thread: no ``await``,
no pool. Sockets keep the namespace they were opened in, which is what ``enter`` is mostly for: step in, open, step out.
Threads started inside inherit the namespace, and a library that starts one by itself carries it along.

For child processes use ``argv_in``: nsenter sets the namespace between fork and exec, and, unlike ``ip netns exec``,
does not remount /sys (dockerd and cgroup readers would lose their tree).

The CNI plugin starts a process per pod and imports this module, so it stays cheap: ``os`` and, when a call is made,
the bare ``_ctypes`` (``ctypes`` and ``contextlib`` each cost more than the plugin's whole kernel work).
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Final, ParamSpec, TypeVar

    Parameters = ParamSpec("Parameters")
    Result = TypeVar("Result")

DIRECTORY = "/run/netns"
OWN = "/proc/thread-self/ns/net"

_CLONE_NEWNET = 0x40000000
_SIOCGSKNS = 0x894C
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2


class Namespace:
    """A name and the path it is mounted at."""

    __slots__ = ("name", "path")

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.path: Final = path_of(name)

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Namespace) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def path_of(name: str) -> str:
    """Where the namespace of this name is mounted; refuses names that would leave the directory."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a network namespace: it must be one path component")
    return f"{DIRECTORY}/{name}"


def create(name: str) -> Namespace:
    """A new, empty namespace (its ``lo`` is down) under this name; FileExistsError when the name is taken."""
    namespace = Namespace(name)
    _prepare_directory()
    try:
        os.close(os.open(namespace.path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except FileExistsError as error:
        if is_namespace(namespace.path):
            raise FileExistsError(errno.EEXIST, "network namespace exists already", namespace.path) from error
        # A creator killed between file and mount left the bare file: mounting over it finishes its work.
    try:
        _in_thread(f"netns-create-{name}", _unshare_onto, namespace.path)
    except OSError:
        os.unlink(namespace.path)
        raise
    return namespace


def delete(name: str) -> None:
    """Forgets the name, at once and idempotently; the kernel tears the namespace down when its last user is gone."""
    path = path_of(name)
    while is_namespace(path):  # a name mounted twice (two creators raced) is unmounted twice
        _call("umount2", os.fsencode(path), _MNT_DETACH)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def names() -> list[str]:
    """Every name under which a namespace is mounted now, sorted; bare files are not namespaces and not listed."""
    try:
        entries = os.listdir(DIRECTORY)
    except FileNotFoundError:
        return []
    return sorted(entry for entry in entries if is_namespace(f"{DIRECTORY}/{entry}"))


def is_namespace(path: str) -> bool:
    """Whether the path is a namespace the kernel knows, not a leftover file."""
    try:
        return os.stat(path).st_dev == os.stat(OWN).st_dev
    except OSError:
        return False


def identity(path: str = OWN) -> tuple[int, int]:
    """(device, inode): equal exactly when two paths are the same namespace. OSError when there is none."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def identity_of(socket: int) -> tuple[int, int]:
    """``identity`` of the namespace that an open socket belongs to, wherever the thread is."""
    from fcntl import ioctl

    descriptor = ioctl(socket, _SIOCGSKNS)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino


def argv_in(path: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs ``argv`` inside the namespace; same mounts, same process tree."""
    return ["nsenter", f"--net={path}", "--", *argv]


class enter:  # noqa: N801 - used as a verb: `with enter(path):`
    """Moves the calling thread into the namespace and back again. Entering and leaving cost a system call each."""

    __slots__ = ("_home", "_target")

    def __init__(self, target: str | int) -> None:
        self._target = target
        self._home = -1

    def __enter__(self) -> None:
        self._home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespace(self._target)
        except OSError:
            os.close(self._home)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            set_namespace(self._home)
        finally:
            os.close(self._home)


def set_namespace(target: str | int) -> None:
    """Moves the calling thread into the namespace for good (a path or an open descriptor): for processes that stay."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC) if isinstance(target, str) else target
    try:
        _call("setns", descriptor, _CLONE_NEWNET)
    except OSError as error:
        raise OSError(error.errno, f"cannot enter network namespace: {os.strerror(error.errno or 0)}", target) from None
    finally:
        if isinstance(target, str):
            os.close(descriptor)


def call(
    path: str, function: Callable[Parameters, Result], *args: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    """The function's result, computed in the namespace on a thread of its own; blocks the caller until it is there.

    From asyncio: ``await asyncio.to_thread(netns.call, path, function)``. The pool's threads stay where they are.
    """

    def inside() -> Result:
        set_namespace(path)
        return function(*args, **keywords)

    return _in_thread(f"netns-call-{os.path.basename(path)}", inside)


def _in_thread(
    name: str, function: Callable[Parameters, Result], *args: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    import threading

    results: list[Result] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function(*args, **keywords))
        except BaseException as error:  # handed over to the caller, whole
            failures.append(error)

    thread = threading.Thread(target=body, name=name)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _unshare_onto(path: str) -> None:
    _call("unshare", _CLONE_NEWNET)
    _call("mount", OWN.encode(), os.fsencode(path), b"none", _MS_BIND, None)


def _prepare_directory() -> None:
    """As iproute2 does: the directory is a shared mount, so that an unmount here is an unmount in every container."""
    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    directory = DIRECTORY.encode()
    try:
        _call("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _call("mount", directory, directory, b"none", _MS_BIND | _MS_REC, None)
        _call("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)


def _call(function: str, *args: bytes | int | None) -> None:
    """One system call through the C library. os.setns and os.unshare come only with Python 3.12, os.mount never."""
    import _ctypes

    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type] # None is the process itself; typeshed omits it
    if _ctypes.call_function(_ctypes.dlsym(library, function), args) != 0:
        # The bare call does not keep errno: repeat the failure through the front door, which does.
        import ctypes

        if getattr(ctypes.CDLL(None, use_errno=True), function)(*args) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{function}: {os.strerror(number)}")
