"""/logs/: the node's log directory over HTTP, as upstream's file server shows it (<dirname podLogsDir>, so /var/log).

A pod that mounts the node's logs could plant a link to any file there; upstream follows it. Here what a path leads to must lie
below the directory, and links on the way are resolved before the file is opened.

/logs/?query=UNIT asks the journal, where enableSystemLogQuery is on.
"""

from __future__ import annotations

import asyncio
import html
import os
import re
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from aiohttp import web
from multidict import MultiMapping

from kubelet.streams.door import Refusal

_PIECE = 256 * 1024
_QUERY_SECONDS = 30.0
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Found:
    """An open file, or a directory's page."""

    file: int = -1
    size: int = 0
    modified: float = 0.0
    page: str = ""


def look(root: str, path: str) -> Found:
    """Blocking. Raises Refusal."""
    try:
        root = os.path.realpath(root, strict=True)
        where = os.path.realpath(os.path.join(root, path), strict=True)
    except FileNotFoundError:
        raise Refusal(404, "404 page not found\n") from None
    except OSError as error:
        raise Refusal(403, f"403 Forbidden: {error.strerror}\n") from error
    if where != root and not where.startswith(root.rstrip("/") + "/"):
        raise Refusal(403, f"403 Forbidden: {path} leads out of {root}\n")
    try:
        # A pipe would hold us up, and a link here was put there after we looked.
        file = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Refusal(404, "404 page not found\n") from None
    except OSError as error:
        raise Refusal(403, f"403 Forbidden: {error.strerror}\n") from error
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        try:
            return Found(page=_page(file))
        finally:
            os.close(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise Refusal(403, f"403 Forbidden: {path} is not a file\n")
    return Found(file, status.st_size, status.st_mtime)


def _page(directory: int) -> str:
    """As Go's file server lists a directory."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    rows = "".join(f'<a href="{quote(name)}">{html.escape(name)}</a>\n' for name in names)
    return f'<!doctype html>\n<meta name="viewport" content="width=device-width">\n<pre>\n{rows}</pre>\n'


async def answer(request: web.Request, root: str, *, query: bool) -> web.StreamResponse:
    path = request.match_info.get("path", "")
    if "query" in request.query and not path:
        if not query:
            raise Refusal(403, "node log query feature is not enabled: set enableSystemLogQuery\n")
        return await _journal(request.query)
    found = await asyncio.to_thread(look, root, path)
    if found.page:
        return web.Response(text=found.page, content_type="text/html")
    if request.path.endswith("/"):
        os.close(found.file)
        raise Refusal(404, "404 page not found\n")
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    response.last_modified = datetime.fromtimestamp(found.modified, UTC)
    response.content_length = found.size
    try:
        await response.prepare(request)
        async for piece in _pieces(found.file, found.size):
            await response.write(piece)
        await response.write_eof()
    finally:
        os.close(found.file)
    return response


def journal_command(query: MultiMapping[str]) -> list[str]:
    """journalctl's arguments for a node log query (kubectl get --raw .../logs/?query=UNIT). Raises Refusal."""
    argv = ["journalctl", "--utc", "--no-pager", "--output=short-precise"]
    for option, flag in (("sinceTime", "--since"), ("untilTime", "--until")):
        if text := query.get(option, ""):
            try:
                when = datetime.fromisoformat(text).astimezone(UTC)
            except ValueError:
                raise Refusal(400, f"{option}: {text!r} is not an RFC 3339 time\n") from None
            argv.append(f"{flag}={when:%Y-%m-%d %H:%M:%S}")
    if text := query.get("tailLines", ""):
        if not text.isdecimal() or int(text) > 100_000:
            raise Refusal(400, f"tailLines: {text!r} is not a number up to 100000\n")
        argv.append(f"--lines={int(text)}")
    if text := query.get("boot", ""):
        if not re.fullmatch(r"0|-[0-9]{1,4}", text):
            raise Refusal(400, f"boot: {text!r}: write 0 for this boot, -1 for the one before\n")
        argv.append(f"--boot={text}")
    if text := query.get("pattern", ""):
        argv.append(f"--grep={text}")
    for unit in query.getall("query"):
        if not _UNIT.fullmatch(unit):
            raise Refusal(400, f"query: {unit!r} is not the name of a unit\n")
        argv.append(f"--unit={unit}")
    return argv


async def _journal(query: MultiMapping[str]) -> web.StreamResponse:
    process = await asyncio.create_subprocess_exec(
        *journal_command(query),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_QUERY_SECONDS):
            text, _ = await process.communicate()
    except TimeoutError:
        raise Refusal(504, f"journalctl gave no answer within {_QUERY_SECONDS:g} s\n") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return web.Response(body=text, headers={"Content-Type": "text/plain; charset=utf-8"})


async def _pieces(file: int, left: int) -> AsyncIterator[bytes]:
    """What the file held when it was opened: it may grow meanwhile."""
    while left > 0:
        piece = await asyncio.to_thread(os.read, file, min(_PIECE, left))
        if not piece:
            return
        left -= len(piece)
        yield piece
