"""How a shim and the agent speak, and how the journal keeps a call: one request, one answer, one byte, over a Unix socket.

    request   "WCN1", length of the rest (4 bytes, network order), then
              kind NUL (NAME=VALUE NUL)* NUL stdin            the whole environment: delegated programs inherit it
    answer    "WCN1", status (4), length of the rest (4), stdout
    thanks    one byte, when the shim has handed the answer to the runtime; a socket that closes without it is a shim that
              was killed, and what its ADD made is undone

Status 0 and 1 are the plugin's exit status; ``ALONE`` asks the shim to do the work itself, and stdout is the reason.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET = "/run/wherry/cni.sock"
MAGIC = b"WCN1"
HEADER = 8
ALONE = 256
LONGEST = 16 << 20  # bytes of a request: more than any environment and configuration together

AWAY, ELSEWHERE, LOST = "away", "elsewhere", "lost"
"""Why a shim works alone: nobody listens (or is about to end); the agent sees other files or links than the caller; it was
listening, and went in the middle of the call."""


def request(kind: str, environment: Mapping[str, str], stdin: bytes) -> bytes:
    body = _bytes(kind) + b"\0"
    body += b"".join(_bytes(f"{name}={value}") + b"\0" for name, value in environment.items()) + b"\0" + stdin
    return MAGIC + len(body).to_bytes(4, "big") + body


def length(header: bytes) -> int:
    """How long the rest of a request is; ValueError when this is the beginning of none."""
    found = int.from_bytes(header[4:8], "big")
    if header[:4] != MAGIC or found > LONGEST:
        raise ValueError(f"no request of a shim: {header!r}")
    return found


def parse(body: bytes) -> tuple[str, dict[str, str], bytes]:
    """(kind, environment, stdin) of a request without its header; ValueError when it is torn."""
    kind, nul, rest = body.partition(b"\0")
    if not nul:
        raise ValueError("a request without its end")
    environment: dict[str, str] = {}
    while True:
        pair, nul, rest = rest.partition(b"\0")
        if not nul:
            raise ValueError("a request without its end")
        if not pair:
            return _text(kind), environment, rest
        name, _, value = pair.partition(b"=")
        environment[_text(name)] = _text(value)


def reply(status: int, stdout: bytes) -> bytes:
    return MAGIC + status.to_bytes(4, "big") + len(stdout).to_bytes(4, "big") + stdout


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
