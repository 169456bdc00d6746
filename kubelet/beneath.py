"""Opening what others may have put there: a log directory or a pod's own file, into which a container may write.

No link is followed below the directory we trust; and a pipe, which would hold us up, or a device, whose opening alone may
do something (a watchdog begins to count), is looked at before it is opened and refused.
"""

import errno
import os
import stat


def open_below(root: str, path: str) -> int:
    """A descriptor to read the file or directory with. Raises OSError, also for anything else and for links on the way."""
    return _readable(_find(root, path))


def _find(root: str, path: str) -> int:
    """Step by step, as an O_PATH descriptor: nothing has been opened yet, and a link at the end is found, not followed."""
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *folders, last = path.split("/")
        for folder in folders:
            inner = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _readable(found: int) -> int:
    try:
        mode = os.fstat(found).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "it is a link")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "it is no file")
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(found)


def open_file(path: str, depth: int = 1) -> int:
    """A file for reading; its last `depth` steps are not ours. Raises OSError, also for what is no file or is a link."""
    parts = os.path.abspath(path).split("/")
    depth = min(depth, len(parts) - 1)
    file = open_below("/".join(parts[:-depth]) or "/", "/".join(parts[-depth:]))
    if stat.S_ISDIR(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EISDIR, "it is a directory")
    return file
