"""A daemon as a process: its log, its signals, its supervisor, its exit status.

`main` runs a room's `run(config, ready)` until it ends, fails or SIGTERM or SIGINT arrives. Exit status: 0 after a signal
and a clean end, 2 when whoever started us is wrong (`UsageError`, one line), 1 when the world refused what the daemon cannot
do without (`Retry`, one line) or after a bug (traceback), so that the supervisor starts us again.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from kube import sdnotify
from kube.errors import Retry, UsageError

C = TypeVar("C")
E = TypeVar("E", bound=BaseException)

Run = Callable[[C, Callable[[], None]], Awaitable[None]]

_PATIENCE = 1.0
"""Seconds that threads have to come to their end, once the daemon has."""

log = logging.getLogger(__name__)


def enter(name: str, load: Callable[[Sequence[str]], C], daemon: str, argv: Sequence[str] | None = None) -> int:
    """A daemon's whole `main`: read the configuration with `load`, only then import the module `daemon` and run its `run`."""
    try:
        config = load(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        complain(name, error)
        return 2
    return main(importlib.import_module(daemon).run, config, name=name)


def main(run: Run[C], config: C, *, name: str) -> int:
    """Run the daemon `name`; the process's exit status.

    Does not return while threads of its own are caught in a call that nobody answers: it ends the process over them.
    """
    before = set(threading.enumerate())
    start_log(name)
    status = _status(run, config, name)
    deadline = time.monotonic() + _PATIENCE
    for thread in set(threading.enumerate()) - before:
        thread.join(max(deadline - time.monotonic(), 0.0))
    hung = [t.name for t in set(threading.enumerate()) - before if t.is_alive() and not t.daemon]
    if hung:  # the interpreter would wait for them: a socket's whole timeout, long after the supervisor's patience
        log.warning("%s ends without waiting for %s", name, ", ".join(sorted(hung)))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    return status


def _status(run: Run[C], config: C, name: str) -> int:
    try:
        with _runner() as runner:
            return runner.run(_supervised(run, config, name))
    except BaseException as error:
        if usage := only(UsageError, error):
            complain(name, usage)
            return 2
        if refused := only(Retry, error) or only(KeyboardInterrupt, error):
            complain(name, refused if str(refused) else type(refused).__name__)
            return 1
        log.critical("%s: this is a bug", name, exc_info=error)
        return 1


def only(kind: type[E], error: BaseException) -> E | None:
    """The exception of that kind that `error` is or, being a group of nothing else, holds."""
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [only(kind, e) for e in error.exceptions]
        return found[0] if all(found) else None
    return None


def complain(name: str, error: object) -> None:
    """One line on stderr."""
    print(f"{name}: {error}", file=sys.stderr, flush=True)


def start_log(name: str) -> None:
    """One line an entry on stderr; WHERRY_LOG sets the level (debug, info, warning). journald adds the time itself."""
    level = os.environ.get("WHERRY_LOG", "info").upper()
    stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s.%(msecs)03d "
    logging.basicConfig(
        level=level if level in logging.getLevelNamesMapping() else "INFO",
        format=f"{stamp}{name} %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _supervised(run: Run[C], config: C, name: str) -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.current_task()
    assert work
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            sdnotify.notify("STOPPING=1")
            work.cancel()

    def ready() -> None:
        gc.collect()
        gc.freeze()
        sdnotify.notify("READY=1")
        log.info("%s is ready", name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        async with asyncio.TaskGroup() as group:
            watchdog = group.create_task(_watchdog())
            await run(config, ready)
            watchdog.cancel()
    except asyncio.CancelledError:
        if not stopping:
            raise
    if stopping:
        log.info("%s has stopped", name)
    return 0


async def _watchdog() -> None:
    """The loop is alive as long as this task gets its turn."""
    interval = sdnotify.watchdog_interval()
    with contextlib.suppress(asyncio.CancelledError):
        while interval:
            sdnotify.notify("WATCHDOG=1")
            await asyncio.sleep(interval)
