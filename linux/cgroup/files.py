"""Kernel files as text and numbers."""

import os


def text(path: str) -> str | None:
    """A kernel file's content, or None where there is none. Files of a vanished group answer ENODEV."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(handle, 2**16).decode("ascii", "replace")
    except OSError:
        return None
    finally:
        os.close(handle)


def number(path: str) -> int | None:
    content = text(path)
    try:
        return int(content) if content else None
    except ValueError:
        return None


def pairs(content: str | None, separator: str | None = " ") -> dict[str, int]:
    """`name value` lines as a mapping; `separator` None is any run of blanks."""
    found: dict[str, int] = {}
    for line in (content or "").splitlines():
        name, value = (*line.split(separator, 1), "", "")[:2]
        if value.lstrip("-").isdecimal():
            found[name] = int(value)
    return found
