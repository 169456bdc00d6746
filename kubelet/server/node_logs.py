"""/logs/: the node's log directory over HTTP, as upstream's file server shows it (<dirname podLogsDir>, so /var/log).

A pod that mounts the node's logs could plant a link to any file there; upstream follows it. Here what a path leads to must lie
below the directory, and links on the way are resolved before the file is opened,
and none is followed then.

/logs/?query=UNIT asks the journal, where enableSystemLogQuery is on.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from kubelet import beneath
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
    if "\0" in path:
        raise Refusal(404, "404 page not found\n")
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
        file = beneath.open_below(root, os.path.relpath(where, root))
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
        return await _journal(request)
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
            except (ValueError, OverflowError):
                raise Refusal(400, f"{option}: {text!r} is not an RFC 3339 time\n") from None
            argv.append(f"{flag}={when:%Y-%m-%d %H:%M:%S}")
    if text := query.get("tailLines", ""):
        if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > 100_000:
            raise Refusal(400, f"tailLines: {text!r} is not a number up to 100000\n")
        argv.append(f"--lines={int(text)}")
    if text := query.get("boot", ""):
        if not re.fullmatch(r"0|-[0-9]{1,4}", text):
            raise Refusal(400, f"boot: {text!r}: write 0 for this boot, -1 for the one before\n")
        argv.append(f"--boot={text}")
    if text := query.get("pattern", ""):
        if "\0" in text:
            raise Refusal(400, "pattern: a zero byte is in no line\n")
        argv.append(f"--grep={text}")
    for unit in query.getall("query"):
        if not _UNIT.fullmatch(unit):
            raise Refusal(400, f"query: {unit!r} is not the name of a unit\n")
        argv.append(f"--unit={unit}")
    return argv


async def _journal(request: web.Request) -> web.StreamResponse:
    """In pieces, as fast as the client takes them: a unit's whole journal may be larger than our memory."""
    command = journal_command(request.query)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_PIECE,
        )
    except OSError as error:
        raise Refusal(503, f"journalctl: {error.strerror}\n") from error
    assert process.stdout is not None
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    slow = f"journalctl gave no answer within {_QUERY_SECONDS:g} s\n"
    try:
        piece = await _piece(process.stdout)
        if piece is None:
            raise Refusal(504, slow)
        await response.prepare(request)
        while piece:
            await response.write(piece)
            piece = await _piece(process.stdout)
        if piece is None:
            await response.write(slow.encode())
        await response.write_eof()
        return response
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _piece(stream: asyncio.StreamReader) -> bytes | None:
    """Empty at the end, None when nothing came in time."""
    try:
        async with asyncio.timeout(_QUERY_SECONDS):
            return await stream.read(_PIECE)
    except TimeoutError:
        return None


async def _pieces(file: int, left: int) -> AsyncIterator[bytes]:
    """What the file held when it was opened: it may grow meanwhile."""
    while left > 0:
        piece = await asyncio.to_thread(os.read, file, min(_PIECE, left))
        if not piece:
            return
        left -= len(piece)
        yield piece
