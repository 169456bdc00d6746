"""Looking into a kubelet that runs: /debug/flags/v sets how much it says, /debug/pprof/ shows what it is doing.

Python has no pprof: of its pages only `goroutine` has a meaning here, the stacks of all threads and of all tasks, as text.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
import threading
import traceback

from aiohttp import web

from kubelet.streams.door import Refusal

log = logging.getLogger(__name__)

_DEBUG_FROM = 4  # klog's level of what only debugging wants to know


async def verbosity(request: web.Request) -> web.StreamResponse:
    """PUT /debug/flags/v with a number."""
    text = (await request.text()).strip()
    if not re.fullmatch(r"[0-9]{1,2}", text):
        raise Refusal(400, f"error when parsing verbosity {text!r}: write a number from 0 to 10\n")
    level = logging.DEBUG if int(text) >= _DEBUG_FROM else logging.INFO
    logging.getLogger().setLevel(level)
    log.info("log verbosity %s: %s", text, logging.getLevelName(level))
    return web.Response(text=f"successfully set klog.logging.verbosity to {text}")


async def profile(request: web.Request) -> web.StreamResponse:
    name = request.match_info.get("name", "")
    if name == "":
        return web.Response(text="/debug/pprof/\n\ngoroutine\tstacks of all threads and tasks\n")
    if name == "goroutine":
        return web.Response(text=stacks())
    raise Refusal(
        501, f"/debug/pprof/{name}: this kubelet is written in Python and has no such profile; there is goroutine\n"
    )


def stacks() -> str:
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for identity, frame in sys._current_frames().items():
        out.write(f"thread {names.get(identity, '?')} [{identity}]:\n")
        out.writelines(traceback.format_stack(frame))
        out.write("\n")
    for task in sorted(asyncio.all_tasks(), key=lambda each: each.get_name()):
        out.write(f"task {task.get_name()}:\n")
        task.print_stack(file=out)
        out.write("\n")
    return out.getvalue()
