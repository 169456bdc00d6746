"""Handing a call on to another plugin: an ``ipam.type``, flannel's delegate.

The plugin is looked for along CNI_PATH, as the specification has it. Where what is found is this very program (one file under
many names, so: the same file as the ``wherry-cni`` beside it, links followed), its function is called instead of a process
started. Anything else is started with the whole configuration and the whole environment; what it says on stderr passes through.
It holds the call's place among those under way as long as it runs: the DEL of a worker that died comes after it.

``Call.own`` skips the search: wherry-cni is bridge and host-local in one, whatever else is installed.
"""

from __future__ import annotations

import os

from cni.codec import encode
from cni.plugins import MAIN, named
from cni.spec import (
    DELEGATE_FAILED,
    INVALID_CONFIGURATION,
    CniError,
    Result,
    parse_error,
    parse_result,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cni.call import Call, Plugin
    from cni.codec import Json

PATIENCE = 60.0
"""Seconds that a delegated program may take; a hung one would hold a thread of the agent for ever."""


def add(kind: str, call: Call, config: Mapping[str, Json]) -> Result:
    """The delegate's result. A program that fails is asked to DEL, as the specification has it: it may have done half. (Ours
    clean up after themselves, and know what of it is another ADD's.)"""
    found = _find(kind, call)
    if not isinstance(found, str):
        return found.add(call, config)
    call.begin()
    try:
        return parse_result(_run(kind, found, call, config))
    except (CniError, OSError):
        undo(kind, call, config)
        raise


def undo(kind: str, call: Call, config: Mapping[str, Json]) -> None:
    """Takes an ADD back after a failure, which is the one to report: this one's own goes to stderr, and the runtime's DEL tries
    again."""
    try:
        delete(kind, call.asking("DEL"), config)
    except (CniError, OSError) as error:
        os.write(2, f"{kind}: undoing the failed ADD of {call.container}: {error}\n".encode())


def delete(kind: str, call: Call, config: Mapping[str, Json]) -> None:
    _ask(kind, call, config, lambda own: own.delete)


def check(kind: str, call: Call, config: Mapping[str, Json]) -> None:
    _ask(kind, call, config, lambda own: own.check)


def status(kind: str, call: Call, config: Mapping[str, Json]) -> None:
    _ask(kind, call, config, lambda own: own.status)


def gc(kind: str, call: Call, config: Mapping[str, Json]) -> None:
    _ask(kind, call, config, lambda own: own.gc)


def _ask(
    kind: str,
    call: Call,
    config: Mapping[str, Json],
    ours: Callable[[Plugin], Callable[[Call, Mapping[str, Json]], None]],
) -> None:
    """For what has no answer: our own plugin does it here, any other is told by its program."""
    found = _find(kind, call)
    if isinstance(found, str):
        _run(kind, found, call, config)
    else:
        ours(found)(call, config)


def _find(kind: str, call: Call) -> Plugin | str:
    """The plugin: ours, or the path of a program."""
    own = named(kind)
    if call.own and own is not None:
        return own
    if "/" in kind:
        raise CniError(INVALID_CONFIGURATION, f"{kind!r} names no plugin: a type is the name of a program on CNI_PATH")
    for folder in call.path:
        program = os.path.join(folder, kind)
        if os.access(program, os.X_OK) and not os.path.isdir(program):
            return own if own is not None and _is_ours(program) else program
    raise CniError(
        DELEGATE_FAILED, f"no plugin {kind!r} in {':'.join(call.path)}: install it there, or name another type"
    )


def _is_ours(program: str) -> bool:
    try:
        program = os.path.realpath(program)
        return os.path.samefile(program, os.path.join(os.path.dirname(program), MAIN))
    except OSError:
        return False


def _run(kind: str, program: str, call: Call, config: Mapping[str, Json]) -> bytes:
    from linux import spawn

    kept = (call.entry.descriptor,) if call.entry is not None else ()
    ended = spawn.run([program], encode(config).encode(), timeout=PATIENCE, environment=call.environment, kept=kept)
    if ended.stderr:
        os.write(2, ended.stderr)
    if ended.status == 0:
        return ended.stdout
    refusal = parse_error(ended.stdout)
    if refusal is None:
        raise CniError(DELEGATE_FAILED, f"{call.command} was handed on to {ended}")
    raise CniError(refusal.code, f"{kind}: {refusal.message}", refusal.details)
