"""What containers left behind to say: termination messages.

`File`: the last 4,096 bytes of the file that the kubelet put at terminationMessagePath. `FallbackToLogsOnError`: where that is
empty and the exit code is not 0, the log's last 80 lines, of them the last 2,048 bytes. A container that has ended says no
more, so each is read once; where there was nothing to read, another look may find what its log said last.
(pkg/kubelet/kuberuntime/kuberuntime_container.go, getTerminationMessage)
"""

import os

from kubelet import beneath
from kubelet.containerlogs.logs import open_log, parse
from kubelet.model import Seen
from kubelet.runtime import TERMINATION_MESSAGE_PATH, TERMINATION_MESSAGE_POLICY, ContainerState, ContainerStatus

MESSAGE_BYTES = 4096
TAIL_LINES, TAIL_BYTES = 80, 2048


class Messages:
    """By container id, of one pod."""

    def __init__(self) -> None:
        self._read: dict[str, str] = {}

    def of(self, seen: Seen) -> dict[str, str]:
        exited = [status for status in seen.containers if status.state is ContainerState.EXITED]
        self._read = {status.id: self._read.get(status.id) or termination_message(status) for status in exited}
        return self._read


def termination_message(status: ContainerStatus) -> str:
    path = status.annotations.get(TERMINATION_MESSAGE_PATH, "")
    host = next((m.host_path for m in status.mounts if m.container_path == path), "")
    message = ""
    if path and host:
        try:
            message = _end_of(host, MESSAGE_BYTES)
        except FileNotFoundError:
            pass
        except OSError as error:
            return f"Error on reading termination log {host}: {error.strerror}"
    policy = status.annotations.get(TERMINATION_MESSAGE_POLICY, "")
    if not message and status.exit_code != 0 and policy == "FallbackToLogsOnError":
        message = log_tail(status.log_path)
    return message


def _end_of(path: str, size: int) -> str:
    """Of a file that the container's processes may have put there: a pipe must not hang, a link not lead elsewhere."""
    file = beneath.open_file(path)
    try:
        return os.pread(file, size, max(0, os.fstat(file).st_size - size)).decode(errors="replace")
    finally:
        os.close(file)


def log_tail(path: str, lines: int = TAIL_LINES, size: int = TAIL_BYTES) -> str:
    """The end of a container's log. Reads Docker's JSON lines and CRI's."""
    try:
        with open_log(path) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16 * size))
            raw = file.read(16 * size).splitlines()
    except OSError:
        return ""
    text = b"".join(record.text for line in raw if (record := parse(line))).splitlines(keepends=True)[-lines:]
    return b"".join(text)[-size:].decode(errors="replace")
