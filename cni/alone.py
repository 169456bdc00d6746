"""A call without the agent, in a process of its own: the program that a shim turns into.

Where the configuration says ``"agent": true``, an ADD that finds the agent away answers code 11, "try again later": it may be
starting. So does one whose agent went in the middle, after it was undone. Everything else is worked off here, and DEL always: a
pod that cannot be removed is worse than a slow one.
"""

from __future__ import annotations

import os
import sys

from cni import journal, wire
from cni.spec import IO_FAILURE, TRY_AGAIN_LATER, VERSIONS, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

REASON = "WHERRY_CNI_AGENT"
"""The environment variable in which a compiled shim says why it does not ask the agent."""

_ABOUT = """{name}: a CNI plugin of Wherry.
A container runtime calls it with CNI_* variables and a network configuration on stdin; see docs/cni.md. The same program
answers as {names}. It speaks CNI {versions}.
"""
_SWEPT = 8  # entries of the journal that one ADD looks at: it is a pod that waits
_PATIENCE = 2.0  # seconds that it gives them
_REST = 30.0  # seconds for which it leaves alone what could not be undone


def main(
    kind: str, run: str = journal.RUN, environment: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> int:
    """The exit status; environment and stdin are the process's own where a shim has not read them already."""
    variables = dict(os.environ if environment is None else environment)
    reason = variables.pop(REASON, "")
    if not variables.get("CNI_COMMAND"):
        from cni.plugins import NAMES

        sys.stderr.write(_ABOUT.format(name=kind, names=", ".join(NAMES), versions=", ".join(VERSIONS)))
        return 0
    said, status = answered(kind, run, variables, sys.stdin.buffer.read() if stdin is None else stdin, reason)
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    return status


def answered(kind: str, run: str, environment: Mapping[str, str], stdin: bytes, reason: str) -> tuple[bytes, int]:
    """(stdout, exit status). ``reason`` is one of cni.wire's, "" where there is no agent to ask."""
    try:
        return _answered(kind, run, environment, stdin, reason)
    except CniError as error:
        return journal.refusal(error, stdin)
    except OSError as error:
        return journal.refusal(CniError(IO_FAILURE, f"{run}: {error}"), stdin)


def _answered(kind: str, run: str, environment: Mapping[str, str], stdin: bytes, reason: str) -> tuple[bytes, int]:
    from cni.run import answer

    if environment.get("CNI_COMMAND") == "ADD":
        if reason == wire.LOST:
            journal.undo_lost(run, answer, kind, environment)
            return _later("the CNI agent ended in the middle of the call, which is undone", stdin)
        if reason == wire.AWAY and journal.asks_for_agent(stdin):
            return _later("the CNI agent of this node (wherry-cni.service) does not answer: is it starting?", stdin)
        _sweep(run, answer)
    said, status, entry = journal.carry_out(run, answer, kind, environment, stdin)
    if entry is not None:
        entry.end()
    return said, status


def _sweep(run: str, answer: journal.Answer) -> None:
    """Undoes what dead workers left, in a thread: what hangs there (a lock of another network's IPAM) is left to others."""
    import _thread

    over = _thread.allocate_lock()
    over.acquire()

    def work() -> None:
        try:
            journal.sweep(run, answer, _SWEPT, _REST)
        except (CniError, OSError):
            return  # carry_out meets the same, and says it
        finally:
            over.release()

    _thread.start_new_thread(work, ())
    over.acquire(timeout=_PATIENCE)


def _later(message: str, stdin: bytes) -> tuple[bytes, int]:
    return journal.refusal(CniError(TRY_AGAIN_LATER, message), stdin)
