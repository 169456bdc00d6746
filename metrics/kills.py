"""Kills by the OOM killer, from the kernel's log.

A container whose first process is killed takes its group along, and the group's count with it, before anybody has read it; and
version 1 does not count upward, so the pod's group does not know either. The kernel's log says which group each victim was
in. It is read when somebody asks, from where it was left; nothing waits on it. Where it may not be read (no CAP_SYSLOG)
there are the groups' own counts, as before.
"""

import os
import re
from typing import Final

_VICTIM: Final = re.compile(rb"^[^;]*;oom-kill:.*?\btask_memcg=([^,\n]+),task=", re.MULTILINE)
_RECORD: Final = 8192
_MANY: Final = 4096
"""Groups that are remembered; the oldest go first."""


class Kills:
    """Kills by the group that the victim was in, since this was made."""

    def __init__(self, log: str = "/dev/kmsg") -> None:
        self._counts: dict[str, int] = {}
        try:
            self._handle = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._handle, 0, os.SEEK_END)
        except OSError:
            self._handle = -1

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def below(self) -> dict[str, int]:
        """By group, those of the groups below it included."""
        self._read()
        found: dict[str, int] = {}
        for victim, count in self._counts.items():
            path = victim.rstrip("/")
            while path:
                found[path] = found.get(path, 0) + count
                path = path.rpartition("/")[0]
            found["/"] = found.get("/", 0) + count
        return found

    def _read(self) -> None:
        while self._handle >= 0:
            try:
                record = os.read(self._handle, _RECORD)
            except BrokenPipeError:
                continue  # records were overwritten before we came
            except OSError:
                return
            if not record:
                return
            for victim in _VICTIM.findall(record):
                path = victim.decode("utf-8", "backslashreplace")
                self._counts[path] = self._counts.pop(path, 0) + 1
            while len(self._counts) > _MANY:
                del self._counts[next(iter(self._counts))]
