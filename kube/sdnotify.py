"""Telling the supervisor how we are: sd_notify(3), and notice of a watchdog (WATCHDOG_USEC).

Without NOTIFY_SOCKET everything here does nothing.
"""

import os
import socket

_PATIENCE = 1.0
"""Seconds: a supervisor that does not read its socket must not stop the event loop of whom it supervises."""


def notify(state: str) -> bool:
    """Send a state (`READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=...`); False when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.settimeout(_PATIENCE)
            out.connect(address)
            out.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_interval() -> float | None:
    """Seconds between two WATCHDOG=1, half of what the supervisor allows; None when it does not watch this process."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2e6
