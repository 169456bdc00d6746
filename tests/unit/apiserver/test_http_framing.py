"""Where one message on a connection ends and the next begins, in the odd cases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from apiserver.http import connection
from apiserver.http.exchange import Reply, Request, Stream
from tests.unit.apiserver.sockets import echo, get, serving


@pytest.mark.parametrize(("code", "version"), [(204, "1.1"), (304, "1.1"), (304, "1.0")])
async def test_a_stream_whose_status_has_no_body_leaves_the_connection_clean(code: int, version: str) -> None:
    async def passed_on(request: Request) -> Reply:
        async def nothing() -> AsyncIterator[bytes]:
            return
            yield b""

        return Stream(nothing(), "", code, (("Etag", "x"),)) if request.path == "/empty" else await echo(request)

    async with serving(passed_on) as world:
        line = await world.open()
        line.send(
            get("/empty", *(("Connection: keep-alive",) if version == "1.0" else ()), version=version) + get("/next")
        )
        empty = await line.response(bodiless=True)
        assert (empty.code, empty.header("etag"), empty.header("transfer-encoding")) == (code, "x", None)
        assert orjson.loads((await line.response()).body)["path"] == "/next"


CHUNKED = get("/p", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n"


async def test_trailers_are_read_and_dropped() -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(CHUNKED + b"X-Sum: 1\r\nHost: other\r\n\r\n" + get("/next"))
        assert orjson.loads((await line.response()).body)["body"] == "abc"
        assert orjson.loads((await line.response()).body)["path"] == "/next"


@pytest.mark.parametrize(
    "trailers", [b"X: y\r\n" * (connection.MAX_HEAD // 3), b"X: " + b"y" * 2 * connection.MAX_HEAD]
)
async def test_trailers_without_end_are_refused(trailers: bytes) -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(CHUNKED + trailers)
        answer = await line.response()
        assert (answer.code, answer.header("connection")) == (431, "close")
        assert "trailers" in orjson.loads(answer.body)["message"]
        assert await line.at_end()


async def test_what_a_body_is_framed_in_has_no_limit_of_its_own() -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(get("/p", "Transfer-Encoding: chunked", method="POST"))
        line.send(b"1\r\nx\r\n" * (connection.MAX_HEAD // 5) + b"0\r\n\r\n")
        assert orjson.loads((await line.response()).body)["length"] == connection.MAX_HEAD // 5
