"""The program that a runtime execs, where no compiler was at hand: asks the agent, and works alone when there is none.

It does what shim.c does, in the same words (cni.wire), and starts in a third of the time that the plugins' own modules
take, because it imports nothing but what a socket needs: not even ``os``.
"""

import _socket
import posix
import sys

_PATIENCE = 50.0  # seconds, less than a kubelet's
_ALONE = 256
_MAGIC = b"WCN1"


def main(socket: str, run: str) -> int:
    """The exit status. ``socket`` and ``run`` are paths: the agent's door, and where calls under way are kept."""
    name = sys.argv[0].rpartition("/")[2]
    command = posix.environ.get(b"CNI_COMMAND")
    if not command or command == b"VERSION":
        return _alone(name, run, None, "")
    stdin = _stdin()
    begun = False
    try:
        with _Closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)) as line:
            line.settimeout(_PATIENCE)
            line.connect(socket)
            body = b"".join(
                (name.encode(), b"\0", *(b"%s=%s\0" % pair for pair in posix.environ.items()), b"\0", stdin)
            )
            begun = True
            line.sendall(_MAGIC + len(body).to_bytes(4, "big") + body)
            header = _exactly(line, 12)
            status = int.from_bytes(header[4:8], "big")
            said = _exactly(line, int.from_bytes(header[8:12], "big"))
            if status != _ALONE and header[:4] == _MAGIC:
                return _handed_on(line, said, status)
        reason = said.decode()
    except OSError:
        reason = "lost" if begun else "away"
    return _alone(name, run, stdin, reason)


def _handed_on(line: _socket.socket, said: bytes, status: int) -> int:
    """The answer is in hand, so nothing that fails from here on is a reason to do the call again."""
    try:
        while said:
            said = said[posix.write(1, said) :]
        line.sendall(b"\0")
    except OSError:
        return 1 if said else status  # nobody listens: the closed socket has it undone; or the agent needs no thanks
    return status


class _Closing:
    """A socket as a context: the bare module's are none."""

    def __init__(self, line: _socket.socket) -> None:
        self._line = line

    def __enter__(self) -> _socket.socket:
        return self._line

    def __exit__(self, *_: object) -> None:
        self._line.close()


def _exactly(line: _socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = line.recv(size - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def _stdin() -> bytes:
    data = b""
    while more := posix.read(0, 1 << 16):
        data += more
    return data


def _alone(name: str, run: str, stdin: bytes | None, reason: str) -> int:
    import os

    from cni import alone

    return alone.main(name, run, {**os.environ, alone.REASON: reason}, stdin)
